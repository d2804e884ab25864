"""The training curves of a run as one HTML page: what happened in each step, and what was kept.

Figures and ids alone; the loss that went wrong, the batch that was left out and the checkpoint that
was taken are on the same axis, since that is how they explain one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cosalign.runtime.line_plots import LinePlot, Series, line_plot
from cosalign.runtime.pages import page_template
from cosalign.training.outcome import DEV_LOSS, SKIPPED
from cosalign.training.stage_history import CHECKPOINT, History

MOST_ROWS = 400
"""Steps that the table shows; of a longer training every so many-th, and all that are special."""

_HOUR = 3600

PLOTS = {
    "Loss": "loss",
    "Margin of the rewards": "rewards/margins",
    "Pairs ranked rightly": "rewards/accuracies",
    "Likeliest token right": "mean_token_accuracy",
    "Gradient norm": "grad_norm",
    "Learning rate": "learning_rate",
    "Tokens a second": "tokens_per_second",
}
"""Title of a plot, and the figure it shows, beside that on the development split."""

COLUMNS = {
    "loss": "loss",
    DEV_LOSS: "dev loss",
    "rewards/margins": "margin",
    "rewards/accuracies": "right",
    "grad_norm": "gradient",
    "learning_rate": "rate",
    "tokens_per_second": "tokens/s",
    "padding_share": "padding",
    "mfu": "MFU",
    "memory_gib": "GiB",
}


@dataclass(frozen=True)
class StageCurves:
    """What the page shows of a stage.

    Attributes:
        name: ``sft`` or ``dpo``.
        plots: Those that there are figures for.
        rows: The table's rows, by step.
        columns: The table's columns that hold anything.
        every: Of how many ordinary steps one is in the table.
        checkpoints: Steps after which a checkpoint was made.
        skipped: Rows for whose sake a step was skipped, by step.
        facts: Figures of the whole stage, by name.
    """

    name: str
    plots: tuple[LinePlot, ...]
    rows: tuple[dict[str, Any], ...]
    columns: dict[str, str]
    every: int
    checkpoints: tuple[int, ...]
    skipped: dict[int, list[str]]
    kept_step: int
    facts: dict[str, str]


def render_curves(stages: Sequence[StageCurves]) -> str:
    """Renders the page."""
    template = page_template("cosalign.training", "curves.html.j2")
    return template.render(stages=stages, shown=_shown)


def stage_curves(name: str, history: History, kept_step: int) -> StageCurves:
    """What a stage's history says.

    Args:
        name: ``sft`` or ``dpo``.
        history: As :func:`cosalign.training.stage_history.read_history` gives it.
        kept_step: The step whose model the stage left.
    """
    checkpoints = tuple(sorted(e[CHECKPOINT] for e in history if CHECKPOINT in e))
    by_step = _by_step([entry for entry in history if CHECKPOINT not in entry])
    skipped = {step: row[SKIPPED] for step, row in by_step.items() if SKIPPED in row}
    special = {*checkpoints, *skipped, *(s for s, row in by_step.items() if DEV_LOSS in row)}
    every = max(1, math.ceil(len(by_step) / MOST_ROWS))
    rows = tuple(
        row for n, (step, row) in enumerate(by_step.items()) if not n % every or step in special
    )
    columns = {key: title for key, title in COLUMNS.items() if any(key in row for row in rows)}
    plots = tuple(plot for title, key in PLOTS.items() if (plot := _plot(title, key, by_step)))
    return StageCurves(
        name, plots, rows, columns, every, checkpoints, skipped, kept_step, _facts(by_step)
    )


def _by_step(entries: History) -> dict[int, dict[str, Any]]:
    """One row a step, in order: its own figures, and those on the development split after it."""
    found: dict[int, dict[str, Any]] = {}
    for entry in sorted(entries, key=lambda entry: int(entry["step"])):
        found.setdefault(entry["step"], {}).update(entry)
    return found


def _plot(title: str, key: str, by_step: Mapping[int, Mapping[str, Any]]) -> LinePlot | None:
    def points(name: str) -> list[tuple[float, float]]:
        return [(step, row[name]) for step, row in by_step.items() if row.get(name) is not None]

    training = Series("training", points(key))
    return line_plot(title, [training, Series("development split", points(f"eval_{key}"), True)])


def _facts(by_step: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    rows = by_step.values()
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    rates = [row["tokens_per_second"] for row in rows if row.get("tokens_per_second")]
    shares = [row["mfu"] for row in rows if row.get("mfu") is not None]
    memory = [row["memory_gib"] for row in rows if "memory_gib" in row]
    return {
        "steps": f"{len(by_step):,}",
        "tokens computed on": f"{sum(row.get('tokens', 0) for row in rows):,}",
        "time in steps": f"{seconds / 3600:.2f} h" if seconds >= _HOUR else f"{seconds:.0f} s",
        "tokens a second, median": f"{median(rates):,.0f}" if rates else "unknown",
        "MFU, median": f"{100 * median(shares):.1f} %" if shares else "unknown",
        "most memory": f"{max(memory):.1f} GiB" if memory else "unknown",
    }


def _shown(value: Any) -> str:
    """A figure as a table shows it: four digits that count."""
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004
