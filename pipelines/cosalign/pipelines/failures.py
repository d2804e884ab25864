"""How a run ends other than well: a task failed, or somebody stopped it.

Apart from the walker, so that the command line can tell them from defects without importing it.
"""

from __future__ import annotations

import signal

from cosalign.domain.errors import EXIT_RETRY, EXIT_USER, CosalignError

SIGNAL_EXIT = 128
"""A process ended by signal ``n`` counts as exit code ``128 + n``, as in a shell."""


class TaskFailed(CosalignError):
    """A task of the pipeline failed; its own message or traceback stands above.

    Attributes:
        task: The task's name.
        exit_code: The exit code of its process, which becomes the run's.
    """

    def __init__(self, task: str, exit_code: int, attempts: int) -> None:
        self.task = task
        self.exit_code = exit_code
        tried = f" after {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"step {task!r} failed{tried}: {_meaning(exit_code)}")


class RunStopped(CosalignError):
    """The run was stopped by Ctrl-C or SIGTERM; ``exit_code`` is 130 or 143."""

    def __init__(self, signum: int) -> None:
        self.exit_code = SIGNAL_EXIT + signum
        name = signal.Signals(signum).name
        super().__init__(
            f"stopped by {name}; finished work is kept: run the same command again to continue"
        )


def _meaning(exit_code: int) -> str:
    if exit_code == EXIT_USER:
        return "exit code 2, its message above says what to change"
    if exit_code == EXIT_RETRY:
        return "exit code 75, something it needs did not answer; run the same command again later"
    if exit_code > SIGNAL_EXIT and exit_code - SIGNAL_EXIT in set(signal.Signals):
        name = signal.Signals(exit_code - SIGNAL_EXIT).name
        hint = " (the machine may have run out of memory)" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"exit code {exit_code}, a defect; its traceback stands above"
