"""What the user wrote is read before anything is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.errors import ConfigError, DataError, SafetyConfigError
from cosalign.domain.run_config import RunConfig
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.runtime.preflight import check_user_input

EXAMPLES = Path(__file__).parents[2] / "manifests" / "safety-configs"


def _check(**groups: Any) -> None:
    check_user_input(RunConfig.model_validate(groups, strict=False), load_taxonomy("cosa", "1"))


def test_good_input_passes() -> None:
    _check(
        configs={"files": (str(EXAMPLES),)},
        scoring={"thresholds": {"violence": 0.4, "addressed": 0.6, "follows": 0.5}},
        synthesis={"training_risks": ("violence",)},
        pairing={"pool": ("violence", "privacy_violations")},
    )


@pytest.mark.parametrize("setting", ["thresholds", "prompt_thresholds"])
def test_a_threshold_for_no_question_is_named(setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"scoring\.{setting}: .*'violense'.*'violence'"):
        _check(scoring={setting: {"violense": 0.5}})


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5])
def test_a_threshold_outside_its_range_is_named(value: float) -> None:
    with pytest.raises(ConfigError, match=r"scoring\.thresholds\.violence is "):
        _check(scoring={"thresholds": {"violence": value}})


@pytest.mark.parametrize(("group", "key"), [("synthesis", "training_risks"), ("pairing", "pool")])
def test_an_unknown_category_is_named_with_its_setting(group: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{group}\.{key}: 'privacy' .*privacy_violations"):
        _check(**{group: {key: ("privacy",)}})


def test_a_bad_safety_config_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: SafetyConfig\n")
    with pytest.raises(SafetyConfigError, match=r"a\.yaml"):
        _check(configs={"files": (str(tmp_path),)})


def test_a_folder_without_configs_is_found(tmp_path: Path) -> None:
    with pytest.raises(SafetyConfigError, match=r"no \*\.yaml file there"):
        _check(configs={"files": (str(tmp_path),)})


def test_a_missing_benchmark_is_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items\.jsonl"):
        _check(evaluation={"benchmark": str(tmp_path / "items.jsonl")})
