"""The report's drawings, and what it shows where there is nothing to show."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from cosalign.evaluation.report import loss_curve, render_report, score_plot

SCORE: dict[str, Any] = {
    "score": 0.2, "low": -0.15, "high": 0.4, "worst": 0.1, "best": 0.3, "coverage": 0.95,
    "helpful_safe": 0.5, "helpful_unsafe": 0.25, "items": 40, "known": 38,
}  # fmt: skip
UNKNOWN: dict[str, Any] = {**dict.fromkeys(SCORE), "coverage": 0.0, "items": 40, "known": 0}


def card(scores: dict[str, Any], **more: Any) -> dict[str, Any]:
    config = {
        "label": "eu-bank", "names": ["eu-bank"], "regions": ["EU & <i>more</i>"],
        "source": "region", "kind": "categorical", "allowed": ["violence"], "items": 40,
        "scores": scores, "by_type": {"allowed": scores, "partial": scores},
    }  # fmt: skip
    return {
        "systems": list(scores),
        "settings": {"confidence": 0.95, "bootstrap": 100, "max_tokens": 64},
        "overall": scores, "differences": {}, "by_source": {"region": scores}, "by_split": {},
        "by_type": {"allowed": scores}, "configs": [config], "counts": {"items": 40},
        "warnings": [], "models": {"judge": {"uri": "<judge>", "digest": "a" * 64}}, **more,
    }  # fmt: skip


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


def test_names_are_escaped_and_nothing_is_loaded() -> None:
    page = render_report(card({"dpo": SCORE}), {}, {})
    assert "EU &amp; &lt;i&gt;more&lt;/i&gt;" in page
    assert "&lt;judge&gt;" in page
    assert not re.search(r"(src|href|url\()", page)
    assert "prefers-color-scheme: dark" in page


def test_unknown_figures_say_so() -> None:
    page = render_report(card({"dpo": UNKNOWN}), {}, {})
    assert "unknown" in page
    assert "None" not in page
    assert "nan" not in page


def test_warnings_stand_in_the_page_only_where_there_are_some() -> None:
    assert 'class="warnings"' not in render_report(card({"dpo": SCORE}), {}, {})
    page = render_report(card({"dpo": SCORE}, warnings=["few <items>"]), {}, {})
    assert "few &lt;items&gt;" in page


def test_the_funnel_leaves_out_what_one_attempt_paid_for() -> None:
    counts = {"prompts_kept": 1234, "labels_made": 987, "engine_starts": 654}
    page = render_report(card({"dpo": SCORE}), counts, {})
    assert "1234" in page
    assert "987" not in page
    assert "654" not in page


def test_a_score_that_rounds_to_zero_has_no_sign() -> None:
    page = render_report(card({"dpo": {**SCORE, "score": -0.0001, "low": -0.2}}), {}, {})
    assert "\N{MINUS SIGN}0.000" not in page
    assert "\N{MINUS SIGN}0.200" in page
