"""Progress of long work as log lines: done, total, rate and estimated time left.

Lines and not a bar, because most runs are read in a pod's log. The first line comes at once, the
next ones every :data:`INTERVAL_SECONDS`, the last when the work ends.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

INTERVAL_SECONDS = 10.0


class Progress:
    """Counts finished items of one piece of work.

    Args:
        log: The caller's logger.
        work: What is done ("generate").
        total: Items in all.
        interval: Seconds between lines.
    """

    def __init__(self, log: Any, work: str, total: int, interval: float = INTERVAL_SECONDS) -> None:
        self._log = log
        self._work = work
        self._total = total
        self._interval = interval
        self._done = 0
        self._started = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        self._say("started")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._say("stopped" if error else "finished")

    @property
    def done(self) -> int:
        """Items finished so far."""
        return self._done

    def advance(self, items: int = 1) -> None:
        """Counts items as finished, and says so if it is time."""
        self._done += items
        if time.monotonic() - self._spoke >= self._interval:
            self._say("running")

    def _say(self, state: str) -> None:
        self._spoke = time.monotonic()
        seconds = self._spoke - self._started
        rate = self._done / seconds if seconds > 0 else 0.0
        left = (self._total - self._done) / rate if rate > 0 else None
        self._log.info(
            "progress",
            work=self._work,
            state=state,
            done=self._done,
            total=self._total,
            per_second=round(rate, 2),
            seconds_left=round(left, 1) if left is not None and state == "running" else None,
            seconds=round(seconds, 1),
        )
