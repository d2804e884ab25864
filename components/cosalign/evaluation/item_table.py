"""The stored items of one evaluation as arrays, aligned over systems.

All figures are computed from here, and here from nothing but the two stored tables: a figure can be
recomputed years later, by anyone, and a comparison of two runs needs no run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cosalign.domain.errors import DataError
from cosalign.evaluation.cosa_score import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]
Key = tuple[str, str, str]
"""Suite, config and prompt id."""

CONTROL = "control"
BENCHMARK, ACCEPTANCE = "benchmark:", "acceptance:"
REFUSAL, ATTACK, GENERAL = "refusal:", "attack:", "general:"
NO_ATTACK = f"{ATTACK}none"
"""The prompts that attacks stand around, alone: what their shares are compared with."""

_DIGITS = 6
"""h is stored in 32 bits, where 0.2 is 0.200000003; rounded, it is what the judge said."""


@dataclass(frozen=True)
class TableConfig:
    """One row of the table of evaluated configs; see its schema for the fields."""

    config: str
    suite: str
    kind: str
    config_id: str | None
    digest: str | None
    allowed_mask: int | None
    seen: bool | None
    names: tuple[str, ...]
    regions: tuple[str, ...]


@dataclass(frozen=True)
class ItemTable:
    """Items and what each system made of them.

    Attributes:
        configs: The configs; ``config`` of an item is an index into them.
        keys: Suite, config and prompt of each item, sorted, n of them.
        config: Shape (n,).
        prompt: The prompt's number, the same under all configs, shape (n,).
        prompt_type: Shape (n,).
        split: A benchmark's split, or the empty string, shape (n,).
        risk_mask: The prompt's categories, shape (n,).
        known_mask: Which of them are known, shape (n,).
        asked: By system, whether it answered the item, shape (n,).
        h: By system, NaN unknown or not asked, shape (n,).
        s: By system, likewise.
    """

    configs: tuple[TableConfig, ...]
    keys: tuple[Key, ...]
    config: IntArray
    prompt: IntArray
    prompt_type: npt.NDArray[np.str_]
    split: npt.NDArray[np.str_]
    risk_mask: npt.NDArray[np.uint32]
    known_mask: npt.NDArray[np.uint32]
    asked: dict[str, BoolArray]
    h: dict[str, FloatArray]
    s: dict[str, FloatArray]

    @property
    def systems(self) -> tuple[str, ...]:
        """Who answered."""
        return tuple(self.asked)

    @cached_property
    def suite(self) -> npt.NDArray[np.str_]:
        """The suite of each item, shape (n,)."""
        return np.array([key[0] for key in self.keys], np.str_)

    @cached_property
    def controlled(self) -> BoolArray:
        """Items that the CoSA-Score is about: the regions' and the benchmarks', shape (n,)."""
        return np.array([is_control(key[0]) for key in self.keys], bool)

    def response_scores(self, system: str) -> FloatArray:
        """The product of h and s of each item, NaN unknown, shape (n,)."""
        return self.h[system] * self.s[system]


def is_control(suite: str) -> bool:
    """Whether a suite's items measure how configs are followed."""
    return suite == CONTROL or suite.startswith(BENCHMARK)


def read_items(rows: pa.Table, configs: pa.Table, order: Sequence[str] = ()) -> ItemTable:
    """Reads stored items.

    Args:
        rows: A table of the schema ``EVALUATION``.
        configs: The table of its configs, ``EVALUATED_CONFIGS``.
        order: Systems in the order of a run config; others follow by name.

    Raises:
        DataError: Rows contradict each other, or name a config that is not there.
    """
    listed = tuple(_table_config(row) for row in configs.to_pylist())
    number = {(c.suite, c.config): i for i, c in enumerate(listed)}
    records = rows.to_pylist()
    keys = sorted({_key(row) for row in records}, key=lambda key: _place(key, number))
    place = {key: i for i, key in enumerate(keys)}
    first = _first_rows(records, place)
    systems = _ordered({str(row["system"]) for row in records}, order)
    h, s = ({name: np.full(len(keys), np.nan) for name in systems} for _ in range(2))
    asked = {name: np.zeros(len(keys), bool) for name in systems}
    for row in records:
        at, system = place[_key(row)], row["system"]
        if asked[system][at]:
            raise DataError(f"the evaluation table holds an item of {system} twice: {_key(row)}")
        asked[system][at] = True
        h[system][at] = np.nan if row["h"] is None else round(row["h"], _DIGITS)
        s[system][at] = np.nan if row["s"] is None else row["s"]
    prompts = {prompt: i for i, prompt in enumerate(sorted({key[2] for key in keys}))}
    return ItemTable(
        configs=listed,
        keys=tuple(keys),
        config=np.array([number[key[:2]] for key in keys], np.int64),
        prompt=np.array([prompts[key[2]] for key in keys], np.int64),
        prompt_type=np.array([row["prompt_type"] for row in first], np.str_),
        split=np.array([row["split"] or "" for row in first], np.str_),
        risk_mask=np.array([row["risk_mask"] for row in first], np.uint32),
        known_mask=np.array([row["known_mask"] for row in first], np.uint32),
        asked=asked,
        h=h,
        s=s,
    )


def _key(row: dict[str, Any]) -> Key:
    return row["suite"], row["config"], row["prompt_id"]


def _place(key: Key, number: dict[tuple[str, str], int]) -> tuple[int, str]:
    if key[:2] not in number:
        raise DataError(
            f"the evaluation table names the config {key[1]!r} of suite {key[0]!r}, which the "
            "table of evaluated configs does not hold"
        )
    return number[key[:2]], key[2]


def _first_rows(records: list[dict[str, Any]], place: dict[Key, int]) -> list[dict[str, Any]]:
    """One row an item, in the items' order."""
    found: dict[int, dict[str, Any]] = {}
    for row in records:
        found.setdefault(place[_key(row)], row)
    return [found[i] for i in range(len(place))]


def _ordered(systems: set[str], order: Sequence[str]) -> list[str]:
    first = [name for name in order if name in systems]
    return [*first, *sorted(systems - set(first))]


def _table_config(row: dict[str, Any]) -> TableConfig:
    lists = {name: tuple(row[name]) for name in ("names", "regions")}
    return TableConfig(**{**row, **lists})
