"""What a prompt is under a config, and the choice that gives each type its share."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.prompt_types import prompt_type
from cosalign.evaluation.balanced_choice import choose_balanced
from cosalign.evaluation.items import Item


@pytest.mark.parametrize(
    ("risks", "allowed", "expected"),
    [
        (0b00, 0b00, "allowed"),
        (0b00, 0b11, "allowed"),
        (0b01, 0b01, "allowed"),
        (0b01, 0b11, "allowed"),
        (0b11, 0b01, "partial"),
        (0b10, 0b01, "disallowed"),
        (0b10, 0b00, "disallowed"),
    ],
)
def test_prompt_types(risks: int, allowed: int, expected: str) -> None:
    assert prompt_type(risks, allowed) == expected


@given(st.integers(0, 255), st.integers(0, 255))
def test_types_are_the_set_relations(risks: int, allowed: int) -> None:
    s = {i for i in range(8) if risks >> i & 1}
    a = {i for i in range(8) if allowed >> i & 1}
    expected = "allowed" if s <= a else "disallowed" if s.isdisjoint(a) else "partial"
    assert prompt_type(risks, allowed) == expected


def candidates(**counts: int) -> list[Item]:
    return [Item(0, f"{kind}-{i:03}", "text", kind) for kind, n in counts.items() for i in range(n)]


def types(chosen: list[Item]) -> dict[str, int]:
    return dict(Counter(item.prompt_type for item in chosen))


def test_each_type_gets_its_share_while_it_lasts() -> None:
    pool = candidates(allowed=30, partial=2, disallowed=30)
    assert types(choose_balanced(pool, 12, 0)) == {"allowed": 5, "partial": 2, "disallowed": 5}
    assert types(choose_balanced(pool, 3, 0)) == {"allowed": 1, "partial": 1, "disallowed": 1}
    assert len(choose_balanced(pool, None, 0)) == 62
    assert len(choose_balanced(pool, 1000, 0)) == 62
    assert choose_balanced(pool, 0, 0) == []


def test_the_choice_depends_on_seed_and_content_alone() -> None:
    pool = candidates(allowed=30, disallowed=30)
    chosen = choose_balanced(pool, 10, 0)
    assert chosen == choose_balanced(reversed(pool), 10, 0)
    assert chosen != choose_balanced(pool, 10, 1)
    assert set(chosen) <= set(choose_balanced(pool, 20, 0))
