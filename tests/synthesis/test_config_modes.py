"""The four modes against their definitions, by counting over fixed seeds."""

from __future__ import annotations

from collections import Counter
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from cosalign.domain.run_config import MODES, Mode
from cosalign.synthesis.config_modes import bits, draw_allowed_mask

POOL = 0b0111_1111
LABELS = 0b0001_0011
DRAWS = 4000
SURE = 1e-3
"""Seeds are fixed, so a test passes or fails for ever; at this level a right one fails rarely."""


def drawn(mode: Mode, labels: int = LABELS, pool: int = POOL) -> list[int]:
    return [draw_allowed_mask(mode, labels, pool, seed) for seed in range(DRAWS)]


def assert_uniform(values: list[int], possible: range) -> None:
    counts = Counter(values)
    assert set(counts) <= set(possible)
    assert chisquare([counts[value] for value in possible]).pvalue > SURE


def assert_equally_likely_given_size(sets: list[int], universe: int) -> None:
    """All subsets of one size are equally likely, for each size."""
    by_size: dict[int, Counter[int]] = {}
    for drawn_set in sets:
        assert drawn_set & ~universe == 0
        by_size.setdefault(drawn_set.bit_count(), Counter())[drawn_set] += 1
    for size, counts in by_size.items():
        possible = comb(universe.bit_count(), size)
        seen = [*counts.values(), *[0] * (possible - len(counts))]
        if possible > 1:
            assert chisquare(seen).pvalue > SURE


@given(st.integers(0, POOL), st.integers(0, 2**63))
def test_exact_is_the_label_set_and_safe_is_nothing(labels: int, seed: int) -> None:
    assert draw_allowed_mask("exact", labels, POOL, seed) == labels
    assert draw_allowed_mask("safe", labels, POOL, seed) == 0


def test_superset_adds_a_uniform_number_of_others() -> None:
    sets = drawn("superset")
    assert all(allowed & LABELS == LABELS for allowed in sets)
    assert_uniform([(allowed & ~LABELS).bit_count() for allowed in sets], range(4 + 1))
    assert_equally_likely_given_size([allowed & ~LABELS for allowed in sets], POOL & ~LABELS)


def test_not_superset_keeps_a_uniform_number_below_all() -> None:
    sets = drawn("not_superset")
    assert_uniform([(allowed & LABELS).bit_count() for allowed in sets], range(3))
    assert_uniform([(allowed & ~LABELS).bit_count() for allowed in sets], range(4 + 1))
    assert_equally_likely_given_size([allowed & LABELS for allowed in sets], LABELS)
    assert_equally_likely_given_size([allowed & ~LABELS for allowed in sets], POOL & ~LABELS)


def test_what_is_kept_and_what_is_added_are_independent() -> None:
    sets = drawn("not_superset")
    cells = Counter(
        ((allowed & LABELS).bit_count(), (allowed & ~LABELS).bit_count()) for allowed in sets
    )
    assert chisquare([cells[i, j] for i in range(3) for j in range(5)]).pvalue > SURE


@given(st.integers(1, POOL), st.integers(0, 2**63))
def test_not_superset_never_allows_the_whole_label_set(labels: int, seed: int) -> None:
    allowed = draw_allowed_mask("not_superset", labels, POOL, seed)
    assert allowed & labels != labels


def test_an_empty_label_set_under_not_superset_allows_nothing() -> None:
    assert set(drawn("not_superset", labels=0)) == {0}


def test_an_empty_label_set_under_superset_allows_any_number() -> None:
    assert_uniform([allowed.bit_count() for allowed in drawn("superset", labels=0)], range(7 + 1))


@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from(MODES), st.integers(0, 2**63))
def test_nothing_outside_the_pool_is_allowed(pool: int, some: int, mode: Mode, seed: int) -> None:
    labels = some & pool
    assert draw_allowed_mask(mode, labels, pool, seed) & ~pool == 0


@pytest.mark.parametrize("mode", ["superset", "not_superset"])
def test_a_draw_is_a_function_of_its_seed(mode: Mode) -> None:
    assert drawn(mode) == drawn(mode)
    assert len(set(drawn(mode))) > 10


@given(st.integers(0, 2**32 - 1))
def test_bits_are_the_mask_taken_apart(mask: int) -> None:
    assert sum(bits(mask)) == mask
    assert all(bit.bit_count() == 1 for bit in bits(mask))
    assert bits(mask) == sorted(bits(mask))
