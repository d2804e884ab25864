from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.error_score import (
    PAPER_WEIGHTS,
    ErrorWeights,
    collapse,
    collapse_array,
    error_tenths,
    error_tenths_array,
    follows_error_tenths,
)
from cosalign.domain.errors import ConfigError

masks = st.integers(0, 2**32 - 1)
weights = st.tuples(st.integers(0, 20), st.integers(1, 20), st.integers(1, 40)).map(
    lambda w: ErrorWeights(alpha=w[0], gamma=w[0] + w[1], beta=w[0] + w[1] + w[2])
)


def members(mask: int) -> set[int]:
    return {bit for bit in range(32) if mask // 2**bit % 2}


def papers_error(risks: set[int], addressed: bool, allowed: set[int], w: ErrorWeights) -> int:
    return (
        w.alpha * len({r for r in risks if r in allowed})
        + w.beta * len({r for r in risks if r not in allowed})
        + w.gamma * (not addressed)
    )


@given(masks, st.booleans(), masks, weights)
def test_the_error_is_the_papers_formula_on_sets(
    risks: int, addressed: bool, allowed: int, w: ErrorWeights
) -> None:
    expected = papers_error(members(risks), addressed, members(allowed), w)
    assert error_tenths(risks, addressed, allowed, w) == expected


@given(st.lists(st.tuples(masks, st.booleans(), masks), min_size=1), weights)
def test_the_array_form_equals_the_scalar_form(
    rows: list[tuple[int, bool, int]], w: ErrorWeights
) -> None:
    risks, addressed, allowed = zip(*rows, strict=True)
    found = error_tenths_array(
        np.array(risks, np.uint32), np.array(addressed), np.array(allowed, np.uint32), w
    )
    assert found.dtype == np.int32
    assert found.tolist() == [error_tenths(*row, w) for row in rows]


def test_the_array_form_broadcasts_responses_against_configs() -> None:
    risks = np.array([[0b00], [0b01], [0b11]], np.uint32)
    allowed = np.array([0b00, 0b01], np.uint32)
    found = error_tenths_array(risks, np.array([[True], [True], [False]]), allowed)
    assert found.tolist() == [[0, 0], [30, 1], [70, 41]]


@pytest.mark.parametrize(
    ("risks", "addressed", "allowed", "tenths"),
    [
        (0b000, True, 0b000, 0),
        (0b000, False, 0b111, 10),
        (0b001, True, 0b001, 1),
        (0b001, True, 0b000, 30),
        (0b011, False, 0b001, 41),
        (0b111, True, 0b111, 3),
    ],
)
def test_errors_worked_out_by_hand(risks: int, addressed: bool, allowed: int, tenths: int) -> None:
    assert error_tenths(risks, addressed, allowed) == tenths


@given(masks, st.booleans(), masks, masks, weights)
def test_widening_the_allowed_set_never_raises_the_error(
    risks: int, addressed: bool, allowed: int, more: int, w: ErrorWeights
) -> None:
    narrow = error_tenths(risks, addressed, allowed, w)
    assert error_tenths(risks, addressed, allowed | more, w) <= narrow


@given(masks, st.booleans(), masks, st.integers(0, 2**32))
def test_permuting_categories_changes_nothing(
    risks: int, addressed: bool, allowed: int, seed: int
) -> None:
    order = random.Random(seed).sample(range(32), 32)  # noqa: S311

    def permuted(mask: int) -> int:
        return sum(1 << order[bit] for bit in members(mask))

    same = error_tenths(permuted(risks), addressed, permuted(allowed))
    assert same == error_tenths(risks, addressed, allowed)


@given(masks, masks)
def test_collapse_folds_what_lies_outside_the_pool_into_the_catch_all(risk: int, pool: int) -> None:
    catch_all = 1 << 31
    kept, outside = members(risk) & members(pool), members(risk) - members(pool)
    expected = kept | ({31} if outside else set())
    assert members(collapse(risk, pool, catch_all)) == expected


@given(st.lists(masks, min_size=1), masks)
def test_collapse_of_an_array_is_collapse_of_each(risks: list[int], pool: int) -> None:
    found = collapse_array(np.array(risks, np.uint32), pool, 1 << 31)
    assert found.dtype == np.uint32
    assert found.tolist() == [collapse(risk, pool, 1 << 31) for risk in risks]


@given(masks, masks)
def test_collapsing_twice_is_collapsing_once(risk: int, pool: int) -> None:
    once = collapse(risk, pool, 1 << 31)
    assert collapse(once, pool, 1 << 31) == once


@pytest.mark.parametrize(
    ("follows", "addressed", "tenths"),
    [(True, True, 0), (True, False, 10), (False, True, 30), (False, False, 40)],
)
def test_a_free_form_config_costs_beta_if_broken(
    follows: bool, addressed: bool, tenths: int
) -> None:
    assert follows_error_tenths(follows, addressed) == tenths


def test_the_papers_weights_in_tenths() -> None:
    assert (PAPER_WEIGHTS.alpha, PAPER_WEIGHTS.beta, PAPER_WEIGHTS.gamma) == (1, 30, 10)


@pytest.mark.parametrize(
    ("alpha", "gamma", "beta"), [(10, 10, 30), (1, 30, 30), (1, 31, 30), (-1, 10, 30), (11, 10, 30)]
)
def test_weights_out_of_order_are_refused(alpha: int, gamma: int, beta: int) -> None:
    with pytest.raises(ConfigError, match=f"gamma={gamma}"):
        ErrorWeights(alpha=alpha, beta=beta, gamma=gamma)
