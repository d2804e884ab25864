"""The walker: only what the pipeline says, retries, failures, reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.errors import StorageError
from cosalign.pipelines.failures import TaskFailed
from cosalign.pipelines.ir import Pipeline
from cosalign.pipelines.launchers import Launch, SubprocessLauncher
from cosalign.pipelines.local_run import LocalRun, TaskReport

Spec = dict[str, Any]
Build = Callable[..., Spec]
Parse = Callable[[Spec], Pipeline]


@dataclass
class ScriptedLauncher:
    """Gives exit codes from a script, and writes what it is told to."""

    codes: dict[str, list[int]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    found: list[list[str]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    def launch(self, launch: Launch) -> int:
        self.launches.append(launch)
        given = json.loads(launch.command[-1])
        folder = Path(given["outputs"]["outputFile"]).parent
        self.found.append(sorted(file.name for file in folder.iterdir()))
        artifacts = {
            name: {"artifacts": [{**listed["artifacts"][0], "metadata": self.metadata}]}
            for name, listed in given["outputs"]["artifacts"].items()
        }
        Path(given["outputs"]["outputFile"]).write_text(json.dumps({"artifacts": artifacts}))
        return self.codes[launch.task].pop(0) if self.codes.get(launch.task) else 0

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def run_of(
    pipeline: Pipeline, folder: Path, launcher: ScriptedLauncher
) -> tuple[LocalRun, list[TaskReport]]:
    reports: list[TaskReport] = []
    return LocalRun(pipeline, "r1", folder, launcher, reports.append), reports


def test_artifacts_and_metadata_reach_the_next_task(
    two_steps: Build, parsed: Parse, tmp_path: Path
) -> None:
    launcher = ScriptedLauncher(metadata={"count": 3})
    run, _ = run_of(parsed(two_steps()), tmp_path, launcher)
    run.execute({})
    assert [launch.task for launch in launcher.launches] == ["first", "second"]
    rows = json.loads(launcher.launches[1].command[-1])["inputs"]["artifacts"]["rows"]
    assert rows["artifacts"][0]["uri"] == str(tmp_path / "first" / "rows")
    assert rows["artifacts"][0]["metadata"] == {"count": 3}


def test_transient_failures_are_retried_with_the_pipelines_backoff(
    two_steps: Build, parsed: Parse, tmp_path: Path
) -> None:
    retry = {"maxRetryCount": 3, "backoffDuration": "2s", "backoffFactor": 2.0}
    launcher = ScriptedLauncher(codes={"first": [75, 75, 0]})
    run, reports = run_of(parsed(two_steps(retry=retry)), tmp_path, launcher)
    run.execute({})
    assert launcher.pauses == [2.0, 4.0]
    assert [(report.task, report.attempts) for report in reports] == [("first", 3), ("second", 1)]


def test_each_attempt_starts_with_an_empty_folder(
    two_steps: Build, parsed: Parse, tmp_path: Path
) -> None:
    launcher = ScriptedLauncher(codes={"first": [75, 0]})
    run, _ = run_of(parsed(two_steps(retry={"maxRetryCount": 1})), tmp_path, launcher)
    run.execute({})
    run.execute({})
    assert launcher.found == [[]] * 5


@pytest.mark.parametrize("code", [1, 2, 70, 137])
def test_other_failures_are_final_and_carry_the_childs_code(
    code: int, two_steps: Build, parsed: Parse, tmp_path: Path
) -> None:
    launcher = ScriptedLauncher(codes={"first": [code, 0]})
    run, reports = run_of(parsed(two_steps(retry={"maxRetryCount": 3})), tmp_path, launcher)
    with pytest.raises(TaskFailed, match="step 'first' failed: ") as failure:
        run.execute({})
    assert failure.value.exit_code == code
    assert [launch.task for launch in launcher.launches] == ["first"]
    assert [(report.task, report.exit_code) for report in reports] == [("first", code)]


def test_a_driver_may_retry_whatever_fails_as_kfp_does(
    two_steps: Build, parsed: Parse, tmp_path: Path
) -> None:
    launcher = ScriptedLauncher(codes={"first": [137, 2, 0]})
    run, reports = run_of(parsed(two_steps(retry={"maxRetryCount": 3})), tmp_path, launcher)
    replace(run, retried=bool).execute({})
    assert [(report.task, report.attempts) for report in reports] == [("first", 3), ("second", 1)]


def test_retries_run_out(two_steps: Build, parsed: Parse, tmp_path: Path) -> None:
    launcher = ScriptedLauncher(codes={"first": [75] * 9})
    run, _ = run_of(parsed(two_steps(retry={"maxRetryCount": 2})), tmp_path, launcher)
    with pytest.raises(TaskFailed, match="after 3 attempts") as failure:
        run.execute({})
    assert failure.value.exit_code == 75
    assert len(launcher.launches) == 3


@pytest.mark.parametrize(("flag", "reused"), [(True, True), (False, False), ("true", False)])
def test_a_step_says_by_metadata_that_it_had_nothing_to_do(
    flag: object, reused: bool, two_steps: Build, parsed: Parse, tmp_path: Path
) -> None:
    launcher = ScriptedLauncher(metadata={"cosalign_reused": flag})
    run, reports = run_of(parsed(two_steps()), tmp_path, launcher)
    run.execute({})
    assert [report.reused for report in reports] == [reused, reused]


def test_a_folder_that_cannot_be_made_is_a_storage_error(
    two_steps: Build, parsed: Parse, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    run, _ = run_of(parsed(two_steps()), tmp_path / "file", ScriptedLauncher())
    with pytest.raises(StorageError, match="cannot be written"):
        run.execute({})


def test_real_processes_pass_their_files_on(
    two_steps: Build, parsed: Parse, tmp_path: Path
) -> None:
    reports: list[TaskReport] = []
    with SubprocessLauncher() as launcher:
        run = LocalRun(parsed(two_steps()), "r1", tmp_path, launcher, reports.append)
        outputs = run.execute({})
    assert Path(outputs["second"].artifacts["sums"].path).read_text() == "made by sums"
