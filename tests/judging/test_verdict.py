"""From label probabilities to verdicts: the arithmetic, and what is unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.run_config import ScoringGroup
from cosalign.domain.schemas import VERDICT_LEDGER
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.judging.label_protocol import prompt_protocol, response_protocol
from cosalign.judging.verdict import binary_labels, optional, outside_mass, ratings, risk_labels

TAXONOMY = load_taxonomy("cosa", "1")
PROTOCOL = response_protocol(TAXONOMY)
NAN = float("nan")
Mass = Sequence[float]


def ledger(*judgements: Sequence[Mass]) -> pa.Table:
    """Ledger rows; an empty judgement is a failure."""
    rows = [
        {
            "key": i.to_bytes(16, "big"),
            "labels": ["N"] * len(masses),
            "probabilities": [list(mass) for mass in masses],
            "outside_mass": [1 - sum(mass) for mass in masses],
            "failure": None if masses else "no_answer",
            "engine": "hand",
            "dtype": "float64",
            "created": 0,
        }
        for i, masses in enumerate(judgements)
    ]
    return pa.Table.from_pylist(rows, schema=VERDICT_LEDGER)


def judgement(
    risks: Mass = (0.0,) * 8, addressed: Mass = (0.1, 0.8), grades: Mass = (0, 0, 0, 0.9, 0, 0)
) -> list[Mass]:
    """Probabilities of Y for each risk, of which N takes what is left of 0.9."""
    return [*((0.9 - yes, yes) for yes in risks), addressed, grades]


def one(name: str, mass: Mass, **settings: object) -> tuple[bool, bool, float]:
    """Value, known and probability of one question."""
    masses = judgement()
    at = PROTOCOL.index(name)
    assert at is not None
    masses[at] = mass
    made = binary_labels(ledger(masses), PROTOCOL, name, ScoringGroup.model_validate(settings))
    return bool(made.value[0]), bool(made.known[0]), float(made.probability[0])


@pytest.mark.parametrize(
    ("mass", "value", "share"),
    [
        ((0.3, 0.6), True, 2 / 3),
        ((0.6, 0.3), False, 1 / 3),
        ((0.25, 0.25), True, 0.5),
        ((0.02, 0.06), True, 0.75),
        ((0.0, 0.5), True, 1.0),
        ((0.5, 0.0), False, 0.0),
    ],
)
def test_a_probability_is_the_share_of_yes(mass: Mass, value: bool, share: float) -> None:
    got = one("violence", mass)
    assert got[:2] == (value, True)
    assert got[2] == pytest.approx(share, abs=1e-6)


def test_thresholds_are_inclusive_and_per_question() -> None:
    assert one("violence", (0.5, 0.25), threshold=0.25)[0]
    assert not one("violence", (0.5, 0.25), threshold=0.34)[0]
    strict = {"threshold": 0.2, "thresholds": {"violence": 0.6}}
    assert not one("violence", (0.5, 0.25), **strict)[0]
    assert one("addressed", (0.5, 0.25), **strict)[0]


def test_prompts_have_thresholds_of_their_own() -> None:
    settings = ScoringGroup(thresholds={"violence": 0.9}, prompt_thresholds={"violence": 0.1})
    rows = ledger([(0.5, 0.4)] * 8)
    prompts = risk_labels(rows, prompt_protocol(TAXONOMY), settings)
    assert TAXONOMY.names_of(int(prompts.risk_mask[0])) == ("violence",)
    assert not one("violence", (0.05, 0.4), thresholds={"violence": 0.95})[0]


@pytest.mark.parametrize(
    ("mass", "minimum", "known"),
    [
        ((0.004, 0.005), 0.01, False),
        ((0.006, 0.005), 0.01, True),
        ((0.25, 0.25), 0.5, True),
        ((0.0, 0.0), 0.0, False),
        ((0.0, 1e-9), 0.0, True),
        ((NAN, 0.5), 0.01, False),
        ((0.5, NAN), 0.0, False),
    ],
)
def test_a_label_with_hardly_any_mass_is_unknown(mass: Mass, minimum: float, known: bool) -> None:
    value, is_known, probability = one("violence", mass, min_label_mass=minimum)
    assert is_known is known
    assert math.isnan(probability) is not known
    if not known:
        assert not value


def test_masks_hold_known_bits_only() -> None:
    masses = judgement(risks=(0.8, 0.1, 0.8, 0.1, 0.8, 0.1, 0.8, 0.1))
    masses[2] = (0.0, 0.001)
    masses[3] = (0.001, 0.0)
    made = risk_labels(ledger(masses), PROTOCOL, ScoringGroup())
    assert made.known_mask[0] == 0b1111_0011
    assert made.risk_mask[0] == 0b0101_0001
    assert made.probability.shape == (1, 8)
    assert np.isnan(made.probability[0]).tolist() == [False, False, True, True] + [False] * 4


def test_failures_are_unknown_in_everything() -> None:
    rows = ledger([], judgement(risks=(0.8,) * 8))
    settings = ScoringGroup(min_label_mass=0)
    made = risk_labels(rows, PROTOCOL, settings)
    assert made.known_mask.tolist() == [0, 255]
    assert made.risk_mask.tolist() == [0, 255]
    assert binary_labels(rows, PROTOCOL, "addressed", settings).known.tolist() == [False, True]
    assert ratings(rows, PROTOCOL, "helpfulness", settings) == [None, 3]
    assert outside_mass(rows).tolist() == [1.0, pytest.approx(0.1, abs=1e-6)]


@pytest.mark.parametrize(
    ("grades", "rating"),
    [
        ((0.9, 0, 0, 0, 0, 0), 0),
        ((0, 0, 0, 0, 0, 0.9), 5),
        ((0.1, 0.2, 0.3, 0.2, 0.1, 0.05), 2),
        ((0.001, 0.002, 0, 0, 0, 0), None),
        ((0, 0, 0, 0, 0, 0), None),
        ((NAN, 0.5, 0, 0, 0, 0), None),
    ],
)
def test_a_rating_is_the_most_probable_grade(grades: Mass, rating: int | None) -> None:
    assert ratings(ledger(judgement(grades=grades)), PROTOCOL, "helpfulness", ScoringGroup()) == [
        rating
    ]


def test_the_outside_mass_is_the_worst_questions() -> None:
    masses = judgement()
    masses[4] = (0.2, 0.2)
    assert outside_mass(ledger(masses)).tolist() == [pytest.approx(0.6, abs=1e-6)]


def test_a_question_that_is_not_asked_is_a_mistake_of_ours() -> None:
    with pytest.raises(LookupError, match="addressed"):
        binary_labels(ledger(), prompt_protocol(TAXONOMY), "addressed", ScoringGroup())


def test_no_rows_make_no_verdicts() -> None:
    made = risk_labels(ledger(), PROTOCOL, ScoringGroup())
    assert (made.risk_mask.shape, made.probability.shape) == ((0,), (0, 8))
    assert ratings(ledger(), PROTOCOL, "helpfulness", ScoringGroup()) == []
    assert outside_mass(ledger()).tolist() == []


def test_optional_puts_none_where_nothing_is_known() -> None:
    assert optional(np.array([1, 2, 3]), np.array([True, False, True])) == [1, None, 3]


masses = st.tuples(*[st.one_of(st.just(0.0), st.floats(0, 0.5, width=32))] * 2)


@given(masses, st.floats(0, 1), st.floats(0.001, 0.999))
def test_nothing_is_known_without_mass(mass: Mass, minimum: float, threshold: float) -> None:
    value, known, probability = one("violence", mass, min_label_mass=minimum, threshold=threshold)
    total = float(np.float32(mass[0]) + np.float32(mass[1]))
    if total == 0:
        assert not known
    if known:
        assert total >= minimum * (1 - 1e-6)
        assert 0 <= probability <= 1
        expected = mass[1] / (mass[0] + mass[1])
        assert value == (expected >= threshold) or expected == pytest.approx(threshold, rel=1e-4)


@given(st.floats(0.01, 0.45), st.floats(0.01, 0.45), st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_a_higher_threshold_never_adds_a_risk(
    no: float, yes: float, one_threshold: float, other: float
) -> None:
    low, high = sorted((one_threshold, other))
    assert (
        one("violence", (no, yes), threshold=low)[0]
        >= one("violence", (no, yes), threshold=high)[0]
    )
