"""Which items the report lists."""

from __future__ import annotations

from collections import Counter

import numpy as np
from tests.evaluation.evaluation_world import TAXONOMY

from cosalign.domain.config_rendering import render_categorical
from cosalign.domain.run_config import EvaluationGroup
from cosalign.domain.run_config.systems import SYSTEMS
from cosalign.domain.schemas import RESPONSES
from cosalign.evaluation.adherence import Adherence
from cosalign.evaluation.answers import Answers
from cosalign.evaluation.items import EvaluatedConfig, EvaluationItems, Item
from cosalign.evaluation.report_items import ShownItem, shown_items

SIZES = (4, 100, 50)
SETTINGS = EvaluationGroup(systems=(SYSTEMS["dpo"],))


def listed(most: int, order: int = 1) -> list[ShownItem]:
    """The list for configs of :data:`SIZES` items, half of each type, given in either order."""
    configs = [
        EvaluatedConfig((f"c{i}",), ("EU",), "region", render_categorical(TAXONOMY, i, 0))
        for i in range(len(SIZES))
    ]
    items = [
        Item(config, f"{i:064d}", f"Which beer is number {i}?", ("allowed", "disallowed")[i % 2])
        for config, size in enumerate(SIZES)
        for i in range(size)
    ][::order]
    figures = np.array([int(item.prompt_id) / 100 for item in items])
    answers = Answers(RESPONSES.empty_table(), {"dpo": [item.prompt_id for item in items]}, 0)
    verdicts = Adherence(RESPONSES.empty_table(), {"dpo": figures}, {"dpo": figures * np.nan}, 0)
    everything = EvaluationItems(configs, items, Counter())
    settings = SETTINGS.model_copy(update={"report_items": most})
    return shown_items(everything, answers, verdicts, settings)


def test_configs_and_types_are_balanced_and_small_configs_leave_room_to_others() -> None:
    shown = listed(60)
    assert Counter(item.config for item in shown) == {"c0": 4, "c1": 28, "c2": 28}
    types = Counter((item.config, item.prompt_type) for item in shown)
    assert types["c1", "allowed"] == types["c1", "disallowed"] == 14
    assert [item.config for item in shown] == sorted(item.config for item in shown)


def test_the_choice_does_not_depend_on_the_order() -> None:
    assert listed(20) == listed(20, -1)


def test_each_item_has_its_own_figures_and_unknown_ones_are_none() -> None:
    for item in listed(60):
        assert item.marks == {"dpo": (int(item.prompt_id) / 100, None)}
        assert item.prompt is None
        assert item.answers is None


def test_few_items_are_all_listed() -> None:
    assert len(listed(1000)) == sum(SIZES)
