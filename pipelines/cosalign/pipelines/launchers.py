"""Who executes one task's command: here, a child process that cannot outlive the run.

Behind a Protocol, so that a driver in a cluster can make a Kubernetes Job of the same launch. The
child gets its own process group: engines start processes of their own, and all of them must end
when the run is stopped.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

from cosalign.domain.errors import UserError
from cosalign.domain.fingerprint import Json
from cosalign.pipelines.failures import SIGNAL_EXIT, RunStopped
from cosalign.pipelines.ir import Container

GRACE_SECONDS = 20.0
"""Time that a stopped task has to end before it is killed."""

GENTLE_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""Threads that wait without spinning: on a machine that does other things too, spinning ones have
been seen to slow torch down tenfold. What the user's environment says counts instead."""

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Launch:
    """One attempt at a task, all placeholders replaced.

    Attributes:
        task: The task's name; in a loop, with the iteration.
        command: What to execute, arguments included.
        container: Environment, resources and platform settings, as the pipeline has them.
        image: The image, resolved.
        given: The task's executor input, by KFP's contract; whoever stands in for KFP's launcher
            reads from it which artifacts to fetch and to store. Resources refer to its parameters.
        scope: The inputs of the group around the task, to which platform settings refer.
    """

    task: str
    command: tuple[str, ...]
    container: Container
    image: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    scope: Mapping[str, Json] = field(default_factory=dict)


class TaskLauncher(Protocol):
    """Executes launches."""

    def launch(self, launch: Launch) -> int:
        """Runs to the end and gives the exit code; ``128 + n`` where signal ``n`` ended it.

        Raises:
            RunStopped: The run was stopped; the task has ended.
            UserError: The command cannot be started at all.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Waits between attempts. Raises ``RunStopped`` when the run is stopped meanwhile."""
        ...


class SubprocessLauncher:
    """Runs each task as a child process with the current interpreter's folder first in PATH.

    A context manager: inside it, SIGINT and SIGTERM stop the run. Images and resources mean nothing
    here and are not looked at.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._stopped_by: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]  # what signal() gave us
        self._previous = {}

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Only noted: an exception raised here could strike between fork and bookkeeping and leave
        # the child behind.
        self._stopped_by = signum

    def launch(self, launch: Launch) -> int:
        """Runs the command, its output streaming through."""
        self._raise_if_stopped()
        process = self._start(launch)
        while True:
            with suppress(subprocess.TimeoutExpired):
                return _exit_code(process.wait(_POLL_SECONDS))
            if self._stopped_by is not None:
                self._end(process)
                self._raise_if_stopped()

    def pause(self, seconds: float) -> None:
        """Sleeps in small steps, so that a stop is noticed."""
        end = time.monotonic() + seconds
        self._raise_if_stopped()
        while time.monotonic() < end:
            time.sleep(min(_POLL_SECONDS, max(0.0, end - time.monotonic())))
            self._raise_if_stopped()

    def _start(self, launch: Launch) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(  # noqa: S603  # the pipeline's own command, no shell
                launch.command,
                env=_environment(launch.container.env),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509  # takes no lock
            )
        except (OSError, ValueError) as problem:
            raise UserError(
                f"task {launch.task!r}: cannot start {launch.command[0]!r}: {problem}"
            ) from None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(self._grace_seconds)
        # The leader may be gone while processes it started are not.
        _signal_group(process, signal.SIGKILL)
        process.wait()

    def _raise_if_stopped(self) -> None:
        if self._stopped_by is not None:
            raise RunStopped(self._stopped_by)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The child's environment; ``python`` in a pipeline is this very interpreter."""
    # Not resolved: the symbolic link is what makes a virtual environment's interpreter.
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join([here, os.environ.get("PATH", "")])
    return {**GENTLE_THREADS, **os.environ, **extra, "PATH": path}


def _die_with(parent: int) -> Callable[[], None] | None:
    """Ends the child when the run is killed without a chance to end it itself (Linux only).

    Otherwise an orphan would go on writing while the user has started the run again.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(SIGNAL_EXIT + signal.SIGTERM)

    return in_child


def _signal_group(process: subprocess.Popen[bytes], signum: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def _exit_code(returncode: int) -> int:
    return returncode if returncode >= 0 else SIGNAL_EXIT - returncode
