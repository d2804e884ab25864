"""Stored items as arrays: what is aligned, what is unknown, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cosalign.domain.errors import DataError
from cosalign.domain.schemas import EVALUATED_CONFIGS, EVALUATION
from cosalign.evaluation.item_table import ItemTable, is_control, read_items


def row(system: str, prompt: str, h: float | None, s: int | None, **more: Any) -> dict[str, Any]:
    return {
        "system": system, "suite": "control", "config": "eu", "prompt_id": prompt,
        "response_id": "r", "prompt_type": "allowed", "split": None, "risk_mask": 1,
        "known_mask": 255, "h": h, "s": s, **more,
    }  # fmt: skip


def config(label: str = "eu", suite: str = "control", **more: Any) -> dict[str, Any]:
    return {
        "config": label, "suite": suite, "kind": "categorical", "config_id": "c", "digest": "d",
        "allowed_mask": 1, "seen": True, "names": [label], "regions": ["EU"], **more,
    }  # fmt: skip


def items(
    rows: list[dict[str, Any]], *configs: dict[str, Any], order: tuple[str, ...] = ()
) -> ItemTable:
    table = pa.Table.from_pylist(rows, schema=EVALUATION)
    return read_items(
        table, pa.Table.from_pylist(list(configs) or [config()], schema=EVALUATED_CONFIGS), order
    )


def test_systems_are_aligned_by_item_whatever_the_order_of_rows() -> None:
    found = items(
        [row("dpo", "b", 1.0, 1), row("ica", "a", 0.2, -1), row("dpo", "a", 0.4, 1),
         row("ica", "b", 0.0, 1)],
        order=("ica", "dpo"),
    )  # fmt: skip
    assert found.systems == ("ica", "dpo")
    assert [key[2] for key in found.keys] == ["a", "b"]
    assert found.h["dpo"].tolist() == [0.4, 1.0]
    assert found.response_scores("ica").tolist() == [-0.2, 0.0]


def test_h_is_what_the_judge_said_although_32_bits_cannot_hold_it() -> None:
    found = items([row("dpo", str(n), n / 5, 1) for n in range(6)])
    assert found.h["dpo"].tolist() == [n / 5 for n in range(6)]


def test_unknown_and_not_asked_are_told_apart() -> None:
    found = items([row("dpo", "a", None, 1), row("ica", "b", 1.0, None)])
    assert found.asked["dpo"].tolist() == [True, False]
    assert found.asked["ica"].tolist() == [False, True]
    assert math.isnan(found.h["dpo"][0])
    assert np.isnan(found.response_scores("ica")).all()


def test_a_prompt_has_one_number_under_all_configs() -> None:
    rows = [row("dpo", p, 1.0, 1, config=c) for c in ("eu", "us") for p in ("a", "b")]
    found = items(rows, config("us"), config("eu"))
    assert found.config.tolist() == [0, 0, 1, 1]
    assert found.keys[0][1] == "us"
    assert found.prompt.tolist() == [0, 1, 0, 1]


def test_one_label_in_two_suites_is_two_configs() -> None:
    rows = [row("dpo", "a", 1.0, 1), row("dpo", "a", 1.0, 1, suite="acceptance:EU")]
    found = items(rows, config(), config(suite="acceptance:EU"))
    assert found.config.tolist() == [0, 1]
    assert found.controlled.tolist() == [True, False]


def test_control_is_what_measures_how_configs_are_followed() -> None:
    suites = ("control", "benchmark:x", "attack:x", "general:x", "refusal:x", "acceptance:x")
    assert [is_control(suite) for suite in suites] == [True, True, False, False, False, False]


def test_a_contradictory_table_is_refused() -> None:
    with pytest.raises(DataError, match="holds an item of dpo twice"):
        items([row("dpo", "a", 1.0, 1), row("dpo", "a", 0.0, 1)])
    with pytest.raises(DataError, match="config 'jp' of suite 'control'"):
        items([row("dpo", "a", 1.0, 1, config="jp")])
