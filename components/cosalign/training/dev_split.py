"""Loss on the development split, exactly: sums over all rows and ranks, divided once.

The trainer's own evaluation averages micro batches of unlike size and asks a data loader for them,
which draws random numbers. Here batches come in a fixed order, each rank takes every so many-th,
and a rank with none left repeats one that counts nothing, since every rank must take part in each
forward pass of a sharded model.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from cosalign.training.outcome import DEV_LOSS
from cosalign.training.ranks import this_process


class DevSplit(ABC):
    """Mixin before a TRL trainer: what ``evaluate`` measures.

    A trainer gives ``dev_names``, and :meth:`dev_sums`, whose first value is the weight that the
    others are divided by in the end.
    """

    dev_names: Sequence[str] = ()
    dev_rows: Sequence[dict[str, Any]] = ()

    @abstractmethod
    def dev_sums(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The weight of a micro batch, and its sums of :attr:`dev_names`."""

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measures the split, logs the figures and tells the callbacks."""
        trainer: Any = self
        model = trainer.model_wrapped
        model.eval()
        sums = torch.zeros(1 + len(self.dev_names), dtype=torch.float64)
        with torch.no_grad():
            for batch, counts in self._own_batches():
                with trainer.compute_loss_context_manager():
                    found = self.dev_sums(model, trainer._prepare_inputs(batch))
                if counts:
                    sums += found.double().cpu()
        shares = this_process().gathered(sums.tolist())
        weight, *totals = map(sum, zip(*shares, strict=True))
        figures = {f"eval_{n}": t / weight for n, t in zip(self.dev_names, totals, strict=True)}
        trainer.log({name: value for name, value in figures.items() if math.isfinite(value)})
        trainer.control = trainer.callback_handler.on_evaluate(
            trainer.args, trainer.state, trainer.control, figures
        )
        model.train()
        return figures

    def _own_batches(self) -> Iterator[tuple[dict[str, torch.Tensor], bool]]:
        """This rank's micro batches, each with whether it counts."""
        trainer: Any = self
        size = trainer.args.per_device_train_batch_size
        starts = range(0, len(self.dev_rows), size)
        ranks = this_process()
        for place in range(0, len(starts), ranks.world):
            counts = place + ranks.rank < len(starts)
            start = starts[place + ranks.rank] if counts else 0
            yield trainer.data_collator(list(self.dev_rows[start : start + size])), counts


def measurement_is_owed(args: Any, state: Any) -> bool:
    """Whether the last step was to be measured and was not, since training was asked to end.

    Args:
        args: The ``TrainingArguments``.
        state: A ``TrainerState``.
    """
    step = state.global_step
    if args.eval_strategy == "no" or not step:
        return False
    due = step % args.eval_steps == 0 or step >= state.max_steps
    return due and not any(DEV_LOSS in e and e["step"] == step for e in state.log_history)


class OwedMeasurement(TrainerCallback):  # type: ignore[misc]
    """Measures, before a resumed training goes on, what the process before left for it.

    Nothing is saved: the weights are those of the checkpoint, and the next one names the best.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measures as after a step."""
        if measurement_is_owed(args, state):
            figures = self._trainer.evaluate()
            self._trainer._determine_best_metric(figures, trial=None)
            control.should_save = False
