"""Stores one checkpoint at a time beside the training, so that a slow upload does not stop it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE_SECONDS = 1.0
"""A save waits this long for its storing: a small checkpoint is then safe before training goes on,
and a large one costs a second."""


class BackgroundStore:
    """A thread that does one piece of work at a time; its error is raised in the caller's thread.

    Args:
        done: Told the seconds that a finished piece of work took.
    """

    def __init__(self, done: Callable[[float], None]) -> None:
        self._done = done
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Starts a piece of work, once the one before is done."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint-store")
        self._thread.start()
        self.wait(PATIENCE_SECONDS)

    def wait(self, seconds: float | None = None) -> None:
        """Waits for the work under way, at most so long, and raises what it raised."""
        if self._thread is not None:
            self._thread.join(seconds)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 raised again by wait()
            self._error = error
        else:
            self._done(time.monotonic() - started)
