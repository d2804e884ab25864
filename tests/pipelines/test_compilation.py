"""The compiled pipeline: the same everywhere, current, and what the components say."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cosalign.domain.errors import UserError
from cosalign.pipelines.command_line import main
from cosalign.pipelines.compilation import GRAPHS, compile_pipeline
from cosalign.pipelines.images import VERSION
from cosalign.retraining.shipped_pipelines import PIPELINES, compiled_path, shipped_pipeline

STEPS = ("synthesis", "scoring", "pairing", "training", "evaluation")


def compiled_in_another_process(hash_seed: str, folder: Path) -> bytes:
    code = (
        "import sys; from cosalign.pipelines.compilation import GRAPHS, compile_pipeline;"
        "sys.stdout.write(''.join(compile_pipeline(name).package() for name in GRAPHS))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, check=True
    )
    return done.stdout


def test_every_graph_ships_compiled() -> None:
    assert tuple(GRAPHS) == PIPELINES


def test_two_processes_compile_the_same_bytes_as_the_checked_in_file(tmp_path: Path) -> None:
    one = compiled_in_another_process("1", tmp_path)
    other = compiled_in_another_process("4242", Path.cwd())
    assert one == other
    shipped = "".join(shipped_pipeline(name).package() for name in GRAPHS)
    assert one == shipped.encode(), "run `cosalign compile`"


def test_an_unknown_pipeline_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'cosalign'"):
        compile_pipeline("cosaling")


def test_image_version_is_that_of_the_distribution(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


@pytest.mark.parametrize("step", [*STEPS, "runtime"])
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
    target = tmp_path / "new" / "evaluate.yaml"
    assert main(["compile", "evaluate", "--output", str(target)]) == 0
    assert main(["compile", "evaluate", "--check", "--output", str(target)]) == 0
    assert "current" in capsys.readouterr().out


def test_images_are_written_into_a_named_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, target = tmp_path / "images.yaml", tmp_path / "evaluate.yaml"
    digest = f"sha256:{'a' * 64}"
    lines = [f"  {name}: {{digest: {digest}}}" for name in ("synthesis", "pairing", "evaluation")]
    images.write_text("\n".join(["images:", "  registry: registry.example/cosalign", *lines]))
    assert main(["compile", "evaluate", "--images", str(images)]) == 2
    assert "--output FILE" in capsys.readouterr().err
    assert main(["compile", "evaluate", "--images", str(images), "--output", str(target)]) == 0
    assert target.read_text().count(f'"registry.example/cosalign/cosalign-pairing@{digest}"') == 1
    assert VERSION not in target.read_text()


@pytest.mark.parametrize("name", GRAPHS)
def test_checked_in_files_are_what_the_package_holds(name: str) -> None:
    files = shipped_pipeline(name).files(name)
    assert {path.read_text(encoding="utf-8") for path in files} == set(files.values())
    assert compiled_path(name) in files


def test_check_of_a_stale_file_fails_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "cosalign.json"
    text = shipped_pipeline("cosalign").package().replace("cosalign.scoring", "other")
    target.write_text(text)
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
