"""The drafts of each system for each item, through the responses ledger.

Most systems write one draft, greedily; best-of-n draws several. Which of them is the answer, and
whether a cascade lets it pass, is settled after judging (``final_answers``).

What systems ask alike is generated once: ``base`` answers without a config, so one answer serves
all configs; a cascade asks what in-context alignment asks, and pays nothing. Systems that share a
model share its engine; the model that is also the judge answers last, so that its engine is still
running when the judging begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.config_rendering import PLAIN_SYSTEM_PROMPT
from cosalign.domain.run_config.systems import SystemSettings
from cosalign.domain.schemas import RESPONSES
from cosalign.evaluation.items import EvaluationItems, Item
from cosalign.inference.engine import Messages, Sampling
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import Wanted, generate_responses
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage

Shots = Mapping[tuple[str, int], Messages]
"""What a system is shown before the prompt, by its name and the config's number."""


@dataclass(frozen=True)
class System:
    """A model, and what is done with it."""

    settings: SystemSettings
    model: ModelFolder

    @property
    def name(self) -> str:
        """What it is called."""
        return self.settings.name

    @property
    def conditioned(self) -> bool:
        """Whether it is given the config."""
        return self.settings.method != "plain"


@dataclass(frozen=True)
class Answers:
    """What was answered.

    Attributes:
        table: Rows of the responses schema, ``generator`` being the system; each
            (system, config, prompt, draw) once.
        ids: By system, the response id of each item: the answer that counts, and the first draft
            where that is not settled yet.
        made: Drafts generated in this attempt.
        drafts: By system, the response ids of each item's drafts.
    """

    table: pa.Table
    ids: dict[str, list[str]]
    made: int
    drafts: Mapping[str, list[list[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Asking:
    """How systems are asked.

    Attributes:
        host: Where engines run.
        storage: The storage root.
        judge_digest: The model that will judge; as an answering model it comes last.
        max_tokens: Length limit of an answer.
        shots: Demonstrations.
    """

    host: EngineHost
    storage: Storage
    judge_digest: str
    max_tokens: int
    shots: Shots = field(default_factory=dict)

    def wanted(self, system: System, items: EvaluationItems, item: Item) -> list[Wanted]:
        """The drafts that a system owes an item."""
        told = PLAIN_SYSTEM_PROMPT
        if system.conditioned:
            told = items.config_of(item).rendered.text
        shown = self.shots.get((system.name, item.config), ())
        messages = (("system", told), *shown, ("user", item.turn or item.text))
        settings = system.settings
        if settings.method != "best_of_n":
            return [Wanted(messages, Sampling(self.max_tokens))]
        sampling = Sampling(self.max_tokens, settings.temperature, settings.top_p)
        return [Wanted(messages, sampling, draw) for draw in range(settings.samples)]


def generate_answers(
    asking: Asking, systems: list[System], items: EvaluationItems
) -> Iterator[Answers]:
    """Has every system answer every item; gives what systems of one model wrote, model by model.

    Args:
        asking: How.
        systems: Who answers.
        items: What is asked.
    """
    for model, sharing in _by_model(systems, asking.judge_digest):
        asked = [
            (system, item, wanted)
            for system in sharing
            for item in items.items
            for wanted in asking.wanted(system, items, item)
        ]
        work = f"answers_{'_'.join(system.name for system in sharing)}"
        wanted = [entry[2] for entry in asked]
        found, done = generate_responses(asking.host, asking.storage, model, wanted, work)
        rows: list[dict[str, object]] = []
        drafts: dict[str, list[list[str]]] = {system.name: [] for system in sharing}
        for (system, item, own), response_id, row in zip(
            asked, found, done.rows.to_pylist(), strict=True
        ):
            if not own.draw:
                drafts[system.name].append([])
            drafts[system.name][-1].append(response_id)
            rows.append(_row(system, item, items, own.draw, {**row, "response_id": response_id}))
        ids = {name: [own[0] for own in lists] for name, lists in drafts.items()}
        yield Answers(answer_table(rows), ids, done.made, drafts)


def joined_answers(parts: Iterable[Answers]) -> Answers:
    """The answers of all models as one."""
    listed = list(parts)
    rows = [row for part in listed for row in part.table.to_pylist()]
    ids = {name: own for part in listed for name, own in part.ids.items()}
    drafts = {name: own for part in listed for name, own in part.drafts.items()}
    return Answers(answer_table(rows), ids, sum(part.made for part in listed), drafts)


def answers_of(answers: Answers, system: str) -> Answers:
    """One system's share of answers."""
    table = answers.table.filter(pc.field("generator") == system)
    ids, drafts = {system: answers.ids[system]}, {system: answers.drafts[system]}
    return Answers(table, ids, answers.made, drafts)


def answer_table(rows: Iterable[Mapping[str, object]]) -> pa.Table:
    """Rows each once, in an order that does not depend on who answered when."""
    by_key = {
        (str(row["generator"]), str(row["config_id"] or ""), str(row["prompt_id"]),
         str(row["draw"]).zfill(9), str(row["response_id"])): dict(row)
        for row in rows
    }  # fmt: skip
    return pa.Table.from_pylist([by_key[key] for key in sorted(by_key)], schema=RESPONSES)


def _by_model(systems: list[System], judge_digest: str) -> list[tuple[ModelFolder, list[System]]]:
    sharing: dict[str, list[System]] = {}
    for system in systems:
        sharing.setdefault(system.model.digest, []).append(system)
    ordered = sorted(sharing.values(), key=lambda group: group[0].model.digest == judge_digest)
    return [(group[0].model, group) for group in ordered]


def _row(
    system: System,
    item: Item,
    items: EvaluationItems,
    draw: int,
    row: Mapping[str, object],
) -> dict[str, object]:
    config_id = items.config_of(item).rendered.config_id
    return {
        "response_id": row["response_id"],
        "prompt_id": item.prompt_id,
        "generator": system.name,
        "config_id": config_id if system.conditioned else None,
        "draw": draw,
        "text": row["text"],
        "finish_reason": row["finish_reason"],
        "tokens": row["tokens"],
    }
