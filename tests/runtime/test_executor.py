from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.errors import ConfigError, StorageError
from cosalign.runtime.executor import ExecutorIo, artifact_path, parse_executor_input


def artifact(name: str, uri: str) -> dict[str, Any]:
    return {"name": name, "type": {"schemaTitle": "system.Dataset"}, "uri": uri, "metadata": {}}


def kfp_input(folder: Path) -> dict[str, Any]:
    """What KFP's launcher sends."""
    return {
        "inputs": {
            "parameterValues": {"run_config_uri": "gs://b/run.yaml", "run_config_digest": "ab"},
            "artifacts": {
                "synthesis": {"artifacts": [artifact("synthesis", "gs://bucket/root/synthesis")]}
            },
        },
        "outputs": {
            "artifacts": {
                "scoring": {"artifacts": [artifact("scoring", str(folder / "out/scoring"))]},
                "metrics": {"artifacts": [artifact("metrics", str(folder / "out/metrics"))]},
            },
            "outputFile": str(folder / "kfp/output_metadata.json"),
        },
    }


def parsed(raw: dict[str, Any]) -> ExecutorIo:
    return parse_executor_input(json.dumps(raw))


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/a/b c", "/gcs/bucket/a/b c"),
        ("s3://bucket/a", "/s3/bucket/a"),
        ("minio://bucket/a", "/minio/bucket/a"),
        ("file:///a/b%20c", "/a/b c"),
        ("/a/b", "/a/b"),
        ("a/b", "a/b"),
    ],
)
def test_where_the_launcher_puts_an_artifact(uri: str, path: str) -> None:
    assert artifact_path(uri) == Path(path)


def test_kfps_executor_input(tmp_path: Path) -> None:
    io = parsed(kfp_input(tmp_path))
    assert io.parameters == {"run_config_uri": "gs://b/run.yaml", "run_config_digest": "ab"}
    assert io.artifacts == {"synthesis": Path("/gcs/bucket/root/synthesis")}
    assert io.output_file == tmp_path / "kfp/output_metadata.json"
    assert set(io.outputs) == {"scoring", "metrics"}


def test_a_task_without_inputs(tmp_path: Path) -> None:
    raw = kfp_input(tmp_path)
    raw["inputs"] = {}
    assert parsed(raw).artifacts == {}
    del raw["inputs"]
    assert parsed(raw).parameters == {}


def test_an_output_is_written_and_told_to_kfp_with_its_metadata(tmp_path: Path) -> None:
    raw = kfp_input(tmp_path)
    io = parsed(raw)
    io.write_output("scoring", b"{}")
    io.metadata["metrics"] = {"coverage": 0.9}
    io.finish()
    assert (tmp_path / "out/scoring").read_bytes() == b"{}"
    told = json.loads((tmp_path / "kfp/output_metadata.json").read_text())
    outputs = raw["outputs"]["artifacts"]
    expected_metrics = outputs["metrics"]["artifacts"][0] | {"metadata": {"coverage": 0.9}}
    assert told == {
        "artifacts": {
            "scoring": {"artifacts": [outputs["scoring"]["artifacts"][0]]},
            "metrics": {"artifacts": [expected_metrics]},
        }
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{{$}}",
        "[]",
        "3",
        "{}",
        '{"outputs": {}}',
        '{"inputs": null, "outputs": {"outputFile": "x"}}',
        '{"outputs": {"outputFile": "x", "artifacts": {"a": {"artifacts": []}}}}',
        '{"inputs": {"artifacts": {"a": {}}}, "outputs": {"outputFile": "x"}}',
    ],
)
def test_what_kfp_never_sends_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--executor-input is not KFP's .*use the plain flags"):
        parse_executor_input(text)


@pytest.mark.parametrize("place", ["/proc/out/scoring", "/proc/scoring", "{}/file/scoring"])
def test_a_place_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    raw = kfp_input(tmp_path)
    uri = place.format(tmp_path)
    raw["outputs"]["artifacts"]["scoring"]["artifacts"][0]["uri"] = uri
    raw["outputs"]["outputFile"] = uri
    io = parsed(raw)
    for attempt in (lambda: io.write_output("scoring", b"x"), io.finish):
        with pytest.raises(StorageError, match="choose an output folder that can be written"):
            attempt()
