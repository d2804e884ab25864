"""Executes a compiled pipeline on this machine, task by task, and nothing but what it says.

One task at a time: the tasks are fat and would fight for the same cores or GPU. Finished work is
not remembered here: each step knows from storage that it has nothing to do.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosalign.domain.errors import EXIT_RETRY, StorageError
from cosalign.domain.fingerprint import Json
from cosalign.pipelines.failures import TaskFailed
from cosalign.pipelines.ir import Group, Pipeline, Task
from cosalign.pipelines.launchers import Launch, TaskLauncher
from cosalign.pipelines.resolution import (
    FAILED,
    RunNames,
    Scope,
    TaskOutputs,
    TaskPlaces,
    collect_outputs,
    executor_input,
    group_outputs,
    group_scopes,
    resolve_command,
    resolve_text,
)
from cosalign.pipelines.run_parameters import run_parameters
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


def _transient(exit_code: int) -> bool:
    """Only 75 is worth another attempt.

    2 is for the user to fix, and a defect or a signal would strike again after the same hours.
    """
    return exit_code == EXIT_RETRY


@dataclass(frozen=True)
class LocalRun:
    """One run of a pipeline on this machine.

    Attributes:
        pipeline: What to run.
        run_id: The run's name.
        folder: Where executor outputs go, a folder a task; artifacts too, unless ``artifacts``.
        launcher: Executes the tasks.
        on_report: Is told of each finished or failed task, save the exit handler's.
        artifacts: Address below which artifacts go, where that is not the folder.
        retried: Which exit codes the pipeline's retries are for; KFP in a cluster cannot tell
            them apart, and retries all.
    """

    pipeline: Pipeline
    run_id: str
    folder: Path
    launcher: TaskLauncher
    on_report: Callable[[TaskReport], None]
    artifacts: str | None = None
    retried: Callable[[int], bool] = _transient

    def execute(self, parameters: Mapping[str, Json]) -> dict[str, TaskOutputs]:
        """Runs all tasks in order and gives what each gave, by task name.

        Tasks of a loop are named with their iteration (``generation-0``).

        Raises:
            PipelineError: The parameters do not fit, or the pipeline cannot be resolved.
            TaskFailed: A task failed; later tasks were not started, save an exit handler's.
            RunStopped: The run was stopped.
        """
        given = run_parameters(self.pipeline, parameters)
        everything: dict[str, TaskOutputs] = {}
        self._run_nodes(self.pipeline.nodes, Scope(given), "", everything)
        return everything

    def _run_nodes(
        self,
        nodes: Sequence[Task | Group],
        scope: Scope,
        suffix: str,
        everything: dict[str, TaskOutputs],
    ) -> dict[str, TaskOutputs]:
        """Runs the nodes of one group; the failure of one ends the others, save exit handlers."""
        done: dict[str, TaskOutputs] = {}
        failure: TaskFailed | None = None
        for node in nodes:
            if failure is not None and not (node.always and node.after <= set(done)):
                continue
            try:
                done[node.name] = self._run_node(node, scope, done, suffix, everything)
            except TaskFailed as problem:
                failure = failure or problem
                error: Json = {"code": problem.exit_code, "message": str(problem)}
                done[node.name] = TaskOutputs({}, {}, {"state": FAILED, "error": error})
        if failure is not None:
            raise failure
        return done

    def _run_node(
        self,
        node: Task | Group,
        scope: Scope,
        done: Mapping[str, TaskOutputs],
        suffix: str,
        everything: dict[str, TaskOutputs],
    ) -> TaskOutputs:
        if isinstance(node, Task):
            name = f"{node.name}{suffix}"
            everything[name] = self._run_task(node, name, scope, done)
            return everything[name]
        inside = []
        for number, own in enumerate(group_scopes(node, scope, done)):
            mark = suffix if node.loop is None else f"{suffix}-{number}"
            inside.append(self._run_nodes(node.nodes, own, mark, everything))
        return group_outputs(node, inside)

    def _run_task(
        self, task: Task, name: str, scope: Scope, done: Mapping[str, TaskOutputs]
    ) -> TaskOutputs:
        place = str(self.folder.absolute() / name)
        artifacts = place if self.artifacts is None else f"{self.artifacts}/{name}"
        given = executor_input(task, scope, done, TaskPlaces(artifacts, place))
        names = RunNames(self.pipeline.name, self.run_id)
        launch = Launch(
            task=name,
            command=resolve_command(task, given, names),
            container=task.container,
            image=resolve_text(task, task.container.image, given),
            given=given,
            scope=scope.parameters,
        )
        log.info("task_started", task=name, run=self.run_id)
        started = time.monotonic()
        exit_code, attempts = self._attempts(task, launch, Path(place))
        seconds = time.monotonic() - started
        outputs = None if exit_code else collect_outputs(task, given, _read_text)
        if not task.always or outputs is None:
            self.on_report(TaskReport(name, seconds, exit_code, attempts, outputs))
        if outputs is None:
            raise TaskFailed(name, exit_code, attempts)
        return outputs

    def _attempts(self, task: Task, launch: Launch, place: Path) -> tuple[int, int]:
        """Runs until it is done or final, and gives the exit code and the number of attempts."""
        attempt = 1
        while True:
            _prepare(place)
            exit_code = self.launcher.launch(launch)
            done = not exit_code or not self.retried(exit_code)
            if done or attempt > task.retry.max_retries:
                return exit_code, attempt
            delay = task.retry.delay(attempt)
            log.warning("task_will_be_retried", task=launch.task, attempt=attempt, seconds=delay)
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
