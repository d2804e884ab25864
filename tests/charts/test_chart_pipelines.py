"""templates/pipelines.yaml: pipelines as objects, named by content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec
from tests.charts.rendering import CHART, Object, Values, of_kind, render, run_helm

from cosalign.pipelines.compilation import GRAPHS
from cosalign.pipelines.images import VERSION
from cosalign.retraining.shipped_pipelines import compiled_path

COMPONENTS = ("synthesis", "scoring", "pairing", "training", "evaluation")


def _digests(**changed: str) -> Values:
    digits = {name: str(i) for i, name in enumerate(COMPONENTS)} | changed
    images: dict[str, Any] = {name: {"digest": f"sha256:{d * 64}"} for name, d in digits.items()}
    return {"images": {**images, "allowTags": False}}


def _versions(values: Values | None = None) -> dict[str, Object]:
    found = of_kind(render(_digests() if values is None else values), "PipelineVersion")
    return {item["spec"]["pipelineName"]: item for item in found.values()}


def test_every_compiled_pipeline_has_an_object_and_a_version() -> None:
    assert set(of_kind(render(), "Pipeline")) == set(_versions()) == set(GRAPHS)


def _with_images(compiled: Any) -> Any:
    """A compiled pipeline, its images written in by another way than the chart's."""
    text = json.dumps(compiled)
    for index, component in enumerate(COMPONENTS):
        reference = f"registry.example/cosalign/cosalign-{component}@sha256:{str(index) * 64}"
        text = text.replace(f'"cosalign-{component}:{VERSION}"', json.dumps(reference))
    return json.loads(text)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_spec_is_what_was_compiled_but_for_images(name: str) -> None:
    compiled = json.loads(compiled_path(name).read_text("utf-8"))
    deployed = _versions()[name]["spec"]["pipelineSpec"]
    assert deployed == _with_images(compiled)
    assert deployed != compiled


@pytest.mark.parametrize("name", GRAPHS)
def test_no_image_is_left_without_a_digest(name: str) -> None:
    text = json.dumps(_versions()[name]["spec"])
    assert f":{VERSION}" not in text
    assert text.count("@sha256:") >= 3


@pytest.mark.parametrize("name", GRAPHS)
def test_platform_settings_go_with_the_spec(name: str) -> None:
    file = compiled_path(name).with_name(f"{name}-platform.json")
    spec = _versions()[name]["spec"]
    if file.is_file():
        assert spec["platformSpec"] == json.loads(file.read_text("utf-8"))
        ParseDict(spec["platformSpec"], PlatformSpec())
    else:
        assert "platformSpec" not in spec


def test_parameters_have_the_cluster_s_defaults() -> None:
    name, before = next(iter(_versions().items()))
    given = {"run_config_uri": "gs://bucket/run.yaml"}
    after = _versions({**_digests(), "pipelines": {"parameters": given}})[name]
    parameter = after["spec"]["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
    assert parameter["run_config_uri"]["defaultValue"] == "gs://bucket/run.yaml"
    assert after["metadata"]["name"] != before["metadata"]["name"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"node_selector": {"pool": "a"}}, {"pool": "a"}),
        ({"node_selector": {"pool": "a"}, "training_node_selector": {"b": "c"}}, {"b": "c"}),
        ({"node_selector": {"pool": "a"}, "training_node_selector": {}}, {}),
    ],
)
def test_training_runs_on_the_common_nodes_unless_values_name_others(
    given: Values, expected: Values
) -> None:
    versions = _versions({**_digests(), "pipelines": {"parameters": given}})
    parameters = versions["cosalign"]["spec"]["pipelineSpec"]["root"]["inputDefinitions"]
    assert parameters["parameters"]["training_node_selector"]["defaultValue"] == expected


@pytest.mark.parametrize("name", GRAPHS)
def test_kfp_can_read_the_spec(name: str) -> None:
    ParseDict(_versions()[name]["spec"]["pipelineSpec"], PipelineSpec())


def test_a_version_is_named_by_pipeline_chart_version_and_content() -> None:
    for name, version in _versions().items():
        given = version["metadata"]["name"]
        assert given.startswith(f"{name}-0.1.0-")
        assert len(given.removeprefix(f"{name}-0.1.0-")) == 12


def test_another_image_digest_is_another_version() -> None:
    before, after = _versions(), _versions(_digests(scoring="9"))
    assert before["cosalign"]["metadata"]["name"] != after["cosalign"]["metadata"]["name"]


def test_what_is_no_part_of_a_pipeline_leaves_its_name() -> None:
    other = {
        **_digests(),
        "storage": {"root": "gs://bucket/a"},
        "networkPolicy": {"enabled": False},
    }
    before, after = _versions(), _versions(other)
    assert {v["metadata"]["name"] for v in before.values()} == {
        v["metadata"]["name"] for v in after.values()
    }


def test_a_changed_pipeline_is_another_version(tmp_path: Path) -> None:
    chart = tmp_path / "cosalign"
    shutil.copytree(CHART, chart)
    file = chart / "files" / "pipelines" / "cosalign.json"
    before = _version_names(chart)
    file.write_text(file.read_text("utf-8").replace("cosalign.scoring", "cosalign.score"), "utf-8")
    assert _version_names(chart) != before


def test_an_image_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    chart = tmp_path / "cosalign"
    shutil.copytree(CHART, chart)
    file = chart / "files" / "pipelines" / "cosalign.json"
    spec = json.loads(file.read_text("utf-8"))
    executors = spec["deploymentSpec"]["executors"]
    next(e for e in executors.values() if "container" in e)["container"]["image"] = "python:3.11"
    file.write_text(json.dumps(spec), "utf-8")
    done = run_helm("template", "rel", str(chart), "-f", str(CHART / "ci" / "tags-values.yaml"))
    assert done.returncode != 0
    assert "python:3.11" in done.stderr


def _version_names(chart: Path) -> set[str]:
    done = run_helm("template", "rel", str(chart), "-f", str(CHART / "ci" / "tags-values.yaml"))
    return {line.strip() for line in done.stdout.splitlines() if "name: cosalign-0.1.0" in line}


def test_they_stay_when_the_release_goes() -> None:
    for kind in ("Pipeline", "PipelineVersion"):
        for item in of_kind(render(), kind).values():
            notes = item["metadata"]["annotations"]
            assert notes["helm.sh/resource-policy"] == "keep"
            assert notes["argocd.argoproj.io/sync-options"] == "Prune=false"
            # Without it an application with a kept version is OutOfSync for ever.
            assert notes["argocd.argoproj.io/compare-options"] == "IgnoreExtraneous"


def test_no_parameter_has_a_name_that_yaml_misreads() -> None:
    for version in _versions().values():
        root = version["spec"]["pipelineSpec"]["root"]
        names = set(root["inputDefinitions"]["parameters"])
        assert names.isdisjoint({"n", "y", "no", "yes", "on", "off", "true", "false", "null"})


def test_no_objects_where_kfp_would_not_see_them() -> None:
    objects = render({"pipelines": {"store": "none"}})
    assert of_kind(objects, "Pipeline") == of_kind(objects, "PipelineVersion") == {}
