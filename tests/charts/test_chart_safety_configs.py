"""templates/safety-configs.yaml: the same config from values, from a file, and by kubectl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.object_schemas import problems
from tests.charts.rendering import CHART, ROOT, Object, of_kind, refusal, render, render_set, the

from cosalign.domain.safety_config import SafetyConfig, parse_safety_config
from cosalign.domain.yaml_text import parse_yaml
from cosalign.runtime.safety_config_files import known_taxonomies

FILES = sorted((ROOT / "manifests" / "safety-configs").glob("*.yaml"))
TAXONOMIES = known_taxonomies()


def _document(file: Path) -> dict[str, Any]:
    return parse_yaml(file.read_text("utf-8"), file.name, ValueError)  # type: ignore[arg-type]


def _read(item: Object) -> SafetyConfig:
    return parse_safety_config(yaml.safe_dump(item), "rendered", TAXONOMIES)


def test_there_are_examples() -> None:
    assert len(FILES) >= 3


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_from_values_from_a_file_and_as_it_stands(file: Path) -> None:
    document = _document(file)
    name = document["metadata"]["name"]
    own = parse_safety_config(file.read_text("utf-8"), file.name, TAXONOMIES)
    by_values = render({"safetyConfigs": {name: document["spec"]}})
    by_file = render({}, "--set-file", f"safetyConfigFiles.{name}={file}")
    for objects in (by_values, by_file):
        item = the(objects, "SafetyConfig", name)
        assert item["spec"] == document["spec"]
        assert problems(item) == []
        assert _read(item).digest == own.digest
    assert problems(document) == []


def test_annotations_of_a_file_are_kept() -> None:
    text = FILES[-1].read_text("utf-8")
    noted = text.replace("metadata:\n", 'metadata:\n  annotations: {reviewed-in: "no"}\n', 1)
    name = _document(FILES[-1])["metadata"]["name"]
    item = the(render({"safetyConfigFiles": {name: noted}}), "SafetyConfig", name)
    assert item["metadata"]["annotations"] == {"reviewed-in": "no"}


def test_strings_that_yaml_misreads_arrive_as_they_were() -> None:
    given = yaml.safe_load((CHART / "ci" / "awkward-values.yaml").read_text("utf-8"))
    found = of_kind(render_set("awkward-values.yaml"), "SafetyConfig")
    assert {name: item["spec"] for name, item in found.items()} == given["safetyConfigs"]


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"a": "kind: ["}, "safetyConfigFiles.a: not YAML"),
        ({"a": "kind: ConfigMap\napiVersion: v1"}, "safetyConfigFiles.a: not a SafetyConfig"),
        ({"a": FILES[0].read_text("utf-8")}, f'its metadata.name is "{FILES[0].stem}"'),
    ],
)
def test_a_file_that_is_none_is_refused(files: dict[str, str], what: str) -> None:
    assert what in refusal({"safetyConfigFiles": files})


def test_one_name_for_two_configs_is_refused() -> None:
    file = FILES[0]
    spec = _document(file)["spec"]
    name = file.stem
    both = {"safetyConfigs": {name: spec}, "safetyConfigFiles": {name: file.read_text("utf-8")}}
    assert "one name, two configs" in refusal(both)
