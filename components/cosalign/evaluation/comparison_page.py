"""A comparison for people: a page like the report's, and lines for the terminal."""

from __future__ import annotations

from cosalign.evaluation.comparison import Comparison
from cosalign.evaluation.report_plots import config_plot
from cosalign.evaluation.system_marks import marks_of
from cosalign.runtime.pages import figure, page_template, signed


def render_comparison(found: Comparison) -> str:
    """Renders the page.

    Args:
        found: See :func:`cosalign.evaluation.comparison.compare`.
    """
    labels = [run["label"] for run in found["runs"]]
    return page_template("cosalign.evaluation", "comparison.html.j2").render(
        found=found,
        labels=labels,
        first=labels[0],
        marks=marks_of(labels),
        by_config=config_plot([{"label": "all", "scores": found["overall"]["scores"]},
                               *found["configs"]]),
    )  # fmt: skip


def comparison_lines(found: Comparison) -> list[str]:
    """The runs' scores and differences, one line a run."""
    labels = [run["label"] for run in found["runs"]]
    width = max(len("run"), *(len(label) for label in labels))
    lines = [f"{'run':<{width}}  CoSA-Score  interval           against {labels[0]}"]
    for label in labels:
        score = found["overall"]["scores"].get(label)
        if score is None:
            lines.append(f"{label:<{width}}  no item under a config")
            continue
        ends = f"{figure(score['low'])} to {figure(score['high'])}"
        lines.append(
            f"{label:<{width}}  {figure(score['score']):>10}  {ends:<17}  {_change(found, label)}"
        )
    return [*lines, *(f"warning: {warning}" for warning in found["warnings"])]


def _change(found: Comparison, label: str) -> str:
    first = found["runs"][0]["label"]
    difference = found["overall"]["differences"].get(label, {}).get(first)
    if difference is None or difference["mean"] is None:
        return ""
    ends = f"{signed(difference['low'])} to {signed(difference['high'])}"
    return f"{signed(difference['mean'])} ({ends}, {difference['pairs']} pairs)"
