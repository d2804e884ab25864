"""Supervised fine-tuning on the best response of each (config, prompt), on TRL's SFTTrainer.

What is replaced is the batch and the loss: micro batches are packed rows without padding, and only
answer tokens reach the output layer. The loss is TRL's: the mean over all answer tokens of an
optimizer step, over all processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import trl
from datasets import Dataset

from cosalign.training.answer_log_probs import add_answer_head, answer_log_probs
from cosalign.training.encode import CONTEXT, SFT_ANSWERS
from cosalign.training.finite_steps import RowObserver
from cosalign.training.packing import PackedCollator
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

    from cosalign.domain.run_config import TrainingGroup
    from cosalign.training.encode import Rows


class PackedSft(trl.SFTTrainer):  # type: ignore[misc]
    """TRL's trainer on packed rows of token ids."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean negative log-probability of the answer tokens of the step, on all ranks."""
        log_probs, likeliest = answer_log_probs(model, inputs)
        weights = self.counted(inputs)
        tokens = weights.sum() if num_items_in_batch is None else num_items_in_batch
        loss = -(log_probs * weights).sum() / tokens
        if num_items_in_batch is not None:
            # The count is of all ranks, and gradients are averaged over them.
            loss = loss * self.accelerator.num_processes
        mode = "train" if self.model.training else "eval"
        right = torch.stack([(likeliest * weights).sum(), weights.sum()])
        right, scored = self.accelerator.gather(right[None]).sum(0).tolist()
        self._metrics[mode]["mean_token_accuracy"].append(right / max(scored, 1))
        return (loss, {}) if return_outputs else loss

    def counted(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Weights of the answer tokens (N,): one, or zero where the row only fills up."""
        weights: torch.Tensor = (inputs["rows"] != FILLER)[inputs["answer"]].float()
        return weights


class SftTrainer(WatchedTrainer, PackedSft):
    """Packed rows, with names."""

    dev_names = ("loss", "mean_token_accuracy")

    def dev_sums(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Answer tokens, their negative log-probabilities, and how many were the likeliest."""
        log_probs, likeliest = answer_log_probs(model, inputs)
        tokens = log_probs.new_tensor(len(log_probs))
        return torch.stack([tokens, -log_probs.sum(), likeliest.sum().to(tokens)])


def sft_trainer(
    model: Path,
    rows: Rows,
    group: TrainingGroup,
    folder: Path,
    observer: RowObserver | None,
    dev: Rows | None = None,
) -> Any:
    """A trainer that is ready to train.

    Args:
        model: Folder of the model to start from.
        rows: Encoded by :func:`cosalign.training.encode.encode_sft`.
        group: The run's training settings.
        folder: Where checkpoints are written.
        observer: Told the rows of every micro batch.
        dev: Rows of the development split, encoded likewise; measured every ``eval_steps``.
    """
    arguments = trl.SFTConfig(**common_arguments(group, group.sft, folder, dev is not None))
    keep_sums_exact(arguments)
    stay_on_one_device(arguments)
    weights = load_weights(model)
    trainer = SftTrainer(
        model=weights,
        args=arguments,
        train_dataset=filled_dataset(rows, group.sft),
        eval_dataset=None if dev is None else Dataset(dev.table),
        data_collator=PackedCollator(CONTEXT, SFT_ANSWERS),
        processing_class=load_processing_class(model),
        peft_config=adapter_config(group.lora),
    )
    add_answer_head(weights)
    trainer.attach("sft", rows, observer)
    trainer.watch(group, group.sft, model, dev)
    return trainer
