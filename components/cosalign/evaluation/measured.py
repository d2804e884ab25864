"""The same figures over any choice of items: scores of each system, and differences between them.

A figure for a region, a prompt type or a category is one function over fewer items. All figures of
one choice share the bootstrap's draws, so the differences are paired: the same prompts under the
same configs, where both answers could be judged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cosalign.evaluation.bootstrap import Resampling, bootstrap_means
from cosalign.evaluation.cosa_score import (
    FIGURES,
    BoolArray,
    FloatArray,
    Interval,
    bounded,
    item_figures,
    item_scores,
    means_over_configs,
)
from cosalign.evaluation.item_table import ItemTable

REFERENCES = ("base", "ica", "current")
"""What systems are compared with, where they were evaluated."""

Part = dict[str, Any]
"""Figures of a choice of items: ``items``, ``scores`` by system, and ``differences`` by system and
reference."""


@dataclass(frozen=True)
class Measured:
    """Stored items, settings of the intervals, and what systems are compared with."""

    items: ItemTable
    resampling: Resampling
    references: tuple[str, ...] = REFERENCES

    def part(self, chosen: BoolArray, *, intervals: bool = True) -> Part:
        """The figures over some items.

        Args:
            chosen: Which items, shape (n,).
            intervals: Whether scores have intervals, and differences are given at all.
        """
        systems = [name for name in self.items.systems if self.items.asked[name][chosen].any()]
        figures = {name: self._figures(name, chosen) for name in systems}
        pairs = self._pairs(systems) if intervals else []
        gained = [figures[ours][0] - figures[theirs][0] for ours, theirs in pairs]
        rows = [row for name in systems for row in figures[name]] + gained
        means = self._means(rows, chosen, intervals=intervals)
        width = len(FIGURES)
        found: Part = {"items": int(chosen.sum()), "scores": {}, "differences": {}}
        for i, name in enumerate(systems):
            own = means[i * width : (i + 1) * width]
            found["scores"][name] = self._score(name, chosen, own)
        for (ours, theirs), row, mean in zip(
            pairs, gained, means[len(systems) * width :], strict=True
        ):
            known = int((~np.isnan(row)).sum())
            found["differences"].setdefault(ours, {})[theirs] = difference_json(mean, known)
        return found

    def refused(self, chosen: BoolArray) -> dict[str, float | None]:
        """The share of each system's answers with h = 0: declined, or no help at all."""
        scores = self.part(chosen, intervals=False)["scores"]
        return {system: score["refused"] for system, score in scores.items()}

    def _figures(self, system: str, chosen: BoolArray) -> FloatArray:
        return item_figures(self.items.h[system][chosen], self.items.s[system][chosen])

    def _means(
        self, rows: list[FloatArray], chosen: BoolArray, *, intervals: bool
    ) -> list[Interval]:
        if not rows:
            return []
        values, groups = np.stack(rows), self.items.config[chosen]
        if not intervals:
            return [Interval(mean) for mean in means_over_configs(values, groups).tolist()]
        return bootstrap_means(values, groups, self.items.prompt[chosen], self.resampling)

    def _score(self, system: str, chosen: BoolArray, means: list[Interval]) -> dict[str, Any]:
        asked = self.items.asked[system][chosen]
        scores = item_scores(self.items.h[system][chosen], self.items.s[system][chosen])
        ends = np.stack(bounded(scores, asked))
        worst, best = means_over_configs(ends, self.items.config[chosen]).tolist()
        count, known = int(asked.sum()), int((~np.isnan(scores)).sum())
        found: dict[str, Any] = {"items": count, "known": known}
        found |= {"coverage": rounded(known / count), "worst": rounded(worst)}
        found["best"] = rounded(best)
        for name, mean in zip(FIGURES, means, strict=True):
            found[name] = rounded(mean.mean)
            prefix = "" if name == "score" else f"{name}_"
            found[f"{prefix}low"], found[f"{prefix}high"] = rounded(mean.low), rounded(mean.high)
        return found

    def _pairs(self, systems: list[str]) -> list[tuple[str, str]]:
        known = [name for name in self.references if name in systems]
        pairs = [(s, r) for s in systems for r in known if r != s]
        return [(s, r) for s, r in pairs if not (s in known and known.index(s) < known.index(r))]


def difference_json(difference: Interval, pairs: int) -> dict[str, float | int | None]:
    """A paired difference as JSON; ``pairs`` is of how many items."""
    return {
        "mean": rounded(difference.mean),
        "low": rounded(difference.low),
        "high": rounded(difference.high),
        "pairs": pairs,
    }


def rounded(value: float) -> float | None:
    """A figure with six places; ``None`` where it is unknown."""
    return None if math.isnan(value) else round(value, 6)
