"""The report: one HTML file that shows the figures, how far they can be trusted, and no text.

It is self-contained (it may be opened from a bucket, a mail or KFP's viewer, none of which loads
other files) and holds ids and figures only: prompts and responses stay in tables, where access is
controlled. No times either, so that the same figures are the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from cosalign.evaluation.scorecard import Scorecard

SYSTEM_TITLES = {
    "base": "the base model, no config",
    "ica": "the base model, config in its prompt",
    "sft": "after SFT, config in its prompt",
    "dpo": "after SFT and DPO, config in its prompt",
}


@dataclass(frozen=True)
class PlotRow:
    """One system's place in the plot: positions in percent of its width."""

    name: str
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Plot:
    """A plot of scores with intervals; ``ticks`` are (position in percent, label)."""

    rows: list[PlotRow]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class LossCurve:
    """A stage's loss as points of a 100 x 40 drawing, with what its axes span."""

    stage: str
    points: str
    first: float
    last: float
    least: float
    most: float
    steps: int


def render_report(
    card: Scorecard, synthesis_counts: Mapping[str, int], curves: Mapping[str, Any]
) -> str:
    """Renders the report.

    Args:
        card: See :func:`cosalign.evaluation.scorecard.scorecard`, with its models named.
        synthesis_counts: The funnel of the synthesis step.
        curves: Training curves: stage to entries with ``step`` and ``loss``.
    """
    drawn = [loss_curve(stage, entries) for stage, entries in curves.items()]
    return _template().render(
        card=card,
        titles=SYSTEM_TITLES,
        funnel=_results(synthesis_counts),
        plot=score_plot(card["overall"]),
        curves=[curve for curve in drawn if curve],
    )


def score_plot(scores: Mapping[str, Any]) -> Plot | None:
    """Places scores and intervals on an axis that holds them all and zero, in steps of 0.1."""
    known: dict[str, dict[str, float]] = {
        name: s for name, s in scores.items() if s["score"] is not None
    }
    if not known:
        return None
    start = math.floor(10 * min(0.0, *(s["low"] for s in known.values())))
    end = math.ceil(10 * max(0.1, *(s["high"] for s in known.values())))

    def place(value: float) -> float:
        return round(2 + 96 * (10 * value - start) / (end - start), 3)

    rows = [
        PlotRow(name, place(s["score"]), place(s["low"]), place(s["high"]))
        for name, s in known.items()
    ]
    every = max(1, math.ceil((end - start) / 6))
    ticks = [
        (place(n / 10), _minus(f"{n / 10:.1f}")) for n in range(start, end + 1) if n % every == 0
    ]
    return Plot(rows, ticks)


def loss_curve(stage: str, entries: Sequence[Mapping[str, float]]) -> LossCurve | None:
    """Draws a stage's loss; ``None`` where it took fewer than two steps."""
    losses = [entry["loss"] for entry in entries if math.isfinite(entry.get("loss", math.nan))]
    if len(losses) <= 1:
        return None
    least, most = min(losses), max(losses)
    span = (most - least) or 1.0
    points = " ".join(
        f"{100 * i / (len(losses) - 1):.2f},{38 - 36 * (loss - least) / span:.2f}"
        for i, loss in enumerate(losses)
    )
    return LossCurve(stage, points, losses[0], losses[-1], least, most, len(losses))


def _results(counts: Mapping[str, int]) -> dict[str, int]:
    """Without what only says how much one attempt paid for."""
    return {
        name: count
        for name, count in sorted(counts.items())
        if name != "engine_starts" and not name.endswith("_made")
    }


@cache
def _template() -> Template:
    text = (resources.files("cosalign.evaluation") / "report.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": _figure, "signed": _signed, "share": _share, "words": _words}
    return environment.from_string(text)


def _figure(value: float | None) -> str:
    # z: what rounds to zero has no sign.
    return "unknown" if value is None else _minus(f"{value:z.3f}")


def _signed(value: float | None) -> str:
    return "unknown" if value is None else _minus(f"{value:+z.3f}")


def _minus(figure: str) -> str:
    return figure.replace("-", "\N{MINUS SIGN}")


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def _words(name: str) -> str:
    return name.replace("_", " ")
