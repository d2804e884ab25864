"""The walker speaks KFP's contract: the same compiled pipeline under it and under kfp.local.

kfp.local's subprocess runner refuses container components by three validators that look at the
command and the image. They guard a user from running a container's command on a bare machine, which
here is the point, so they are lifted for the length of this test.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl, local
from kfp.local.subprocess_task_handler import SubprocessTaskHandler

from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.launchers import SubprocessLauncher
from cosalign.pipelines.local_run import LocalRun, TaskReport

VALIDATORS = (
    "validate_image",
    "validate_not_container_component",
    "validate_not_containerized_python_component",
)

RECORD_AND_WRITE = """
import json, os, pathlib, sys
given = json.loads(sys.argv[1])
outputs = given["outputs"]
record = pathlib.Path(os.environ["RECORDS"], sys.argv[2] + ".json")
record.write_text(json.dumps({"given": given, "words": sys.argv[3:]}))
for listed in outputs.get("artifacts", {}).values():
    artifact = listed["artifacts"][0]
    artifact["metadata"] = {"rows": 3, "name": "n", "share": 0.25, "deep": {"list": [1, True]}}
    pathlib.Path(artifact["uri"]).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(artifact["uri"]).write_text("made by " + sys.argv[2])
for parameter in outputs.get("parameters", {}).values():
    pathlib.Path(parameter["outputFile"]).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(parameter["outputFile"]).write_text("7")
pathlib.Path(outputs["outputFile"]).parent.mkdir(parents=True, exist_ok=True)
pathlib.Path(outputs["outputFile"]).write_text(json.dumps({"artifacts": outputs["artifacts"]}))
"""


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def producer(  # noqa: PLR0913
    uri: str,
    rows: dsl.Output[dsl.Dataset],
    count: dsl.OutputPath(int),  # type: ignore[valid-type]  # kfp's own notation
    text: str = "usual",
    number: int = 3,
    share: float = 0.5,
    flag: bool = True,
    names: list = ["a", "b"],  # type: ignore[type-arg]  # noqa: B006
    settings: dict = {"k": 1.5},  # type: ignore[type-arg]  # noqa: B006
) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(
        image="producer:1",
        command=["python", "-c", RECORD_AND_WRITE],
        args=[
            dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER, "producer",
            uri, number, share, flag, names, settings, rows.path, rows.uri, count,
        ],
    )  # fmt: skip


@dsl.container_component  # type: ignore[untyped-decorator]  # kfp ships no types
def consumer(
    label: str,
    count: int,
    rows: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(
        image="consumer:1",
        command=["python", "-c", RECORD_AND_WRITE],
        args=[
            dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER, "consumer",
            f"<{label}>", count, rows.path, rows.uri, model.path, metrics.uri,
        ],
    )  # fmt: skip


@dsl.pipeline(name="parity")  # type: ignore[untyped-decorator]  # kfp ships no types
def parity(uri: str, text: str = "given") -> None:
    made = producer(uri=uri, text=text, share=0.125)
    consumer(label=f"{uri} counted", count=made.outputs["count"], rows=made.outputs["rows"])


def run_under_kfp(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VALIDATORS:
        assert hasattr(SubprocessTaskHandler, name), f"kfp.local has no {name} any more"
        monkeypatch.setattr(SubprocessTaskHandler, name, lambda *_: None)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder))
    parity(uri="file:///x")


def run_under_walker(folder: Path) -> list[TaskReport]:
    compiled = folder / "parity.yaml"
    compiler.Compiler().compile(parity, str(compiled))
    pipeline = parse_pipeline(json.dumps(yaml.safe_load(compiled.read_text())), "parity")
    reports: list[TaskReport] = []
    with SubprocessLauncher() as launcher:
        LocalRun(pipeline, "r1", folder, launcher, reports.append).execute({"uri": "file:///x"})
    return reports


def records(folder: Path) -> dict[str, Any]:
    """What each task was given, with the run's folder taken out of paths."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        text = re.sub(r'"/[^"]*/(producer|consumer)/', r'"<root>/\1/', file.read_text())
        found[file.stem] = json.loads(text)
    return found


def written_files(folder: Path) -> dict[str, str]:
    """Content by ``task/file``; executor outputs hold paths and are compared by their effect."""
    return {
        f"{file.parent.name}/{file.name}": file.read_text()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".json", ".yaml")
    }


def test_tasks_get_and_give_the_same_as_under_kfp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {}
    for name in ("kfp", "kfp-records", "walker", "walker-records"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORDS", str(folders["kfp-records"]))
    run_under_kfp(folders["kfp"], monkeypatch)
    monkeypatch.setenv("RECORDS", str(folders["walker-records"]))
    run_under_walker(folders["walker"])

    expected = records(folders["kfp-records"])
    assert sorted(expected) == ["consumer", "producer"]
    assert records(folders["walker-records"]) == expected
    handed_on = expected["consumer"]["given"]["inputs"]["artifacts"]["rows"]["artifacts"][0]
    assert handed_on["uri"] == "<root>/producer/rows"
    assert handed_on["metadata"]["deep"] == {"list": [1, True]}
    assert written_files(folders["walker"]) == written_files(folders["kfp"])
    assert "consumer/model" in written_files(folders["walker"])
