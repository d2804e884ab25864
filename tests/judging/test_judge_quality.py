"""How right a judge is: accuracy, its baseline, AUC, and what unknown answers count as."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.judging.examples_world import TAXONOMY

from cosalign.domain.run_config import ScoringGroup
from cosalign.judging.judge_quality import area_under_curve, measure, quality_metrics
from cosalign.judging.label_protocol import prompt_protocol, response_protocol

PROTOCOL = prompt_protocol(TAXONOMY)


def rows(yes: list[float], inside: float = 1.0) -> pa.Table:
    """Rows whose first question is answered yes with these probabilities, the others with no."""
    sure = [inside, 0.0]
    return pa.table({"probabilities": [[[inside * (1 - p), inside * p], sure, sure] for p in yes]})


def right(yes: list[int]) -> npt.NDArray[np.int64]:
    return np.array([[y, 0, 0] for y in yes], np.int64)


def test_accuracy_stands_beside_that_of_the_commonest_answer() -> None:
    beer, poker, _ = measure(
        rows([0.9, 0.2, 0.4, 0.6]), PROTOCOL, right([1, 0, 0, 0]), ScoringGroup()
    )
    assert (beer.accuracy, beer.commonest, beer.rows) == (0.75, 0.75, 4)
    assert beer.auc == 1.0
    assert (poker.accuracy, poker.commonest, poker.auc) == (1.0, 1.0, None)


def test_the_runs_threshold_is_the_one_that_is_measured() -> None:
    settings = ScoringGroup(prompt_thresholds={"beer": 0.7})
    beer = measure(rows([0.9, 0.2, 0.4, 0.6]), PROTOCOL, right([1, 0, 0, 0]), settings)[0]
    assert beer.accuracy == 1.0


def test_what_could_not_be_read_counts_as_wrong() -> None:
    beer = measure(rows([0.1, 0.1], inside=0.001), PROTOCOL, right([0, 0]), ScoringGroup())[0]
    assert (beer.accuracy, beer.auc) == (0.0, None)


def test_grades_are_right_where_the_likeliest_is() -> None:
    protocol = response_protocol(TAXONOMY)
    no = [1.0, 0.0]
    grades = [[0, 0, 0, 0, 0.1, 0.9], [0.6, 0.4, 0, 0, 0, 0]]
    table = pa.table({"probabilities": [[no, no, no, no, grade] for grade in grades]})
    expected = np.array([[0, 0, 0, 0, 5], [0, 0, 0, 0, 1]], np.int64)
    last = measure(table, protocol, expected, ScoringGroup())[-1]
    assert (last.question, last.accuracy, last.commonest, last.auc) == (
        "helpfulness",
        0.5,
        0.5,
        None,
    )


def test_metrics_are_named_by_judge_and_question() -> None:
    measured = measure(rows([0.9, 0.2]), PROTOCOL, right([1, 0]), ScoringGroup())
    metrics = quality_metrics(measured, "zero_shot")
    assert metrics["zero_shot_accuracy/beer"] == 1.0
    assert metrics["zero_shot_auc/poker"] is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(items: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in items], np.float32)
    positive = np.array([yes for _, yes in items])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    area = area_under_curve(scores, positive)
    assert area == (pytest.approx(np.mean(pairs)) if pairs else None)
