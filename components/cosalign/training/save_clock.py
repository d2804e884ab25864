"""When a checkpoint is due by time, and whether one still fits before a kill.

A save has two parts. Writing stops the training; storing (digests, upload) runs beside it. Work is
safe once it is stored, so a save must start early enough: what has been done since the last stored
state, the step under way, the writing and the storing together may not exceed the minutes that the
recipe is ready to lose. Two bounds come first, lest saving eat the training: one checkpoint is
stored at a time, and writing takes at most a tenth of the time. Where they make the minutes
unreachable, that is said once, with the figures.

Times come from rank 0's clock alone; see :mod:`cosalign.training.ranks`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from cosalign.runtime.logs import get_logger

WRITING_SHARE = 0.1
"""Share of the time that writing checkpoints by time may take."""

_STEPS = 32

log = get_logger(__name__)


class SaveClock:
    """Measures steps and saves, and says when the next save is due.

    Args:
        minutes: Minutes of work that may be lost; no save is due by time where ``None``.
        planned_seconds: What a whole save is taken to last until one was measured.
        now: A monotonic clock in seconds.
    """

    def __init__(
        self,
        minutes: float | None,
        planned_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = None if minutes is None else 60 * minutes
        self._planned = planned_seconds
        self._now = now
        self._snapshot = self._written = self._step_ended = now()
        self._write_seconds = 0.0
        self._store_seconds: float | None = None
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._said = False

    @property
    def save_seconds(self) -> float:
        """What a whole save takes: as measured, or as planned before the first."""
        if self._store_seconds is None:
            return self._planned
        return self._write_seconds + self._store_seconds

    @property
    def seconds_to_safety(self) -> float:
        """From now to a stored checkpoint: a step (the longest of late), writing, storing."""
        return max(self._steps, default=0.0) + self.save_seconds

    def step_ended(self) -> None:
        """A step is done."""
        now = self._now()
        self._steps.append(now - self._step_ended)
        self._step_ended = now

    def resumed(self) -> None:
        """Something beside training (an evaluation, a save) is over; a step starts now."""
        self._step_ended = self._now()

    def written(self) -> None:
        """A checkpoint of the last step's state lies on the disk."""
        self._snapshot, self._written = self._step_ended, self._now()
        self._write_seconds = self._written - self._snapshot

    def stored(self, seconds: float) -> None:
        """A checkpoint was stored, in so many seconds beside the training."""
        self._store_seconds = seconds

    def due(self, storing: bool) -> bool:
        """Whether to save now.

        Args:
            storing: A checkpoint is still being stored.
        """
        if self._limit is None:
            return False
        now = self._now()
        if now - self._snapshot + self.seconds_to_safety < self._limit:
            return False
        rested = now - self._written >= self._write_seconds * (1 / WRITING_SHARE - 1)
        if storing or not rested:
            self._say_unreachable()
            return False
        return True

    def _say_unreachable(self) -> None:
        if not self._said and self._limit is not None:
            self._said = True
            log.warning(
                "save_minutes_unreachable",
                save_minutes=self._limit / 60,
                seconds_to_write=round(self._write_seconds, 1),
                seconds_to_store=round(self._store_seconds or self._planned, 1),
                seconds_a_step=round(max(self._steps, default=0.0), 1),
            )
