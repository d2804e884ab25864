"""``cosalign run`` with bad and odd input, as a user would meet it: one message, nothing lost.

The engine double stands in for vLLM, so the whole graph takes seconds.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.graph_world import Graph
from tests.e2e.mild_prompts import mild_prompts

DOUBLE = (
    "models.base=double:base",
    "models.engine={kind: double, max_model_len: 16384, flush_rows: 16}",
)
ODD_PROMPTS = (
    "",
    "   \t ",
    "beer " * 20_000,
    "Is beer older than bread, or bread than beer?",
    "  is BEER older\u00a0than bread,\nor bread than beer? ",
    "Is \uff42\uff45\uff45\uff52 older than bread, or bread than beer?",
    "Was f\u00fcr ein Caf\u00e9 war das?",
    "Was fu\u0308r ein Cafe\u0301 war das?",
)


def _options(*settings: str) -> list[str]:
    return [part for setting in (*DOUBLE, *settings) for part in ("--set", setting)]


@pytest.fixture
def graph(graph_at: Callable[[str], Graph], tmp_path: Path) -> Graph:
    return graph_at(str(tmp_path / "out"))


def _message(graph: Graph) -> str:
    """The log, which must hold no traceback."""
    log = graph.log.read_text("utf-8")
    assert "Traceback" not in log
    return log


def test_the_graph_runs_and_no_log_or_report_holds_a_text(graph: Graph, tmp_path: Path) -> None:
    assert graph.run(*_options()) == 0, graph.log.read_text()
    prompts = mild_prompts()
    shown = [graph.log, *tmp_path.glob("out/runs/*/*.*"), *tmp_path.glob("out/steps/**/*.json")]
    shown += tmp_path.glob("out/steps/**/*.html")
    assert any(path.name == "report.html" for path in shown)
    assert any(path.name == "summary.json" for path in shown)
    for path in shown:
        text = path.read_text("utf-8")
        assert not [prompt for prompt in prompts if prompt in text], path


def test_odd_prompts_are_counted_and_none_breaks_the_run(graph: Graph, tmp_path: Path) -> None:
    file = tmp_path / "odd.jsonl"
    rows = [*mild_prompts(), *ODD_PROMPTS]
    file.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    settings = (f"prompts.files=[{file}]", "prompts.limit=null")
    assert graph.run(*_options(*settings)) == 0, graph.log.read_text()
    counts = graph.manifests()["synthesis"].counts
    assert counts["prompts_read"] == len(rows)
    assert counts["prompts_empty"] == 2
    assert counts["prompts_too_long"] == 1
    assert counts["prompts_duplicate"] == 3
    assert counts["prompts_kept"] == len(rows) - 6


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("allowedRisks: [violense]", "did you mean 'violence'?"),
        ("allowedRisks: [other_harms]", "can never be allowed"),
        ("{}", "exactly one of allowedRisks and text"),
        ("allowedRisks: [violence], text: Be kind.", "exactly one of allowedRisks and text"),
        ("allowedRisk: []", "did you mean 'allowedRisks'?"),
    ],
)
def test_a_bad_safety_config_is_named_before_anything_is_paid(
    graph: Graph, tmp_path: Path, spec: str, said: str
) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    form = "" if spec == "{}" else f", {spec}"
    (folder / "bad.yaml").write_text(
        "apiVersion: cosalign.dev/v1alpha1\nkind: SafetyConfig\nmetadata: {name: bad}\n"
        f"spec: {{taxonomy: {{name: cosa, version: '1'}}, region: 'x'{form}}}\n"
    )
    assert graph.run(*_options(f"configs.files=[{folder}]")) == 2
    log = _message(graph)
    assert "bad.yaml" in log
    assert said in log
    assert not graph.plans("label_prompts"), "work was paid before the config was read"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("pytorch_model.bin", b"\x80\x04.", "pytorch_model.bin"),
        ("modeling_own.py", b"pass\n", "modeling_own.py"),
    ],
)
def test_pickled_weights_and_remote_code_are_refused(
    graph: Graph, tiny_model: Path, tmp_path: Path, file: str, content: bytes, said: str
) -> None:
    copy = tmp_path / "model"
    subprocess.run(["cp", "-r", str(tiny_model), str(copy)], check=True)
    (copy / file).write_bytes(content)
    assert graph.run("--set", f"models.base={copy}") == 2
    assert said in _message(graph)


def test_a_torn_table_is_named_and_its_step_made_again(graph: Graph) -> None:
    assert graph.run(*_options()) == 0, graph.log.read_text()
    manifest = graph.manifests()["synthesis"]
    path = graph.storage.local_path(manifest.tables["responses"].path)
    assert path is not None
    path.write_bytes(path.read_bytes()[:-100])
    settings = _options("scoring.thresholds={violence: 0.6}")
    assert graph.run(*settings) == 2
    assert f"{path.name}: torn or altered" in _message(graph)
    path.unlink()
    assert graph.run(*settings) == 0, graph.log.read_text()


def test_an_unwritable_output_folder_is_named(graph: Graph, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert graph.run(*_options(f"storage.root={tmp_path}/file/out")) == 2
    assert f"{tmp_path}/file" in _message(graph)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.2 MiB; needs the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(
    graph: Graph, small_disk: Path
) -> None:
    graph.root = f"{small_disk}/out"
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1100 * 1024))
    assert graph.run(*_options()) == 2
    assert "the disk is full" in _message(graph)
    filler.unlink()
    assert graph.run(*_options()) == 0, graph.log.read_text()
