"""Runs on this machine: ``cosalign run`` in a process of its own, followed to its end.

A process of its own because a run may be killed for want of memory, and reconcile must live to say
so; and because the walker of compiled pipelines belongs to the command line, above this layer. A
lock (``run_lock.py``) tells whether a run goes on, here or on another machine, and ``ended.json``
how it ended. A run that was cut short has neither: it is started again, and goes on where it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cosalign.domain.errors import EXIT_USER
from cosalign.domain.fingerprint import Json
from cosalign.retraining.run_lock import BEAT_SECONDS, Keep, run_lock
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
        by_hand: Always true: a run is carried out while it is started.
    """

    storage: Storage
    by_hand: bool = True

    @property
    def identity(self) -> Json:
        """The compiled pipelines."""
        return {name: version_name(name, shipped_pipeline(name)) for name in PIPELINES}

    def find(self, name: str) -> list[SubmittedRun]:
        """The run of a name, if it ended or goes on; one that was cut short is none."""
        if run_lock(self.storage, name).taken():
            return [SubmittedRun(name, "running")]
        found = self._ended(name)
        return [found] if found else []

    def start(self, order: RunOrder) -> str:
        """Carries the run out; raises ``TransientError`` where another process does already."""
        with run_lock(self.storage, order.name).held() as keep:
            # Another may have carried it out since it was looked for.
            if self._ended(order.name) is None:
                code = self._carried_out(order, keep)
                if code not in _STOPPED:
                    body = json.dumps({"exit_code": code}).encode()
                    self.storage.write_bytes(_end(order.name), body)
        return order.name

    def _carried_out(self, order: RunOrder, keep: Keep) -> int:
        with tempfile.TemporaryDirectory(prefix="cosalign-") as folder:
            config = Path(folder) / "run-config.yaml"
            config.write_bytes(read_uri(str(order.parameters["run_config_uri"])))
            command = [sys.executable, "-m", "cosalign.pipelines.command_line", "run"]
            command += ["--profile", str(config)]
            command += ["--pipeline", order.pipeline, "--run-id", order.name]
            for name, value in order.parameters.items():
                if not name.startswith("run_config_"):
                    command += ["--parameter", f"{name}={_word(value)}"]
            return _exit_code(command, keep)

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


def _exit_code(command: list[str], keep: Keep) -> int:
    """Runs a command to its end; one whose lock was lost, or whose starter is stopped, is ended."""
    with subprocess.Popen(command) as process:  # noqa: S603  our own command
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(BEAT_SECONDS)
                keep()
        except BaseException:
            process.kill()
            raise


def _end(name: str) -> str:
    return f"runs/{name}/ended.json"


def _word(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)
