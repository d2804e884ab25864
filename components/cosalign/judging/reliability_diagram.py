"""The reliability diagram: do a judge's probabilities mean what they say?

Examples are gathered by the probability of yes that they were given; each mark shows the share of
them that is yes. Calibrated marks are out of fold, with the interval of their share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from markupsafe import Markup

from cosalign.runtime.pages import page_template

SIDE = 220.0
"""Side of the square, in the drawing's own units."""


def reliability_diagram(question: Mapping[str, Any]) -> Markup:
    """Draws one question's diagram as SVG.

    Args:
        question: ``question``, and the bins ``raw_bins`` and ``bins`` as ``measured.json`` of a
            calibration has them.
    """
    template = page_template("cosalign.judging", "reliability_diagram.html.j2")
    drawn = template.render(
        question=question,
        side=SIDE,
        raw=_bubbles(question["raw_bins"]),
        calibrated=_bubbles(question["bins"]),
    )
    return Markup(drawn)  # noqa: S704  our own template, which escapes


@cache
def diagram_style() -> Markup:
    """The diagram's style sheet, for pages that show one."""
    style = (resources.files("cosalign.judging") / "reliability_diagram.css").read_text("utf-8")
    return Markup(style)  # noqa: S704  our own file


def _bubbles(bins: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Marks of a diagram: the larger, the more rows; whiskers are the intervals."""
    most = max((one["rows"] for one in bins), default=1)
    return [
        {
            "x": round(SIDE * one["said"], 2),
            "y": round(SIDE * (1 - one["found"]), 2),
            "low": round(SIDE * (1 - one["low"]), 2),
            "high": round(SIDE * (1 - one["high"]), 2),
            "r": round(2.5 + 5.5 * (one["rows"] / most) ** 0.5, 2),
            "rows": one["rows"],
        }
        for one in bins
    ]
