"""Executes a compiled pipeline on this machine, task by task, and nothing but what it says.

One task at a time: the tasks are fat and would fight for the same cores or GPU. Finished work is
not remembered here: each step knows from storage that it has nothing to do.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cosalign.domain.errors import EXIT_RETRY, StorageError
from cosalign.domain.fingerprint import Json
from cosalign.pipelines.failures import TaskFailed
from cosalign.pipelines.ir import Pipeline, Task
from cosalign.pipelines.launchers import Launch, TaskLauncher
from cosalign.pipelines.resolution import (
    RunNames,
    TaskOutputs,
    TaskPlaces,
    collect_outputs,
    executor_input,
    resolve_command,
    run_parameters,
)
from cosalign.runtime.logs import get_logger
from cosalign.runtime.step import REUSED

log = get_logger(__name__)


@dataclass(frozen=True)
class TaskReport:
    """How one task went; ``outputs`` is ``None`` where it failed."""

    task: str
    seconds: float
    exit_code: int
    attempts: int
    outputs: TaskOutputs | None

    @property
    def reused(self) -> bool:
        """Whether the step found its work already done."""
        found = self.outputs.artifacts.values() if self.outputs else ()
        return any(artifact.metadata.get(REUSED) is True for artifact in found)


@dataclass(frozen=True)
class LocalRun:
    """One run of a pipeline on this machine.

    Attributes:
        pipeline: What to run.
        run_id: The run's name.
        folder: Where artifacts and executor outputs go, a folder a task.
        launcher: Executes the tasks.
        on_report: Is told of each finished or failed task.
    """

    pipeline: Pipeline
    run_id: str
    folder: Path
    launcher: TaskLauncher
    on_report: Callable[[TaskReport], None]

    def execute(self, parameters: Mapping[str, Json]) -> dict[str, TaskOutputs]:
        """Runs all tasks in order and gives what each gave, by task name.

        Raises:
            PipelineError: The parameters do not fit, or the pipeline cannot be resolved.
            TaskFailed: A task failed; later tasks were not started.
            RunStopped: The run was stopped.
        """
        values = run_parameters(self.pipeline, parameters)
        done: dict[str, TaskOutputs] = {}
        for task in self.pipeline.tasks:
            done[task.name] = self._run_task(task, values, done)
        return done

    def _run_task(
        self, task: Task, values: Mapping[str, Json], done: Mapping[str, TaskOutputs]
    ) -> TaskOutputs:
        place = str(self.folder.absolute() / task.name)
        given = executor_input(task, values, done, TaskPlaces(place, place))
        names = RunNames(self.pipeline.name, self.run_id)
        launch = Launch(task.name, resolve_command(task, given, names), task.container)
        log.info("task_started", task=task.name, run=self.run_id)
        started = time.monotonic()
        exit_code, attempts = self._attempts(task, launch, Path(place))
        seconds = time.monotonic() - started
        outputs = None if exit_code else collect_outputs(task, given, _read_text)
        self.on_report(TaskReport(task.name, seconds, exit_code, attempts, outputs))
        if outputs is None:
            raise TaskFailed(task.name, exit_code, attempts)
        return outputs

    def _attempts(self, task: Task, launch: Launch, place: Path) -> tuple[int, int]:
        """Runs until it is done or final, and gives the exit code and the number of attempts."""
        attempt = 1
        while True:
            _prepare(place)
            exit_code = self.launcher.launch(launch)
            # Only 75 is worth another attempt: 2 is for the user to fix, and a defect or a signal
            # would strike again after the same hours. KFP in a cluster cannot tell them apart.
            if exit_code != EXIT_RETRY or attempt > task.retry.max_retries:
                return exit_code, attempt
            delay = task.retry.delay(attempt)
            log.warning("task_will_be_retried", task=task.name, attempt=attempt, seconds=delay)
            self.launcher.pause(delay)
            attempt += 1


def _prepare(folder: Path) -> None:
    """An empty folder: what a failed attempt wrote must not pass for this one's output."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StorageError(f"{folder}: cannot be written ({problem.strerror})") from None


def _read_text(path: str) -> str | None:
    file = Path(path)
    return file.read_text(encoding="utf-8") if file.is_file() else None
