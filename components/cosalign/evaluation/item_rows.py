"""Writes what was measured as rows: the tables that every figure of an evaluation is made from.

One row a (system, suite, config, prompt), whatever the suite: a region's own items, a benchmark's,
an attack's. So scores, the gate, a report and a comparison of runs all start from the same two
tables, and whoever adds a suite or a system adds rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cosalign.domain.schemas import EVALUATED_CONFIGS, EVALUATION
from cosalign.evaluation.adherence import Adherence
from cosalign.evaluation.answers import Answers
from cosalign.evaluation.items import EvaluatedConfig, EvaluationItems
from cosalign.evaluation.report_items import known

ITEM_KEY = ("system", "suite", "config", "prompt_id")


def item_rows(items: EvaluationItems, answers: Answers, adherence: Adherence) -> pa.Table:
    """The evaluation table of judged answers, sorted by :data:`ITEM_KEY`."""
    rows: list[dict[str, Any]] = []
    for system, ids in answers.ids.items():
        for i, item in enumerate(items.items):
            config = items.config_of(item)
            rows.append(
                {
                    "system": system,
                    "suite": config.suite,
                    "config": config.label,
                    "prompt_id": item.prompt_id,
                    "response_id": ids[i],
                    "prompt_type": item.prompt_type,
                    "split": item.split,
                    "risk_mask": item.risk_mask,
                    "known_mask": item.known_mask,
                    "h": known(adherence.h[system], i),
                    "s": known(adherence.s[system], i),
                }
            )
    rows.sort(key=lambda row: tuple(row[name] for name in ITEM_KEY))
    return pa.Table.from_pylist(rows, schema=EVALUATION)


def config_rows(configs: Iterable[EvaluatedConfig], draws: pa.Table) -> pa.Table:
    """The table of evaluated configs, in their order.

    Args:
        configs: What was asked under.
        draws: The draws table of the data that the models were trained on.
    """
    masks = set(draws.column("allowed_mask").to_pylist()) - {None}
    drawn = set(draws.column("config_id").to_pylist())
    rows = [_config_row(config, masks, drawn) for config in configs]
    return pa.Table.from_pylist(rows, schema=EVALUATED_CONFIGS)


def _config_row(config: EvaluatedConfig, masks: set[int], drawn: set[str]) -> dict[str, Any]:
    rendered = config.rendered
    mask = rendered.allowed_mask
    return {
        "config": config.label,
        "suite": config.suite,
        "kind": rendered.kind,
        "config_id": rendered.config_id,
        "digest": rendered.digest,
        "allowed_mask": mask,
        # An allowed set is the same demand in any rendering; a policy has one text.
        "seen": rendered.config_id in drawn if mask is None else mask in masks,
        "names": list(config.names),
        "regions": list(config.regions),
    }


def with_rows(
    table: pa.Table, rows: Sequence[Mapping[str, Any]], order: Sequence[str] = ()
) -> pa.Table:
    """A table with further rows, sorted anew by some columns, or behind its own."""
    if not rows:
        return table
    added = pa.Table.from_pylist([dict(row) for row in rows], schema=table.schema)
    whole = pa.concat_tables([table, added])
    return whole.sort_by([(name, "ascending") for name in order]) if order else whole
