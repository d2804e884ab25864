"""Which prompts meet a new config, and what is wanted under it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.config_rendering import render_categorical
from cosalign.domain.run_config import GeneratorSettings, SynthesisGroup
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.synthesis.candidates import LabelledPrompt
from cosalign.synthesis.draws import PlannedDraw
from cosalign.synthesis.increment_draws import (
    Meeting,
    meetings,
    plan_increment,
    writers_under_configs,
)
from cosalign.synthesis.regional import RegionalConfig

TAXONOMY = load_taxonomy("cosa", "1")
SETTINGS = SynthesisGroup(seed=3)
ALLOWED = 0b011
RISKS = st.lists(st.integers(0, 0b111), max_size=40)


def prompts(masks: list[int]) -> list[LabelledPrompt]:
    return [LabelledPrompt(f"{i:032x}", f"beer {i}", mask) for i, mask in enumerate(masks)]


def config(allowed: int = ALLOWED) -> RegionalConfig:
    rendered = render_categorical(TAXONOMY, allowed, 0)
    return RegionalConfig(rendered.digest, "ie", allowed, rendered)


def met(masks: list[int], count: int, known: frozenset[str] = frozenset()) -> list[Meeting]:
    def is_new(draw: PlannedDraw) -> bool:
        return draw.prompt_id not in known

    return meetings(prompts(masks), [config()], count, SETTINGS, is_new)


def kind(mask: int) -> str:
    if not mask:
        return "benign"
    return "allowed" if not mask & ~ALLOWED else "partial" if mask & ALLOWED else "disallowed"


@given(RISKS, st.integers(1, 30))
def test_kinds_of_prompts_are_met_evenly_for_as_long_as_they_last(
    masks: list[int], count: int
) -> None:
    found = met(masks, count)
    assert len(found) == len({m.prompt.prompt_id for m in found}) == min(count, len(masks))
    sizes, taken = Counter(map(kind, masks)), Counter(kind(m.prompt.risk_mask) for m in found)
    fewest = min((taken[name] for name in sizes if taken[name] < sizes[name]), default=None)
    if fewest is not None:
        assert all(taken[name] <= fewest + 1 for name in sizes)


@given(RISKS, st.integers(1, 30), st.randoms(use_true_random=False))
def test_the_order_of_prompts_changes_nothing(masks: list[int], count: int, random: object) -> None:
    asked = prompts(masks)
    random.shuffle(asked)  # type: ignore[attr-defined]
    assert meetings(asked, [config()], count, SETTINGS, lambda _: True) == met(masks, count)


@given(RISKS, st.integers(1, 30))
def test_more_prompts_hold_fewer(masks: list[int], count: int) -> None:
    few, more = ({m.prompt.prompt_id for m in met(masks, n)} for n in (count, count + 3))
    assert few <= more


def test_a_prompt_that_was_drawn_by_chance_makes_room_for_another() -> None:
    masks = [1, 2, 3, 0, 4, 5] * 4
    first = met(masks, 6)
    known = frozenset({first[0].prompt.prompt_id})
    second = met(masks, 6, known)
    assert len(second) == 6
    assert not {m.prompt.prompt_id for m in second} & known


def test_only_those_who_write_under_configs_are_asked() -> None:
    generators = [
        GeneratorSettings(name="safe", plain=1, superset=0, not_superset=0),
        GeneratorSettings(name="authored", replies="replies.jsonl"),
        GeneratorSettings(name="free", plain=2, superset=4, not_superset=4),
    ]
    (writing,) = writers_under_configs(generators, 3)
    assert (writing.name, writing.plain, writing.superset, writing.not_superset) == (
        "free", 0, 3, 0,
    )  # fmt: skip
    found = met([1, 2, 3, 4], 4)
    asked = prompts([1, 2, 3, 4])
    plan = plan_increment(found, asked, [writing], seed=0)["free"]
    assert Counter(plan.prompts) == dict.fromkeys(range(4), 3)
    assert set(plan.drawn) == {m.draw.choice for m in found}


@pytest.mark.parametrize("responses", [1, 3])
def test_generators_with_weights_share_what_is_wanted(responses: int) -> None:
    generators = [
        GeneratorSettings(name=name, superset=4, weight=weight)
        for name, weight in (("one", 1.0), ("two", 3.0))
    ]
    writing = writers_under_configs(generators, responses)
    masks = [1 + i % 7 for i in range(200)]
    found = met(masks, 200)
    plans = plan_increment(found, prompts(masks), writing, seed=0)
    counts = {name: len(plan.prompts) for name, plan in plans.items()}
    assert sum(counts.values()) == 200 * responses
    assert 2 < counts["two"] / counts["one"] < 4.5
