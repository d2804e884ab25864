"""Direct preference optimisation, on TRL's DPOTrainer, from the SFT model as reference.

Three things of TRL 1.16 are replaced, by overriding the methods that do them (private ones, and TRL
is pinned for that). It tokenises by the chat template: rows come with ids here, so that training
sees the ids of inference. It computes both answers with their context apart: packed rows compute a
context once. And it computes reference log-probabilities anew for every run, with a second model on
every rank under FSDP: they come from a ledger, as two columns.

Where ``max_steps`` ends before every row is seen, a seeded choice of rows is taken, so that no
reference is computed for rows that are never reached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import trl
from datasets import Dataset

from cosalign.training.answer_log_probs import add_answer_head, answer_log_probs, per_answer
from cosalign.training.encode import CONTEXT, DPO_ANSWERS
from cosalign.training.finite_steps import RowObserver
from cosalign.training.packing import PackedCollator
from cosalign.training.preference_loss import PairLogProbs, PreferenceLoss
from cosalign.training.reference import REFERENCES
from cosalign.training.row_order import FILLER
from cosalign.training.trainers import (
    common_arguments,
    filled_dataset,
    load_processing_class,
)
from cosalign.training.watched_trainer import WatchedTrainer
from cosalign.training.whole_model import adapter_config, load_weights
from cosalign.training.world import keep_sums_exact, stay_on_one_device

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cosalign.domain.run_config import TrainingGroup
    from cosalign.training.encode import Rows


class PackedDpo(trl.DPOTrainer):  # type: ignore[misc]
    """TRL's trainer on packed pairs of token ids, with references that come as columns."""

    preference_loss: PreferenceLoss
    _building = True

    @property
    def is_fsdp_enabled(self) -> bool:
        """False while the trainer is made: TRL would load a reference model for every rank."""
        return bool(self._fsdp) and not self._building

    @is_fsdp_enabled.setter
    def is_fsdp_enabled(self, value: bool) -> None:
        self._fsdp = value

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean loss of the pairs of the step, on all ranks."""
        pairs, likeliest = _pair_log_probs(model, inputs)
        weights = self.counted(inputs)
        wanted = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = (self.preference_loss(pairs) * weights).sum() / wanted
        if num_items_in_batch is not None:
            # The count is of all ranks, and gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        self._watch(pairs, likeliest, weights, inputs["answer"])
        return (loss, {}) if return_outputs else loss

    def counted(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Weights of the pairs (B,): one, or zero where the row only fills up."""
        weights: torch.Tensor = (inputs["rows"] != FILLER).float()
        return weights

    @torch.no_grad()
    def _watch(
        self,
        pairs: PairLogProbs,
        likeliest: torch.Tensor,
        weights: torch.Tensor,
        answer: torch.Tensor,
    ) -> None:
        chosen, rejected = self.preference_loss.rewards(pairs)
        is_chosen = answer % len(DPO_ANSWERS) == 0
        figures = {
            "rewards/chosen": (chosen, weights),
            "rewards/rejected": (rejected, weights),
            "rewards/margins": (chosen - rejected, weights),
            "rewards/accuracies": ((chosen > rejected).float(), weights),
            "mean_token_accuracy": (
                likeliest.float(),
                weights[answer // len(DPO_ANSWERS)] * is_chosen,
            ),
        }
        mode = "train" if self.model.training else "eval"
        sums = torch.stack([torch.stack([(v * w).sum(), w.sum()]) for v, w in figures.values()])
        for name, (total, count) in zip(
            figures, self.accelerator.gather(sums[None]).sum(0).tolist(), strict=True
        ):
            self._metrics[mode][name].append(total / max(count, 1))


def _pair_log_probs(model: Any, inputs: dict[str, Any]) -> tuple[PairLogProbs, torch.Tensor]:
    log_probs, likeliest = answer_log_probs(model, inputs)
    pairs, answer = len(inputs["rows"]), inputs["answer"]
    by_pair = per_answer(log_probs, answer, 2 * pairs).view(pairs, len(DPO_ANSWERS))
    tokens = per_answer(torch.ones_like(log_probs), answer, 2 * pairs).view(by_pair.shape)
    chosen, rejected = (inputs[name] for name in REFERENCES)
    return PairLogProbs(by_pair[:, 0], by_pair[:, 1], chosen, rejected, tokens[:, 0]), likeliest


class DpoTrainer(WatchedTrainer, PackedDpo):
    """Packed pairs, with names."""

    dev_names = ("loss", "rewards/accuracies", "rewards/margins")

    def dev_sums(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Pairs, their losses, how many are ranked rightly, and their margins."""
        pairs, _ = _pair_log_probs(model, inputs)
        chosen, rejected = self.preference_loss.rewards(pairs)
        losses = self.preference_loss(pairs)
        figures = (torch.ones_like(losses), losses, (chosen > rejected).float(), chosen - rejected)
        return torch.stack([figure.sum() for figure in figures])


def dpo_trainer(
    model: Path,
    rows: Rows,
    group: TrainingGroup,
    folder: Path,
    observer: RowObserver | None,
    dev: Rows | None = None,
) -> Any:
    """A trainer that is ready to train.

    Args:
        model: Folder of the SFT model.
        rows: Encoded by :func:`cosalign.training.encode.encode_dpo`, with the columns of
            :meth:`cosalign.training.reference.ReferencePass.completed`.
        group: The run's training settings.
        folder: Where checkpoints are written.
        observer: Told the rows of every micro batch.
        dev: Rows of the development split, encoded likewise; measured every ``eval_steps``.
    """
    arguments = trl.DPOConfig(
        **common_arguments(group, group.dpo, folder, dev is not None),
        beta=group.dpo.beta,
        loss_type=["sigmoid"],
        precompute_ref_log_probs=True,
        disable_dropout=True,
    )
    keep_sums_exact(arguments)
    stay_on_one_device(arguments)
    weights = load_weights(model)
    trainer = DpoTrainer(
        model=weights,
        args=arguments,
        train_dataset=filled_dataset(rows, group.dpo),
        eval_dataset=None if dev is None else Dataset(dev.table),
        data_collator=PackedCollator(CONTEXT, DPO_ANSWERS, REFERENCES),
        processing_class=load_processing_class(model),
        peft_config=adapter_config(group.lora),
    )
    trainer._building = False
    trainer.preference_loss = PreferenceLoss(
        group.dpo.beta, group.dpo.label_smoothing, group.dpo.sft_weight
    )
    add_answer_head(weights)
    trainer.attach("dpo", rows, observer)
    trainer.watch(group, group.dpo, model, dev)
    return trainer


def reached(table: pa.Table, max_steps: int | None, batch_size: int, seed: int) -> pa.Table:
    """As many rows, at random, as the steps take; all where there is no limit or it is beyond."""
    wanted = (max_steps or table.num_rows) * batch_size
    if wanted >= table.num_rows:
        return table
    order = np.random.default_rng(seed).permutation(table.num_rows)
    return table.take(np.sort(order[:wanted]))
