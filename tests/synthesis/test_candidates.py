"""Which responses a generator owes: how many, under which configs, and each with its own key."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cosalign.domain.config_rendering import PLAIN_SYSTEM_PROMPT
from cosalign.domain.run_config import EngineGroup, GeneratorSettings, SynthesisGroup
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import response_key
from cosalign.inference.models import resolve_model
from cosalign.store.storage import open_storage
from cosalign.synthesis.candidates import (
    Candidate,
    LabelledPrompt,
    candidates,
    generate_candidates,
)
from cosalign.synthesis.draws import ConfigDrawer

TAXONOMY = load_taxonomy("cosa", "1")
MODEL = resolve_model("double:generator", Path())
PROMPTS = [
    LabelledPrompt(f"id-{i}", f"What are the odds of {i} aces in a row?", mask)
    for i, mask in enumerate([0, 0, 0, 0, 1, 3, 7, 1])
]


def drawer(renderings: int = 16, pool: int = TAXONOMY.allowable_mask) -> ConfigDrawer:
    return ConfigDrawer(TAXONOMY, SynthesisGroup(renderings=renderings), pool)


def generator(**settings: object) -> GeneratorSettings:
    given = {"plain": 2, "superset": 3, "not_superset": 4, "max_tokens": 8, **settings}
    return GeneratorSettings.model_validate(given)


def keys(owed: list[Candidate]) -> list[bytes]:
    return [response_key(MODEL, candidate.wanted) for candidate in owed]


def test_each_prompt_is_owed_what_the_settings_say() -> None:
    made = drawer()
    owed = candidates(PROMPTS, generator(), made)
    assert Counter(c.prompt_id for c in owed) == dict.fromkeys((p.prompt_id for p in PROMPTS), 9)
    rendered = {config.config_id: config for config in made.rendered()}
    labels = {p.prompt_id: p.risk_mask for p in PROMPTS}
    for prompt_id, mask in labels.items():
        own = [c for c in owed if c.prompt_id == prompt_id]
        assert [c.config_id is None for c in own] == [True] * 2 + [False] * 7
        allowed = [rendered[c.config_id].allowed_mask or 0 for c in own if c.config_id]
        assert all(a & mask == mask for a in allowed[:3])
        assert all(a & mask != mask or mask == 0 for a in allowed[3:])


def test_messages_are_the_config_and_the_prompt() -> None:
    made = drawer()
    texts = {p.prompt_id: p.text for p in PROMPTS}
    owed = candidates(PROMPTS, generator(), made)
    rendered = {config.config_id: config.text for config in made.rendered()}
    for candidate in owed:
        system = rendered[candidate.config_id] if candidate.config_id else PLAIN_SYSTEM_PROMPT
        user = texts[candidate.prompt_id]
        assert candidate.wanted.messages == (("system", system), ("user", user))


@pytest.mark.parametrize("renderings", [1, 16])
def test_every_candidate_has_a_key_of_its_own(renderings: int) -> None:
    # A pool of one category and one rendering: equal configs are drawn again and again.
    owed = candidates(PROMPTS, generator(), drawer(renderings, pool=1))
    assert len(set(keys(owed))) == len(owed)


def test_order_and_other_prompts_change_nothing() -> None:
    whole = {c.prompt_id: c for c in candidates(PROMPTS, generator(), drawer())}
    alone = {c.prompt_id: c for p in PROMPTS for c in candidates([p], generator(), drawer())}
    assert whole == alone


@pytest.mark.parametrize("more", [{"plain": 3}, {"superset": 4}, {"not_superset": 5}])
def test_asking_for_more_leaves_what_was_asked_for(more: dict[str, int]) -> None:
    before = keys(candidates(PROMPTS, generator(), drawer()))
    after = keys(candidates(PROMPTS, generator(**more), drawer()))
    assert set(before) < set(after)


def test_two_generators_of_one_model_share_plain_responses_only() -> None:
    one = candidates(PROMPTS, generator(name="one"), drawer())
    two = candidates(PROMPTS, generator(name="two"), drawer())
    plain = {k for k, c in zip(keys(one), one, strict=True) if c.config_id is None}
    assert plain <= set(keys(one)) & set(keys(two))
    conditioned = [c.config_id for c in one if c.config_id]
    assert conditioned != [c.config_id for c in two if c.config_id]


def test_other_sampling_is_another_response() -> None:
    base = set(keys(candidates(PROMPTS, generator(), drawer())))
    for change in ({"temperature": 0.5}, {"top_p": 0.5}, {"max_tokens": 9}):
        assert base.isdisjoint(keys(candidates(PROMPTS, generator(**change), drawer())))


def test_generated_rows_name_what_they_were_owed_for(tmp_path: Path) -> None:
    owed = candidates(PROMPTS[:3], generator(name="honest"), drawer())
    with EngineHost(EngineGroup(kind="double", max_model_len=16384)) as host:
        done = generate_candidates(
            host, open_storage(str(tmp_path)), MODEL, generator(name="honest"), owed
        )
    rows = done.rows.to_pylist()
    assert done.made == len(owed) == len(rows)
    assert [r["response_id"] for r in rows] == [key.hex() for key in keys(owed)]
    assert [(r["prompt_id"], r["config_id"]) for r in rows] == [
        (c.prompt_id, c.config_id) for c in owed
    ]
    assert {r["generator"] for r in rows} == {"honest"}
    assert all(0 < r["tokens"] <= 8 for r in rows)
