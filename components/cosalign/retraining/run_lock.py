"""One process a run, wherever runs of one storage root are carried out by hand.

In a folder it is a lock file beside the run, which the kernel frees with its process, whatever
cache or container that had. ``gs://`` has no such thing, so there it is a *pulse*: an object that
is written anew as long as the run goes on. One that was not for a while, by the storage's clock, is
of a process that died, or of a machine that sleeps; whoever takes it over is noticed by its writes.
"""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cosalign.domain.errors import StorageUnavailable, TransientError
from cosalign.runtime.logs import get_logger
from cosalign.store.storage import GenerationMismatch, ObjectStat, Storage
from cosalign.store.storage_clock import storage_time

log = get_logger(__name__)
BEAT_SECONDS = 30.0
"""How often a lock has to be kept while a run goes on."""
LEFT_SECONDS = 120.0
"""After which a pulse counts as left behind."""

Keep = Callable[[], None]
"""Is called every :data:`BEAT_SECONDS`; raises ``GenerationMismatch`` where the lock was lost."""


class RunLock(Protocol):
    """Held by the process that carries a run out."""

    def taken(self) -> bool:
        """Whether a process holds it."""
        ...

    def held(self) -> AbstractContextManager[Keep]:
        """Holds it for a block, which is given what keeps it.

        Raises:
            TransientError: Another process holds it.
        """
        ...


def run_lock(storage: Storage, name: str) -> RunLock:
    """The lock of a run.

    Args:
        storage: The storage root.
        name: The run's name.
    """
    # Hidden from listings of the folder, as the folder's own locks are.
    file = storage.local_path(f"runs/{name}/.lock-run")
    return FileLock(name, file) if file is not None else Pulse(storage, name)


@dataclass(frozen=True)
class FileLock:
    """A lock that the kernel keeps; see :class:`RunLock`."""

    name: str
    file: Path

    def taken(self) -> bool:
        """See :class:`RunLock`."""
        with self._locked(fcntl.LOCK_SH) as free:
            return not free

    @contextmanager
    def held(self) -> Iterator[Keep]:
        """See :class:`RunLock`."""
        with self._locked(fcntl.LOCK_EX) as free:
            if not free:
                raise _taken(self.name)
            yield lambda: None

    @contextmanager
    def _locked(self, kind: int) -> Iterator[bool]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a+") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


@dataclass
class Pulse:
    """An object that is written as long as a run goes on; see :class:`RunLock`."""

    storage: Storage
    name: str
    _nonce: bytes = field(default_factory=lambda: secrets.token_hex(8).encode(), init=False)
    _generation: int | None = field(default=None, init=False)

    @property
    def path(self) -> str:
        """Where it is written."""
        return f"runs/{self.name}/pulse"

    def taken(self) -> bool:
        """See :class:`RunLock`."""
        return self._beats(self.storage.stat(self.path))

    @contextmanager
    def held(self) -> Iterator[Keep]:
        """See :class:`RunLock`."""
        before = self.storage.stat(self.path)
        if self._beats(before):
            raise _taken(self.name)
        self._generation = before.generation if before is not None else 0
        self._write()
        try:
            yield self._keep
        finally:
            if self._generation is not None:
                self.storage.delete(self.path)

    def _beats(self, last: ObjectStat | None) -> bool:
        if last is None:
            return False
        return storage_time(self.storage, f"runs/{self.name}/clock") - last.updated < LEFT_SECONDS

    def _keep(self) -> None:
        try:
            self._write()
        except GenerationMismatch:
            self._generation = self._own_generation()
            if self._generation is None:
                raise
        except StorageUnavailable as problem:
            # The next beat may come through, in time.
            log.warning("pulse_not_written", run=self.name, why=str(problem))

    def _write(self) -> None:
        self._generation = self.storage.write_bytes(
            self.path, self._nonce, if_generation=self._generation
        )

    def _own_generation(self) -> int | None:
        """That of our own write whose answer was lost; ``None`` where it is another's by now."""
        stat = self.storage.stat(self.path)
        ours = stat is not None and self.storage.read_bytes(self.path) == self._nonce
        return stat.generation if stat is not None and ours else None


def _taken(name: str) -> TransientError:
    return TransientError(f"run {name} is carried out by another process")
