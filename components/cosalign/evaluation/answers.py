"""The answers of each system to each item, greedy, through the responses ledger.

``base`` answers without a config, so one answer serves all configs. Systems that share a model
share its engine; the model that is also the judge answers last, so that its engine is still
running when the judging begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from cosalign.domain.config_rendering import PLAIN_SYSTEM_PROMPT
from cosalign.domain.schemas import RESPONSES
from cosalign.evaluation.items import EvaluationItems, Item
from cosalign.inference.engine import Sampling
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import Wanted, generate_responses
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage


@dataclass(frozen=True)
class System:
    """A model, and whether it is given the config."""

    name: str
    model: ModelFolder
    conditioned: bool


@dataclass(frozen=True)
class Answers:
    """What was answered.

    Attributes:
        table: Rows of the responses schema, ``generator`` being the system; each
            (system, config, prompt) once.
        ids: By system, the response id of each item.
        made: Answers generated in this attempt.
    """

    table: pa.Table
    ids: dict[str, list[str]]
    made: int


def generate_answers(
    host: EngineHost,
    storage: Storage,
    systems: list[System],
    judge_digest: str,
    items: EvaluationItems,
    max_tokens: int,
) -> Answers:
    """Has every system answer every item.

    Args:
        host: Where engines run.
        storage: The storage root.
        systems: Who answers.
        judge_digest: The model that will judge; as an answering model it comes last.
        items: What is asked.
        max_tokens: Length limit of an answer.
    """
    rows: list[dict[str, object]] = []
    ids: dict[str, list[str]] = {}
    made = 0
    for model, sharing in _by_model(systems, judge_digest):
        asked = [(system, item) for system in sharing for item in items.items]
        wanted = [_wanted(system, item, items, max_tokens) for system, item in asked]
        work = f"answers_{'_'.join(system.name for system in sharing)}"
        found, done = generate_responses(host, storage, model, wanted, work)
        made += done.made
        for (system, item), response_id, row in zip(
            asked, found, done.rows.to_pylist(), strict=True
        ):
            ids.setdefault(system.name, []).append(response_id)
            rows.append(_row(system, item, items, response_id, row))
    return Answers(_table(rows), ids, made)


def _by_model(systems: list[System], judge_digest: str) -> list[tuple[ModelFolder, list[System]]]:
    sharing: dict[str, list[System]] = {}
    for system in systems:
        sharing.setdefault(system.model.digest, []).append(system)
    ordered = sorted(sharing.values(), key=lambda group: group[0].model.digest == judge_digest)
    return [(group[0].model, group) for group in ordered]


def _wanted(system: System, item: Item, items: EvaluationItems, max_tokens: int) -> Wanted:
    told = items.config_of(item).rendered.text if system.conditioned else PLAIN_SYSTEM_PROMPT
    return Wanted((("system", told), ("user", item.text)), Sampling(max_tokens=max_tokens))


def _row(
    system: System,
    item: Item,
    items: EvaluationItems,
    response_id: str,
    row: dict[str, object],
) -> dict[str, object]:
    config_id = items.config_of(item).rendered.config_id
    return {
        "response_id": response_id,
        "prompt_id": item.prompt_id,
        "generator": system.name,
        "config_id": config_id if system.conditioned else None,
        "draw": 0,
        "text": row["text"],
        "finish_reason": row["finish_reason"],
        "tokens": row["tokens"],
    }


def _table(rows: list[dict[str, object]]) -> pa.Table:
    """Rows each once, in an order that does not depend on who answered when."""
    by_key = {
        (str(row["generator"]), str(row["config_id"] or ""), str(row["prompt_id"])): row
        for row in rows
    }
    return pa.Table.from_pylist([by_key[key] for key in sorted(by_key)], schema=RESPONSES)
