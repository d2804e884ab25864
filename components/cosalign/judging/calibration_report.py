"""The calibration report: one HTML file on how far a judge can be trusted, question by question.

Self-contained (no script, no other file), in the reader's light or dark theme, and without a text:
ids, counts and figures only. No times either, so that the same figures are the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosalign.judging.calibration_metrics import RESAMPLES
from cosalign.judging.reliability_diagram import diagram_style, reliability_diagram
from cosalign.runtime.pages import page_template

FIGURES = {
    "auroc": "AUROC",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "kappa": "Cohen's kappa",
    "alpha": "Krippendorff's alpha",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "log_loss": "Log loss",
}
"""Metric to what the report calls it, in the order of its rows."""


def render_calibration_report(outcome: Mapping[str, Any], rule: str) -> str:
    """Renders the report.

    Args:
        outcome: See :func:`cosalign.judging.judge_calibration.plain_outcome`.
        rule: The threshold rule as it was asked for.
    """
    return page_template("cosalign.judging", "calibration_report.html.j2").render(
        outcome=outcome,
        rule=rule,
        resamples=RESAMPLES,
        figure_names=FIGURES,
        lanes=[_lane(question) for question in outcome["questions"]],
        diagram=reliability_diagram,
        diagram_style=diagram_style(),
    )


def _lane(question: Mapping[str, Any]) -> dict[str, Any]:
    """A question's AUROC on an axis from 0 to 1, in percent of its width."""
    found = question["figures"].get("auroc")
    if not found or found["value"] is None:
        return {"name": question["question"], "at": None}
    value = found["value"]
    low, high = (value if found[end] is None else found[end] for end in ("low", "high"))
    return {"name": question["question"], "at": _at(value), "low": _at(low), "high": _at(high)}


def _at(value: float) -> float:
    return round(2 + 96 * value, 3)
