"""``cosalign run``: what it executes, stores and prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
import yaml

from cosalign.domain.run_config import RunConfig, StorageGroup
from cosalign.pipelines.command_line import main
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.run_command import RunOrder
from cosalign.store.storage import Storage

Spec = dict[str, Any]
Build = Callable[..., Spec]

READ_CONFIG = """
import hashlib, json, pathlib, sys, urllib.parse
given = json.loads(sys.argv[1])
parameters = given["inputs"]["parameterValues"]
data = pathlib.Path(urllib.parse.urlparse(parameters["run_config_uri"]).path).read_bytes()
assert hashlib.sha256(data).hexdigest() == parameters["run_config_digest"]
artifact = given["outputs"]["artifacts"]["first"]["artifacts"][0]
pathlib.Path(artifact["uri"]).write_text("original words")
artifact["metadata"] = {"cosalign_reused": True}
outputs = {"artifacts": {"first": {"artifacts": [artifact]}}}
pathlib.Path(given["outputs"]["outputFile"]).write_text(json.dumps(outputs))
"""
EVALUATE = """
import json, pathlib, sys
outputs = json.loads(sys.argv[1])["outputs"]["artifacts"]
manifest = {
    "step": "evaluation", "fingerprint": "f", "storage": "file:///x",
    "metrics": {"cosa_score/dpo": 0.25, "coverage/dpo": 1.0, "cosa_score/base": None},
}
def path(name):
    return pathlib.Path(outputs[name]["artifacts"][0]["uri"])
path("evaluation").write_text(json.dumps(manifest))
path("report").write_text("<html>")
"""
FAIL = "import sys; sys.exit({code})"


@dataclass(frozen=True)
class World:
    """A profile, a small compiled pipeline and a storage folder."""

    folder: Path
    profile: Path
    spec: Spec

    @property
    def storage(self) -> Path:
        return self.folder / "out"

    def run(self, *extra: str) -> int:
        pipeline = self.folder / "pipeline.json"
        pipeline.write_text(json.dumps(self.spec))
        options = ["--profile", str(self.profile), "--pipeline", str(pipeline), "--run-id", "r1"]
        return main(["run", *options, *extra])

    def command(self, task: str) -> list[str]:
        container = self.spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
        command: list[str] = container["command"]
        return command

    def summary(self) -> Spec:
        content: Spec = json.loads((self.storage / "runs/r1/summary.json").read_text())
        return content


@pytest.fixture
def world(tmp_path: Path, build: Build, task: Build, component: Build) -> World:
    names = ("run_config_uri", "run_config_digest")
    types = {name: {"parameterType": "STRING"} for name in names}
    sources = {name: {"componentInputParameter": name} for name in names}
    spec = build(
        {
            "first": task("first", parameters=sources),
            "evaluation": task("evaluation", artifacts={"first": "first"}),
        },
        {
            "first": component("first", outputs=["first"], parameters=types),
            "evaluation": component(
                "evaluation", inputs=["first"], outputs=["evaluation", "report"]
            ),
        },
        {"first": READ_CONFIG, "evaluation": EVALUATE},
        types,
    )
    profile = tmp_path / "small.yaml"
    profile.write_text(yaml.safe_dump({"storage": {"root": str(tmp_path / "out")}}))
    return World(tmp_path, profile, spec)


def test_a_run_prints_times_metrics_and_report(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    assert world.run() == 0
    shown = capfd.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["stage", "seconds", "result"] in lines
    assert any(line[:1] == ["first"] and line[2:] == ["nothing", "to", "do"] for line in lines)
    assert any(line[:1] == ["evaluation"] and line[2:] == ["done"] for line in lines)
    assert ["dpo", "0.250", "-", "-", "1.000", "-", "-"] in lines
    assert ["base", "-", "-", "-", "-", "-", "-"] in lines
    report = world.storage / "runs/r1/report.html"
    assert f"report: {report}" in shown
    assert report.is_file()


def test_the_resolved_config_and_a_summary_are_stored_with_the_run(world: World) -> None:
    assert world.run("--set", "pairing.seed=5") == 0
    config = yaml.safe_load((world.storage / "runs/r1/config.yaml").read_text())
    assert config["pairing"]["seed"] == 5
    assert config["training"]["dpo"]["beta"] == 0.1
    summary = world.summary()
    assert [stage["name"] for stage in summary["stages"]] == ["first", "evaluation"]
    assert [stage["reused"] for stage in summary["stages"]] == [True, False]
    assert [stage["exit_code"] for stage in summary["stages"]] == [0, 0]
    assert summary["metrics"] == {
        "cosa_score/dpo": 0.25,
        "coverage/dpo": 1.0,
        "cosa_score/base": None,
    }


def test_an_altered_command_in_the_compiled_json_alters_the_run(world: World) -> None:
    artifact = world.storage / "runs/r1/artifacts/first/first"
    assert world.run() == 0
    assert artifact.read_text() == "original words"
    command = world.command("first")
    command[-1] = command[-1].replace("original words", "altered words")
    assert world.run() == 0
    assert artifact.read_text() == "altered words"


@pytest.mark.parametrize("code", [2, 70, 75, 9])
def test_a_failing_step_gives_its_exit_code_and_stops_the_run(
    code: int, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.command("first")[-1] = FAIL.format(code=code)
    assert world.run() == code
    shown = capfd.readouterr()
    assert f"failed (exit code {code})" in shown.out
    assert "step 'first' failed" in shown.err
    assert "Traceback" not in shown.err
    assert [stage["exit_code"] for stage in world.summary()["stages"]] == [code]


def test_a_run_in_which_all_was_done_says_so(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    del world.spec["root"]["dag"]["tasks"]["evaluation"]
    assert world.run() == 0
    assert "every stage was already done" in capfd.readouterr().out


def test_a_run_id_is_not_reused_for_another_config(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    assert world.run() == 0
    assert world.run("--set", "pairing.seed=6") == 2
    assert "choose another --run-id" in capfd.readouterr().err
    assert world.run() == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--run-id", "../up"], "--run-id '../up'"),
        (["--set", "pairing.sead=5"], "did you mean 'seed'"),
        (["--profile", "no-such-profile"], "no-such-profile"),
        (["--pipeline", "no-such-file.json"], "cosalign compile --output"),
    ],
)
def test_mistakes_of_the_user_give_one_message_and_start_nothing(
    extra: list[str], message: str, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    assert world.run(*extra) == 2
    shown = capfd.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert not (world.storage / "runs/r1/artifacts").exists()


def test_a_pipeline_without_the_run_config_parameters_is_refused(
    world: World, capfd: pytest.CaptureFixture[str], two_steps: Build
) -> None:
    other = World(world.folder, world.profile, two_steps())
    assert other.run() == 2
    assert "takes no parameter 'run_config_uri'" in capfd.readouterr().err


def test_artifacts_of_a_remote_storage_lie_in_the_local_cache(
    tmp_path: Path, two_steps: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = RunConfig(storage=StorageGroup(root="gs://bucket/p", cache="~/cache"))
    pipeline = parse_pipeline(json.dumps(two_steps()), "small")
    remote = create_autospec(Storage, instance=True)
    remote.local_path.return_value = None
    order = RunOrder("r1", config, pipeline, remote)
    assert order.artifact_folder() == tmp_path / "cache/runs/r1/artifacts"
