"""Which label sets are drawn for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.run_config import PromptsGroup
from cosalign.synthesis.labelling import bound_label_sets

POOL = 0b0111


def masks(**sets: int) -> dict[str, int]:
    """So many prompts of each label set, which is named in binary: ``b011=3``."""
    return {f"{name}-{i}": int(name[1:], 2) for name, n in sets.items() for i in range(n)}


def test_prompts_outside_the_pool_are_dropped() -> None:
    bounded = bound_label_sets(masks(b0001=2, b1000=3, b1001=1, b0000=1), POOL, PromptsGroup())
    assert bounded.kept == {"b0001-0", "b0001-1", "b0000-0"}
    assert bounded.counts["prompts_outside_pool"] == 4


@pytest.mark.parametrize(("minimum", "kept"), [(2, 5), (3, 3), (4, 0)])
def test_rare_label_sets_are_dropped(minimum: int, kept: int) -> None:
    settings = PromptsGroup(min_per_label_set=minimum)
    bounded = bound_label_sets(masks(b001=3, b011=2), POOL, settings)
    assert len(bounded.kept) == kept
    assert bounded.counts["prompts_in_rare_label_set"] == 5 - kept


def test_large_label_sets_are_capped_by_content() -> None:
    settings = PromptsGroup(max_per_label_set=4)
    all_of_them = masks(b001=30, b010=2)
    bounded = bound_label_sets(all_of_them, POOL, settings)
    assert len(bounded.kept) == 6
    assert bounded.counts["prompts_over_label_set_cap"] == 26
    backward = dict(reversed(list(all_of_them.items())))
    assert bound_label_sets(backward, POOL, settings).kept == bounded.kept
    first_by_name = {f"b001-{i}" for i in range(4)}
    assert not first_by_name <= bounded.kept


@given(
    st.dictionaries(st.text(max_size=4), st.integers(0, 15), max_size=30),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_every_prompt_is_kept_or_counted(
    labelled: dict[str, int], minimum: int, maximum: int
) -> None:
    settings = PromptsGroup(min_per_label_set=minimum, max_per_label_set=maximum)
    bounded = bound_label_sets(labelled, POOL, settings)
    assert len(bounded.kept) + bounded.counts.total() == len(labelled)
    assert all(labelled[i] & ~POOL == 0 for i in bounded.kept)
