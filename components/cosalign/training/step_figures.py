"""What a step took: tokens a second, padding, MFU, memory, and when the stage should end.

Tokens are counted from the batches themselves and summed over all ranks. Model FLOPs follow the
planner's formulas (:mod:`cosalign.training.model_shape`): three forward passes' work a step, or two
where most weights are frozen (their gradients are not computed); recomputed activations are no work
(Chowdhery et al., arXiv 2204.02311, appendix B). Where the peak of the hardware is not known,
as on any CPU, MFU is null.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from cosalign.domain.errors import ModelError
from cosalign.training.device_peak import peak_tflops
from cosalign.training.model_shape import ModelShape, read_model_shape
from cosalign.training.planner import GIB
from cosalign.training.ranks import this_process
from cosalign.training.row_order import FILLER

_TRAINED_WHOLE = 0.5


class StepFigures:
    """Measures the steps of one stage on this rank.

    Args:
        shape: The model; ``None`` where its config names no sizes that formulas are known for.
        passes: Forward passes that a step's FLOPs amount to.
        peak_tflops: Peak of one device in the precision trained in; ``None`` where unknown.
        now: A monotonic clock in seconds.
    """

    def __init__(
        self,
        shape: ModelShape | None,
        passes: int,
        peak_tflops: float | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shape = shape
        self._passes = passes
        self._peak = peak_tflops
        self._now = now
        self._sizes: list[tuple[int, int]] = []
        self._sums: list[torch.Tensor] = []
        self._began = self._mark = now()
        self._first_step: int | None = None

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Counts a micro batch; nothing is moved off the device yet."""
        self._sizes.append((batch["input_ids"].numel(), len(batch["answer_at"])))
        # Packed rows hold no padding; what is computed for nothing is rows that only fill up.
        real = (batch["rows"] != FILLER)[batch["example"].long()].sum()
        self._sums.append(torch.stack([real, batch["position_ids"].sum()]))

    def begin(self, step: int) -> None:
        """Training begins after so many steps."""
        self._began = self._mark = self._now()
        self._first_step = step

    def resumed(self) -> None:
        """Something beside training is over; a step starts now."""
        self._mark = self._now()

    def of_step(self, step: int, last_step: int) -> dict[str, float | str | None]:
        """The figures of the step that has just ended; every rank must call it."""
        now = self._now()
        seconds, self._mark = now - self._mark, now
        ranks = this_process()
        told = ranks.gathered((self._counted(), memory_bytes()))
        tokens, scored, real, positions = map(
            sum, zip(*(counts for counts, _ in told), strict=True)
        )
        return {
            "seconds": round(seconds, 4),
            "tokens": int(tokens),
            "tokens_per_second": round(tokens / seconds, 1) if seconds > 0 else None,
            "padding_share": round(1 - real / tokens, 4) if tokens else None,
            "mfu": self._mfu(tokens, scored, positions, seconds, ranks.world),
            "memory_gib": round(max(memory for _, memory in told) / GIB, 3),
            "estimated_end": self._estimated_end(now, step, last_step),
        }

    def _counted(self) -> list[float]:
        """This rank's tokens, scored tokens, real tokens and sum of positions since last asked."""
        sizes, self._sizes = self._sizes, []
        sums, self._sums = self._sums, []
        if not sizes:
            return [0.0] * 4
        tokens, scored = map(sum, zip(*sizes, strict=True))
        return [tokens, scored, *torch.stack(sums).sum(0).tolist()]

    def _mfu(
        self, tokens: float, scored: float, positions: float, seconds: float, ranks: int
    ) -> float | None:
        """Model FLOPs a second as a share of the peak, 0 to 1."""
        if self._shape is None or self._peak is None or not tokens or seconds <= 0:
            return None
        # A token at position p attends to p + 1 keys: half the length that the formula takes.
        length = 2 * positions / tokens + 1
        flops = self._passes * self._shape.forward_flops(tokens, scored, length)
        return round(flops / seconds / (ranks * self._peak * 1e12), 4)

    def _estimated_end(self, now: float, step: int, last_step: int) -> str | None:
        """By the mean of all steps of this process, with its saves and evaluations; UTC."""
        done = step - (self._first_step or 0)
        if done <= 0:
            return None
        left = timedelta(seconds=(now - self._began) / done * (last_step - step))
        return (datetime.now(UTC) + left).isoformat(timespec="seconds")


def step_figures(folder: Path, model: Any, half: bool) -> StepFigures:
    """Figures for a model on this machine.

    Args:
        folder: The model's folder.
        model: The model itself, whose frozen weights are counted.
        half: Whether it computes in bf16, which is what the peaks are of.
    """
    try:
        shape = read_model_shape(folder)
    except ModelError:
        shape = None
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, trains in sizes if trains)
    whole = trained > _TRAINED_WHOLE * sum(size for size, _ in sizes)
    peak = None
    if half and torch.cuda.is_available():
        peak = peak_tflops(torch.cuda.get_device_name())
    return StepFigures(shape, 3 if whole else 2, peak)


def memory_bytes() -> float:
    """The most memory this process has held: on its GPU, or else resident (``ru_maxrss``)."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
