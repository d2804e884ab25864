"""The compiled pipeline: the same everywhere, current, and what the components say."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cosalign.domain.errors import UserError
from cosalign.pipelines.command_line import main
from cosalign.pipelines.compilation import compile_pipeline, compiled_path
from cosalign.pipelines.images import VERSION
from cosalign.pipelines.ir import parse_pipeline

STEPS = ("synthesis", "scoring", "pairing", "training", "evaluation")


def compiled_in_another_process(hash_seed: str, folder: Path) -> bytes:
    code = (
        "import sys; from cosalign.pipelines.compilation import compile_pipeline;"
        "sys.stdout.write(compile_pipeline('cosalign'))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, check=True
    )
    return done.stdout


def test_two_processes_compile_the_same_bytes_as_the_checked_in_file(tmp_path: Path) -> None:
    one = compiled_in_another_process("1", tmp_path)
    other = compiled_in_another_process("4242", Path.cwd())
    assert one == other
    assert one == compiled_path("cosalign").read_bytes(), "run `cosalign compile`"


def test_an_unknown_pipeline_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'cosalign'"):
        compile_pipeline("cosaling")


def test_steps_run_in_the_order_of_the_method_and_know_their_inputs() -> None:
    pipeline = parse_pipeline(compiled_path("cosalign").read_bytes(), "compiled")
    assert tuple(task.name for task in pipeline.tasks) == STEPS
    assert {task.name: sorted(task.artifacts) for task in pipeline.tasks} == {
        "synthesis": [],
        "scoring": ["synthesis"],
        "pairing": ["scoring", "synthesis"],
        "training": ["pairing", "synthesis"],
        "evaluation": ["synthesis", "training"],
    }
    assert set(pipeline.parameters) == {"run_config_uri", "run_config_digest"}


def test_every_step_gives_an_artifact_of_its_own_name_and_starts_its_own_module() -> None:
    for step in parse_pipeline(compiled_path("cosalign").read_bytes(), "compiled").tasks:
        assert step.name in step.output_artifacts
        assert step.container.command == ("python", "-m", f"cosalign.{step.name}")
        assert step.container.args == ("--executor-input", "{{$}}")
        assert step.container.image == f"cosalign-{step.name}:{VERSION}"
        assert step.retry.max_retries > 0


def test_steps_that_read_files_of_the_user_are_never_taken_from_a_cache() -> None:
    tasks = json.loads(compiled_path("cosalign").read_text())["root"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"scoring", "pairing", "training"}


def test_image_version_is_that_of_the_distribution(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize("step", STEPS)
def test_component_interfaces_import_kfp_alone(step: str, repository: Path) -> None:
    source = (repository / f"components/cosalign/{step}/component.py").read_text()
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported == {"kfp"}


def test_compile_writes_a_file_that_check_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "cosalign.json"
    assert main(["compile", "--output", str(target)]) == 0
    assert main(["compile", "--check", "--output", str(target)]) == 0
    assert "current" in capsys.readouterr().out


def test_check_of_a_stale_file_fails_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "cosalign.json"
    target.write_text(compiled_path("cosalign").read_text().replace("cosalign.scoring", "other"))
    stale = target.read_bytes()
    assert main(["compile", "--check", "--output", str(target)]) == 2
    message = capsys.readouterr().err
    assert "is not current" in message
    assert "cosalign compile --output" in message
    assert "Traceback" not in message
    assert target.read_bytes() == stale


def test_output_below_a_file_is_refused_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["compile", "--output", str(tmp_path / "file" / "x.json")]) == 2
    assert "choose a place with --output" in capsys.readouterr().err
