"""Stored items laid down by hand: rows of the evaluation table and of its configs."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from cosalign.domain.schemas import EVALUATED_CONFIGS, EVALUATION
from cosalign.evaluation.item_table import ItemTable, read_items


def item_row(system: str, prompt: str, value: float, **more: Any) -> dict[str, Any]:
    """An allowed item under the region's config ``eu`` whose h * s is ``value``; NaN is unknown."""
    unknown = math.isnan(value)
    return {
        "system": system, "suite": "control", "config": "eu", "prompt_id": prompt,
        "response_id": f"{system}-{prompt}", "prompt_type": "allowed", "split": None,
        "risk_mask": 0, "known_mask": 255, "h": None if unknown else abs(value),
        "s": None if unknown else -1 if value < 0 else 1, **more,
    }  # fmt: skip


def config_row(label: str = "eu", suite: str = "control", **more: Any) -> dict[str, Any]:
    """A region's config that allows the first category."""
    return {
        "config": label, "suite": suite, "kind": "categorical", "config_id": f"id-{label}",
        "digest": f"digest-{label}", "allowed_mask": 1, "seen": None, "names": [label],
        "regions": ["EU"] if suite == "control" else [], **more,
    }  # fmt: skip


def item_table(
    rows: list[dict[str, Any]],
    configs: list[dict[str, Any]] | None = None,
    order: tuple[str, ...] = (),
) -> ItemTable:
    """The rows as the step reads them back; under ``eu`` alone where no configs are given."""
    listed = [config_row()] if configs is None else configs
    return read_items(
        pa.Table.from_pylist(rows, schema=EVALUATION),
        pa.Table.from_pylist(listed, schema=EVALUATED_CONFIGS),
        order,
    )
