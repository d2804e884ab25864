"""The single items that a report lists, so that a reader can follow a figure down to answers.

Ids and figures stand for every item. Texts come along only where the run config asks for them:
prompts of a real run are harmful ones, and a report travels further than a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cosalign.domain.run_config import EvaluationGroup
from cosalign.evaluation.adherence import Adherence
from cosalign.evaluation.answers import Answers
from cosalign.evaluation.balanced_choice import choose_balanced
from cosalign.evaluation.cosa_score import FloatArray
from cosalign.evaluation.items import EvaluationItems, Item


@dataclass(frozen=True)
class ShownItem:
    """One row of the list.

    Attributes:
        config: The config's label.
        prompt_id: The prompt, 64 hex digits.
        prompt_type: Its type under the config.
        marks: By system, helpfulness from 0 to 1 and +1 or -1 for safety; ``None`` unknown.
        prompt: The prompt's text; ``None`` where texts are not asked for.
        answers: By system, the answer's text; empty where texts are not asked for.
    """

    config: str
    prompt_id: str
    prompt_type: str
    marks: Mapping[str, tuple[float | None, float | None]]
    prompt: str | None = None
    answers: Mapping[str, str] | None = None


def shown_items(
    items: EvaluationItems,
    answers: Answers,
    adherence: Adherence,
    settings: EvaluationGroup,
) -> list[ShownItem]:
    """Chooses items, as many from each config as the others allow, types balanced within it.

    Args:
        items: What was asked.
        answers: What was answered.
        adherence: How it was judged.
        settings: The systems, how many items at most, the seed of the choice, and whether texts
            are shown.
    """
    texts: dict[str, str] = {}
    if settings.report_texts:
        columns = [answers.table.column(name).to_pylist() for name in ("response_id", "text")]
        texts = dict(zip(*columns, strict=True))
    place = {id(item): i for i, item in enumerate(items.items)}
    return [
        _shown(item, place[id(item)], items, answers, adherence, settings, texts)
        for item in _choose(items, settings.seed, settings.report_items)
    ]


def _choose(items: EvaluationItems, seed: int, most: int) -> list[Item]:
    by_config: dict[int, list[Item]] = {}
    for item in items.items:
        by_config.setdefault(item.config, []).append(item)
    left, chosen = most, []
    # Smallest first, so that what a small config does not use up goes to the larger ones.
    for done, number in enumerate(sorted(by_config, key=lambda n: (len(by_config[n]), n))):
        own = choose_balanced(by_config[number], left // (len(by_config) - done), seed)
        left -= len(own)
        chosen += own
    return sorted(chosen, key=lambda item: item.config)


def _shown(
    item: Item,
    at: int,
    items: EvaluationItems,
    answers: Answers,
    adherence: Adherence,
    settings: EvaluationGroup,
    texts: Mapping[str, str],
) -> ShownItem:
    return ShownItem(
        config=items.config_of(item).label,
        prompt_id=item.prompt_id,
        prompt_type=item.prompt_type,
        marks={
            system: (known(adherence.h[system], at), known(adherence.s[system], at))
            for system in answers.ids
        },
        prompt=item.text if settings.report_texts else None,
        answers={s: texts[answers.ids[s][at]] for s in answers.ids} if texts else None,
    )


def known(values: FloatArray, at: int) -> float | None:
    """A figure of an item; ``None`` where it is unknown."""
    return None if np.isnan(values[at]) else float(values[at])
