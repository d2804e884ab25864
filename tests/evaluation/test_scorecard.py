"""Which figures are cut from which items, and which of them come with a warning."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from tests.evaluation.evaluation_world import TAXONOMY

from cosalign.domain.config_rendering import render_categorical
from cosalign.domain.run_config import EvaluationGroup
from cosalign.evaluation.adherence import Adherence
from cosalign.evaluation.items import EvaluatedConfig, EvaluationItems, Item
from cosalign.evaluation.scorecard import Measured, Scorecard, flat_metrics, scorecard

NAN = math.nan


def items(count: int, *, leaked: int = 0) -> EvaluationItems:
    """A region's config and a benchmark's, ``count`` items each."""
    eu = EvaluatedConfig(("eu", "us"), ("EU", "US"), "control", render_categorical(TAXONOMY, 1, 0))
    bench = EvaluatedConfig(
        ("benchmark:none",), (), "benchmark:b", render_categorical(TAXONOMY, 0, 0)
    )
    rows = [Item(0, f"p{i}", "t", "allowed") for i in range(count)]
    rows += [Item(1, f"p{i}", "t", "disallowed", "seen") for i in range(count)]
    return EvaluationItems([eu, bench], rows, Counter(benchmark_items_in_training=leaked))


def card_of(values: dict[str, list[float]], *, leaked: int = 0) -> Scorecard:
    """The scorecard of systems whose h * s are given; the first half is the region's."""
    h = {name: np.abs(np.array(v)) for name, v in values.items()}
    s = {name: np.where(np.array(v) < 0, -1.0, 1.0) for name, v in values.items()}
    count = len(next(iter(values.values()))) // 2
    group = EvaluationGroup.model_validate({"systems": tuple(values), "bootstrap": 100})
    adherence = Adherence(pa.table({}), h, s, 0)
    return scorecard(Measured(items(count, leaked=leaked), adherence, TAXONOMY, group))


def test_scores_are_cut_by_config_type_split_and_source() -> None:
    card = card_of({"ica": [0.2, 0.4, -0.6, -1.0]})
    assert card["overall"]["ica"]["score"] == pytest.approx((0.3 - 0.8) / 2)
    assert [c["scores"]["ica"]["score"] for c in card["configs"]] == [0.3, -0.8]
    assert card["by_type"]["allowed"]["ica"]["score"] == 0.3
    assert "partial" not in card["by_type"]
    assert card["by_split"] == {"seen": card["by_suite"]["benchmark:b"]}
    assert card["by_suite"]["control"]["ica"]["items"] == 2


def test_every_name_of_a_config_has_its_metric() -> None:
    metrics = flat_metrics(card_of({"ica": [0.2, 0.4, -0.6, -1.0]}))
    assert metrics["cosa_score/ica/eu"] == metrics["cosa_score/ica/us"] == 0.3
    assert metrics["cosa_score/ica/benchmark:none"] == -0.8
    assert metrics["helpful_unsafe/ica"] == 0.5


def test_differences_are_to_base_and_ica() -> None:
    values = {"base": [0.0] * 4, "ica": [0.2] * 4, "dpo": [0.6] * 4}
    card = card_of(values)
    found = {(s, r): d["mean"] for s, refs in card["differences"].items() for r, d in refs.items()}
    assert found == {("ica", "base"): 0.2, ("dpo", "base"): 0.6, ("dpo", "ica"): 0.4}
    assert flat_metrics(card)["difference_low/dpo/ica"] == 0.4
    assert card["configs"][0]["differences"]["dpo"]["ica"]["pairs"] == 2


def test_declines_are_counted_by_split_and_type_over_what_is_known() -> None:
    card = card_of({"ica": [0.0, 0.4, -0.6, NAN], "dpo": [0.0, 0.0, NAN, NAN]})
    assert card["declined"] == {
        "all": {
            "allowed": {"items": 2, "shares": {"ica": 0.5, "dpo": 1.0}},
            "disallowed": {"items": 2, "shares": {"ica": 0.0, "dpo": None}},
        },
        "seen": {"disallowed": {"items": 2, "shares": {"ica": 0.0, "dpo": None}}},
    }
    metrics = flat_metrics(card)
    assert (metrics["declined_allowed/ica"], metrics["declined_disallowed/ica"]) == (0.5, 0.0)
    assert metrics["declined_disallowed/dpo"] is None


def test_unknown_is_null_in_json() -> None:
    card = card_of({"ica": [NAN] * 4})
    assert card["overall"]["ica"]["score"] is None
    assert flat_metrics(card)["cosa_score/ica/eu"] is None
    assert card["overall"]["ica"]["worst"] == -1


def test_warnings_name_low_coverage_few_items_and_leaks() -> None:
    many = [0.5] * 80
    assert card_of({"ica": many})["warnings"] == []
    (coverage,) = card_of({"ica": many, "dpo": [NAN] * 9 + many[9:]})["warnings"]
    assert "(dpo 89%)" in coverage
    (size,) = card_of({"ica": [0.5] * 58})["warnings"]
    assert "eu, us (29), benchmark:none (29)" in size
    (leak,) = card_of({"ica": many}, leaked=3)["warnings"]
    assert leak.startswith("3 benchmark items")
