"""templates/run-configs.yaml: what a step reads is what values said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.rendering import CHART, ROOT, render, render_set, the

from cosalign.runtime.run_config import load_run_config


def _written(values: dict[str, Any], name: str, tmp_path: Path) -> Path:
    item = the(render(values), "ConfigMap", f"rel-cosalign-run-{name}")
    file = tmp_path / "run-config.yaml"
    file.write_text(item["data"]["run-config.yaml"], "utf-8")
    return file


@pytest.mark.parametrize("profile", ["paper", "small"])
def test_a_whole_profile_through_helm(profile: str, tmp_path: Path) -> None:
    source = ROOT / "profiles" / f"{profile}.yaml"
    values = {"runConfigs": {profile: yaml.safe_load(source.read_text("utf-8"))}}
    file = _written(values, profile, tmp_path)
    assert load_run_config(str(file)) == load_run_config(str(source))


@pytest.mark.parametrize("number", [0, 999_999, 1_000_000, 123_456_789, 2**53])
def test_whole_numbers_stay_whole(number: int, tmp_path: Path) -> None:
    values = {"runConfigs": {"big": {"pairing": {"seed": number}}}}
    assert load_run_config(str(_written(values, "big", tmp_path))).pairing.seed == number


@pytest.mark.parametrize("rate", [5e-7, 1e-5, 0.1, 3.0])
def test_small_numbers_stay_what_they_are(rate: float, tmp_path: Path) -> None:
    values = {"runConfigs": {"low": {"training": {"dpo": {"learning_rate": rate}}}}}
    found = load_run_config(str(_written(values, "low", tmp_path)))
    assert found.training.dpo.learning_rate == rate


def test_storage_root_is_the_release_s_unless_the_config_has_its_own(tmp_path: Path) -> None:
    given = {"storage": {"root": "gs://bucket/here"}, "runConfigs": {"a": {}}}
    assert load_run_config(str(_written(given, "a", tmp_path))).storage.root == "gs://bucket/here"
    given["runConfigs"] = {"a": {"storage": {"root": "gs://bucket/there"}}}
    assert load_run_config(str(_written(given, "a", tmp_path))).storage.root == "gs://bucket/there"
    given["runConfigs"] = {"a": {"storage": {"cache": "/scratch"}}}
    found = load_run_config(str(_written(given, "a", tmp_path))).storage
    assert (found.root, found.cache) == ("gs://bucket/here", "/scratch")


@pytest.mark.parametrize("values", ["gke-values.yaml", "awkward-values.yaml"])
def test_the_examples_load(values: str, tmp_path: Path) -> None:
    configs = [o for o in render_set(values) if o["kind"] == "ConfigMap"]
    given = yaml.safe_load((CHART / "ci" / values).read_text("utf-8"))["runConfigs"]
    assert len(configs) == len(given)
    for item in configs:
        file = tmp_path / f"{item['metadata']['name']}.yaml"
        file.write_text(item["data"]["run-config.yaml"], "utf-8")
        assert load_run_config(str(file))
