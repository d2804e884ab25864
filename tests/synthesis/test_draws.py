"""Draws of rendered configs: functions of content, never of order or of other prompts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosalign.domain.run_config import MODES, Mode, SynthesisGroup
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.synthesis.draws import ConfigDrawer, Draw

TAXONOMY = load_taxonomy("cosa", "1")
POOL = TAXONOMY.allowable_mask
PROMPTS = [(f"prompt-{i}", mask) for i, mask in enumerate([0, 1, 3, 7, 0, 2, 64, POOL] * 4)]


def drawer(**synthesis: object) -> ConfigDrawer:
    return ConfigDrawer(TAXONOMY, SynthesisGroup.model_validate(synthesis), POOL)


def test_each_prompt_gets_the_modes_it_asks_for() -> None:
    draws = drawer(renderings=1000).pairing_draws([("cards", 0b101)])
    assert sorted(d.mode for d in draws) == sorted(MODES)
    by_mode = {d.mode: d.allowed_mask for d in draws}
    assert by_mode["exact"] == 0b101
    assert by_mode["safe"] == 0
    assert by_mode["superset"] & 0b101 == 0b101
    assert by_mode["not_superset"] & 0b101 != 0b101


@given(st.permutations(PROMPTS), st.integers(0, len(PROMPTS)))
@settings(max_examples=20)
def test_order_and_shards_change_no_draw(order: list[tuple[str, int]], cut: int) -> None:
    whole = drawer().pairing_draws(PROMPTS)
    assert drawer().pairing_draws(order) == whole
    shards = drawer().pairing_draws(order[:cut]) + drawer().pairing_draws(order[cut:])
    assert sorted(shards, key=lambda d: (d.prompt_id, d.config_id)) == whole


def test_candidate_draws_do_not_move_pairing_draws() -> None:
    busy = drawer()
    for prompt_id, mask in PROMPTS:
        busy.draw(prompt_id, mask, "superset", ["candidate", "base", 0])
    assert busy.pairing_draws(PROMPTS) == drawer().pairing_draws(PROMPTS)


def test_purpose_seed_and_prompt_each_change_draws() -> None:
    def ids(prompt: str, purpose: str, seed: int) -> list[str]:
        made = drawer(seed=seed, renderings=64)
        return [made.draw(prompt, 1, "superset", [purpose, i]).config_id for i in range(10)]

    base = ids("a", "x", 0)
    assert ids("a", "x", 0) == base
    assert base not in (ids("b", "x", 0), ids("a", "y", 0), ids("a", "x", 1))


@pytest.mark.parametrize("mode", MODES)
def test_the_catch_all_is_never_allowed(mode: Mode) -> None:
    made = drawer()
    for i in range(200):
        allowed = made.draw(f"prompt-{i}", POOL if i % 2 else 0, mode, "pairing").allowed_mask
        assert allowed is not None
        assert allowed & TAXONOMY.catch_all == 0


def test_every_draw_names_a_rendered_config_and_each_stands_once() -> None:
    made = drawer(renderings=2)
    draws = made.pairing_draws(PROMPTS)
    rendered = {config.config_id: config for config in made.rendered()}
    assert list(rendered) == sorted(rendered)
    assert len(rendered) == len(made.rendered())
    assert {d.config_id for d in draws} == set(rendered)
    for draw in draws:
        assert rendered[draw.config_id].allowed_mask == draw.allowed_mask
    keys = [(d.prompt_id, d.config_id) for d in draws]
    assert len(keys) == len(set(keys))


def test_renderings_are_bounded() -> None:
    made = drawer(renderings=3)
    ids = {made.draw(f"prompt-{i}", 3, "exact", "pairing").config_id for i in range(100)}
    assert len(ids) in {2, 3}


def test_one_rendering_makes_equal_modes_one_draw() -> None:
    draws = drawer(renderings=1, modes=("safe", "exact", "not_superset")).pairing_draws([("p", 0)])
    assert [(d.mode, d.allowed_mask) for d in draws] == [("safe", 0)]
    assert isinstance(draws[0], Draw)
