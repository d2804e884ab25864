"""What a trainer's state says once it is done: the curve, the kept step, the figures on dev.

Read from the state alone, which each checkpoint holds; so it is the same whatever process trained.
Times are left out, so that equal training gives equal files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

    from cosalign.domain.run_config.safeguards import Keep

DEV_LOSS = "eval_loss"
"""A log entry with this name is of the development split."""

SKIPPED = "skipped_rows"
"""In a step's log entry: the rows for whose sake it was skipped."""

_CURVE = (
    "step", "epoch", "loss", "learning_rate", "grad_norm", "mean_token_accuracy",
    "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """See :class:`cosalign.training.stage.StageResult` for the fields."""

    steps: int
    curve: list[dict[str, float]]
    kept_step: int
    dev: dict[str, dict[str, float]]
    skipped: int

    @classmethod
    def of(cls, state: Any, keep: Keep) -> Self:
        """Reads a ``TrainerState``."""
        steps, best = int(state.global_step), state.best_global_step
        entries: Sequence[Mapping[str, Any]] = state.log_history
        dev = {"best": _dev_figures(entries, best), "last": _dev_figures(entries, steps)}
        return cls(
            steps=steps,
            curve=_curve(entries),
            kept_step=steps if keep == "last" or best is None else int(best),
            dev={name: figures for name, figures in dev.items() if figures},
            skipped=sum(SKIPPED in entry for entry in entries),
        )


def _curve(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """One entry a step that counted: loss, rate, gradient norm, and so on."""
    logged = [entry for entry in entries if "loss" in entry]
    return [{name: float(e[name]) for name in _CURVE if name in e} for e in logged]


def _dev_figures(entries: Sequence[Mapping[str, Any]], step: int | None) -> dict[str, float]:
    """What was measured after a step, without the prefix; empty where nothing was."""
    found = [entry for entry in entries if DEV_LOSS in entry and entry["step"] == step]
    if not found:
        return {}
    figures = {name: value for name, value in found[-1].items() if name.startswith("eval_")}
    return {"step": float(found[-1]["step"])} | {
        name.removeprefix("eval_"): float(value) for name, value in figures.items()
    }


def chosen_dev(table: pa.Table, most: int, seed: int) -> pa.Table:
    """At most so many rows, a seeded choice, in their order."""
    if table.num_rows <= most:
        return table
    order = np.random.default_rng([seed, 1]).permutation(table.num_rows)
    return table.take(np.sort(order[:most]))
