"""Runs on this machine: ``cosalign run`` in a process of its own, followed to its end.

A process of its own because a run may be killed for want of memory, and reconcile must live to say
so; and because the walker of compiled pipelines belongs to the command line, above this layer. A
lock that the kernel frees with the process tells whether a run goes on, and ``ended.json`` how it
ended. A run that was cut short has none: it is started again, and goes on where it was.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cosalign.domain.errors import EXIT_USER, TransientError
from cosalign.domain.fingerprint import Json
from cosalign.retraining.shipped_pipelines import PIPELINES, shipped_pipeline
from cosalign.retraining.submission import version_name
from cosalign.retraining.submitters import RunOrder, SubmittedRun
from cosalign.store.storage import Storage, read_uri

_STOPPED = {130, 143, -2, -15}
"""Exit codes of a run that somebody stopped, by Ctrl-C or SIGTERM: it is to go on."""


@dataclass(frozen=True)
class LocalSubmitter:
    """This machine as a submitter.

    Attributes:
        storage: The storage root.
        cache: A local folder for locks.
        by_hand: Always true: a run is carried out while it is started.
    """

    storage: Storage
    cache: Path
    by_hand: bool = True

    @property
    def identity(self) -> Json:
        """The compiled pipelines."""
        return {name: version_name(name, shipped_pipeline(name)) for name in PIPELINES}

    def find(self, name: str) -> list[SubmittedRun]:
        """The run of a name, if it ended or goes on; one that was cut short is none."""
        with self._lock(name, fcntl.LOCK_SH) as free:
            if not free:
                return [SubmittedRun(name, "running")]
        found = self._ended(name)
        return [found] if found else []

    def start(self, order: RunOrder) -> str:
        """Carries the run out; raises ``TransientError`` where another process does already."""
        with self._lock(order.name, fcntl.LOCK_EX) as free:
            if not free:
                raise TransientError(f"run {order.name} is carried out by another process")
            code = self._carried_out(order)
            if code not in _STOPPED:
                body = json.dumps({"exit_code": code}).encode()
                self.storage.write_bytes(_end(order.name), body)
        return order.name

    def _carried_out(self, order: RunOrder) -> int:
        with tempfile.TemporaryDirectory(prefix="cosalign-") as folder:
            config = Path(folder) / "run-config.yaml"
            config.write_bytes(read_uri(str(order.parameters["run_config_uri"])))
            command = [sys.executable, "-m", "cosalign.pipelines.command_line", "run"]
            command += ["--profile", str(config)]
            command += ["--pipeline", order.pipeline, "--run-id", order.name]
            for name, value in order.parameters.items():
                if not name.startswith("run_config_"):
                    command += ["--parameter", f"{name}={_word(value)}"]
            return subprocess.run(command, check=False).returncode  # noqa: S603  our own command

    def look(self, run_id: str) -> SubmittedRun | None:
        """See :meth:`find`."""
        return next(iter(self.find(run_id)), None)

    def cancel(self, run_id: str) -> None:
        """Does nothing: of one name one process runs at a time."""

    def _ended(self, name: str) -> SubmittedRun | None:
        if self.storage.stat(_end(name)) is None:
            return None
        code: int = json.loads(self.storage.read_bytes(_end(name)))["exit_code"]
        if code == 0:
            return SubmittedRun(name, "succeeded")
        says = f"exit code {code}; runs/{name}/summary.json says which step, the terminal why"
        return SubmittedRun(name, "failed", says, wrong=code == EXIT_USER)

    @contextmanager
    def _lock(self, name: str, kind: int) -> Iterator[bool]:
        """Holds a run's lock, alone or with others; gives whether it could be had."""
        folder = self.cache / "run-locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("a") as file:
            yield _taken(file, kind)


def _taken(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(name: str) -> str:
    return f"runs/{name}/ended.json"


def _word(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)
