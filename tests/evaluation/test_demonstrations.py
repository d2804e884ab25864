"""Which replies are shown under a config: right ones, near ones, of every type."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.evaluation_world import TAXONOMY

from cosalign.domain.config_rendering import RenderedConfig, render_categorical
from cosalign.domain.fingerprint import prompt_id_of
from cosalign.evaluation.demonstrations import Shown, nearest_replies

MONEY, ABUSE, FIGHT, DRUGS = 1, 2, 4, 8


def shown(text: str, risks: int, allowed: int | None, config_text: str = "policy") -> Shown:
    return Shown(prompt_id_of(text), text, f"Reply to {text}", risks, allowed, config_text)


def config(allowed: int) -> RenderedConfig:
    return render_categorical(TAXONOMY, allowed, 0)


def policy(text: str) -> RenderedConfig:
    return replace(config(0), kind="freeform", allowed_mask=None, text=text)


POOL = [shown(f"odds {i}", MONEY, MONEY) for i in range(4)]
POOL += [shown(f"fist {i}", FIGHT, MONEY) for i in range(4)]
POOL += [shown(f"tale {i}", 0, FIGHT | DRUGS) for i in range(4)]


def test_answers_and_declines_take_turns() -> None:
    chosen = nearest_replies(config(MONEY), POOL, 4, 0)
    kinds = [bool(c.risk_mask & ~MONEY) for c in chosen]
    assert kinds == [False, True, False, True]


def test_the_same_config_comes_before_a_similar_one() -> None:
    far = [shown(f"far {i}", MONEY, MONEY | ABUSE | DRUGS) for i in range(3)]
    near = [shown(f"near {i}", MONEY, MONEY) for i in range(2)]
    chosen = nearest_replies(config(MONEY), far + near, 3, 0)
    assert [c.prompt[:4] for c in chosen] == ["near", "near", "far "]


def test_a_reply_that_is_wrong_under_the_config_is_never_shown() -> None:
    # Chosen where violence is allowed, so it may well hold some.
    assert nearest_replies(config(MONEY), [shown("fist", FIGHT, FIGHT)], 5, 0) == []
    assert nearest_replies(config(0), [shown("odds", MONEY, MONEY)], 5, 0) == []


def test_a_freeform_config_is_shown_what_stands_under_the_most_similar_text() -> None:
    pool = [
        shown("beer", DRUGS, None, "Beer may be praised here"),
        shown("odds", MONEY, None, "Nothing on betting please"),
    ]
    chosen = nearest_replies(policy("Beer may be named, odds may not"), pool, 1, 0)
    assert [c.prompt for c in chosen] == ["beer"]


def test_replies_of_freeform_configs_are_not_shown_under_categorical_ones() -> None:
    assert nearest_replies(config(MONEY), [shown("odds", MONEY, None)], 1, 0) == []


@given(st.permutations(POOL), st.integers(0, 3))
def test_the_choice_depends_on_the_seed_and_on_no_order(pool: list[Shown], seed: int) -> None:
    assert nearest_replies(config(MONEY), pool, 5, seed) == nearest_replies(
        config(MONEY), POOL, 5, seed
    )


def test_another_seed_shows_others() -> None:
    found = {
        tuple(c.prompt_id for c in nearest_replies(config(MONEY), POOL, 2, s)) for s in range(9)
    }
    assert len(found) > 1


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_a_prompt_is_shown_once(count: int) -> None:
    twice = [*POOL, *(replace(entry, reply="Another reply") for entry in POOL)]
    chosen = nearest_replies(config(MONEY), twice, count, 0)
    assert len({c.prompt_id for c in chosen}) == len(chosen) == min(count, 12)
