"""No optimizer or checkpoint ever sees a loss or gradient that is not finite.

The decision falls where the gradient norm is known, just before the optimizer's step: if a micro
batch's loss or the norm is not finite on any rank, all ranks drop the gradients, and optimizer and
learning rate schedule stay where they are. The batch is used up: the step counts, so the order of
the data stays a function of the step, and the figures of the next steps are those of a run whose
data never held the batch. Only the end of a cosine schedule differs from such a run: its length is
counted in steps, used up or not.

Skipping is bounded. Weights that have gone wrong make every batch look bad, and that must end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from cosalign.domain.errors import UserError
from cosalign.runtime.logs import get_logger
from cosalign.training.outcome import SKIPPED
from cosalign.training.ranks import this_process
from cosalign.training.row_order import FILLER

RowObserver = Callable[[list[int]], None]
"""Called with the row numbers of every micro batch; tests compare orders with it."""


_SHOWN = 8

log = get_logger(__name__)


class FiniteSteps:
    """Mixin before a TRL trainer: skips steps that are not finite, and names their rows."""

    stage: str
    names: Sequence[str]
    observer: RowObserver | None
    max_skipped = 0
    _losses: Sequence[tuple[list[int], torch.Tensor]] = ()
    _skipped_now: list[str] | None = None

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """The trainer's loss, with the rows that it is of remembered."""
        rows: list[int] = inputs["rows"].tolist()
        if self.observer is not None:
            self.observer(rows)
        loss: torch.Tensor = super().compute_loss(  # type: ignore[misc]
            model, inputs, *args, **kwargs
        )
        self._losses = [*self._losses, (rows, loss.detach())]
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The trainer's; what it adds to the logged loss is finite, as a sum never recovers."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        return torch.where(torch.isfinite(loss), loss, torch.zeros_like(loss))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient norm; where the step is not finite, nothing is left for the optimizer."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[misc]
        losses, self._losses = self._losses, ()
        bad = [rows for rows, loss in losses if not math.isfinite(loss.item())]
        if not bad and not math.isfinite(_plain(norm)):
            bad = [rows for rows, _ in losses]
        own = [self.names[row] for rows in bad for row in rows if row != FILLER]
        found = this_process().gathered((bool(bad), own))
        skip = any(is_bad for is_bad, _ in found)
        self._hold_back(model, skip)
        if skip:
            self._skip(sorted({name for _, names in found for name in names}))
        return norm

    def _hold_back(self, model: Any, skip: bool) -> None:
        if skip:
            for parameter in model.parameters():
                parameter.grad = None
        # The mark by which accelerate tells the trainer that mixed precision overflowed; the
        # learning rate schedule then waits too.
        for optimizer in self.accelerator._optimizers:  # type: ignore[attr-defined]
            optimizer._is_overflow = skip

    def _skip(self, rows: list[str]) -> None:
        self._skipped_now = rows
        self._metrics["train"].clear()  # type: ignore[attr-defined]
        state = self.state  # type: ignore[attr-defined]
        skipped = 1 + sum(SKIPPED in entry for entry in state.log_history)
        step = state.global_step + 1
        log.warning("batch_skipped", stage=self.stage, step=step, rows=rows, skipped=skipped)
        if skipped > self.max_skipped:
            shown = ", ".join(rows[:_SHOWN])
            more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
            raise UserError(
                f"the {self.stage} loss or gradient of step {step} is not finite in rows {shown}"
                f"{more} (prompt/config), and {self.max_skipped} batches may be skipped "
                f"(training.{self.stage}.max_skipped_batches); nothing of this step was kept. "
                f"Lower training.{self.stage}.learning_rate, or look at these rows"
            )

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """The trainer's log; a skipped step has no loss, and says which rows it was for."""
        if self._skipped_now is not None and "loss" in logs:
            for name in ("loss", "grad_norm"):
                logs.pop(name, None)
            logs[SKIPPED], self._skipped_now = self._skipped_now, None
        super().log(logs, *args, **kwargs)  # type: ignore[misc]


def _plain(norm: Any) -> float:
    """A norm as a number; FSDP2 gives it as a sharded tensor."""
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
