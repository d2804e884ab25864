"""Where the marks of the report's drawings stand."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.evaluation.report_plots import (
    LABEL_HEIGHT,
    LABEL_WIDTH,
    SCATTER_HEIGHT,
    config_plot,
    funnel,
    loss_curve,
    score_plot,
    shares_scatter,
)

SCORE: dict[str, Any] = {"score": 0.2, "low": -0.15, "high": 0.4}
UNKNOWN: dict[str, Any] = {"score": None, "low": None, "high": None}
SHARES = st.floats(0, 1).flatmap(
    lambda safe: st.tuples(st.just(safe), st.floats(0, max(0.0, 1 - safe)))
)


def test_the_plot_holds_all_intervals_and_zero_inside_its_width() -> None:
    plot = score_plot({"ica": SCORE, "dpo": {**SCORE, "score": 0.6, "low": 0.5, "high": 0.7}})
    assert plot is not None
    first, second = plot.rows
    assert 0 < first.low < first.at < first.high < second.low < second.at < second.high < 100
    ticks = {label: at for at, label in plot.ticks}
    assert first.low < ticks["0.0"] < first.at
    assert 2 <= len(ticks) <= 7


def test_systems_without_a_score_are_not_plotted() -> None:
    plot = score_plot({"ica": UNKNOWN, "dpo": SCORE})
    assert plot is not None
    assert [row.name for row in plot.rows] == ["dpo"]
    assert score_plot({"ica": UNKNOWN}) is None


def test_a_loss_curve_runs_from_corner_to_corner() -> None:
    curve = loss_curve("dpo", [{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}])
    assert curve is not None
    assert curve.points == "0.00,2.00 50.00,20.00 100.00,38.00"
    assert (curve.first, curve.last, curve.least, curve.most, curve.steps) == (3, 1, 1, 3, 3)


@pytest.mark.parametrize(
    "entries", [[], [{"loss": 1.0}], [{"step": 1.0}, {"loss": 1.0}], [{"loss": math.nan}] * 3]
)
def test_a_curve_of_less_than_two_losses_is_not_drawn(entries: list[dict[str, float]]) -> None:
    assert loss_curve("sft", entries) is None


def test_a_flat_loss_is_drawn() -> None:
    curve = loss_curve("sft", [{"loss": 1.0}, {"loss": 1.0}])
    assert curve is not None
    assert curve.points == "0.00,38.00 100.00,38.00"


def test_all_configs_share_one_axis() -> None:
    high = {**SCORE, "score": 0.8, "low": 0.7, "high": 0.9}
    plot = config_plot(
        [
            {"label": "a", "scores": {"dpo": SCORE}},
            {"label": "b", "scores": {"dpo": UNKNOWN}},
            {"label": "c", "scores": {"dpo": high}},
        ]
    )
    assert plot is not None
    assert [group.label for group in plot.groups] == ["a", "c"]
    assert plot.rows[0].high < plot.rows[1].low < plot.rows[1].high < 100


def test_a_score_without_an_interval_is_a_mark_alone() -> None:
    plot = score_plot({"dpo": {"score": 0.3, "low": None, "high": None}})
    assert plot is not None
    (row,) = plot.rows
    assert row.low == row.at == row.high


@given(st.lists(SHARES, min_size=1, max_size=4))
def test_systems_are_placed_by_their_shares_and_labels_do_not_overlap(
    shares: list[tuple[float, float]],
) -> None:
    scatter = shares_scatter(
        {f"s{i}": {"helpful_safe": s, "helpful_unsafe": u} for i, (s, u) in enumerate(shares)}
    )
    assert scatter is not None
    for point in scatter.points:
        assert 0 < point.x < 100
        assert 0 < point.y < SCATTER_HEIGHT
        assert point.label_y < SCATTER_HEIGHT
    for one, other in combinations(scatter.points, 2):
        if one.safe > other.safe + 0.01:
            assert one.y < other.y
        if one.unsafe > other.unsafe + 0.01:
            assert one.x > other.x
        if abs(one.x - other.x) < LABEL_WIDTH:
            assert abs(one.label_y - other.label_y) >= LABEL_HEIGHT - 0.01


def test_nothing_judged_is_no_scatter() -> None:
    assert shares_scatter({"dpo": {"helpful_safe": None, "helpful_unsafe": None}}) is None


def test_the_funnel_is_drawn_to_scale_within_prompts_and_within_answers() -> None:
    bars = funnel({"prompts_read": 200, "prompts_kept": 50, "responses": 30, "dpo_records": 15})
    assert [(b.count, b.width) for b in bars["Prompts"]] == [(200, 100), (50, 25)]
    assert [(b.count, b.width) for b in bars["Answers and records"]] == [(30, 100), (15, 50)]
    assert funnel({}) == {}
