"""SIGTERM: save first where it fits the grace period, else end at once and say so.

A cluster that takes a node back sends SIGTERM and, some seconds later, SIGKILL. A checkpoint of an
8B model in fp32 is 64 GB: whether that can be stored in time depends on disk and network. So the
needed seconds are known before the signal comes, measured where a save was made and planned where
not (:mod:`cosalign.training.save_clock`), and what does not fit is not begun.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from cosalign.domain.errors import TransientError


class Preempted(TransientError):
    """The process was asked to end; started again, it goes on from the last checkpoint."""


class SigtermWatch:
    """Notes SIGTERM while a stage trains; a context manager.

    Only a process's main thread can have handlers; elsewhere nothing is watched.

    Args:
        grace_seconds: Time between SIGTERM and SIGKILL.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace = grace_seconds
        self._previous: Any = None
        self._watching = threading.current_thread() is threading.main_thread()
        self.needed_seconds = 0.0
        self.asked = False

    def __enter__(self) -> Self:
        if self._watching:
            self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._watching:
            signal.signal(signal.SIGTERM, self._previous)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        # Nothing is logged here: the signal may have come in the middle of a log line.
        self.asked = True
        if self.needed_seconds > self._grace:
            raise Preempted(
                f"SIGTERM: a checkpoint would take about {self.needed_seconds:.0f} s and the grace "
                f"period is {self._grace:.0f} s (training.grace_seconds), so none is begun; "
                "started again, training goes on from the last one"
            )
