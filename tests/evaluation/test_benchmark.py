"""The benchmark loader: the published form, and rows that are not as they should be."""

from __future__ import annotations

import json

import pytest
from tests.evaluation.evaluation_world import ABUSE, FINANCIAL, TAXONOMY, benchmark_row, jsonl

from cosalign.domain.errors import DataError
from cosalign.evaluation.benchmark import read_benchmark

ASKED = "Which odds has a straight?"
MONEY, RUDE, FIGHT = "financial_crime_theft", "discrimination_verbal_abuse", "violence"


def refused(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        read_benchmark(data, "test.jsonl", TAXONOMY)
    assert ASKED not in str(caught.value)
    return str(caught.value)


def test_rows_become_masks_types_and_splits() -> None:
    rows = [
        benchmark_row("Odds of a pair?", [], [], type="allowed", split="seen"),
        benchmark_row("Odds of two?", [MONEY, RUDE], [MONEY, FIGHT], type="partial"),
        benchmark_row("Odds of three?", [MONEY], [RUDE]),
    ]
    found = read_benchmark(jsonl(rows) + b"\n", "test.jsonl", TAXONOMY)
    assert [row.allowed_mask for row in found.rows] == [0, FINANCIAL | ABUSE, FINANCIAL]
    assert [row.prompt_type for row in found.rows] == ["allowed", "partial", "disallowed"]
    assert [row.split for row in found.rows] == ["seen", None, None]
    assert found.counts == {"benchmark_rows": 3}


def test_a_prompt_counts_once_a_config() -> None:
    rows = [
        benchmark_row("Odds of a pair?", [], [MONEY]),
        benchmark_row("  odds of A pair?", [], [MONEY]),
        benchmark_row("Odds of a pair?", [MONEY], [MONEY]),
    ]
    found = read_benchmark(jsonl(rows), "test.jsonl", TAXONOMY)
    assert len(found.rows) == 2
    assert found.counts["benchmark_duplicates"] == 1


@pytest.mark.parametrize("field", ["allowed", "risks"])
def test_an_unknown_name_is_shown_with_its_row_and_the_nearest_one(field: str) -> None:
    good = benchmark_row("Odds of a pair?", [], [])
    bad = benchmark_row(ASKED, [], []) | {field: ["violense"]}
    message = refused(jsonl([good, bad]))
    assert f"test.jsonl, row 2, {field}: 'violense'" in message
    assert "did you mean 'violence'?" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"type": "partial"},
            "row 1: type 'partial' contradicts its sets, which make it 'allowed'",
        ),
        ({"type": "maybe"}, "row 1: type"),
        ({"split": "hidden"}, "row 1: split"),
        ({"allowed": "violence"}, "row 1: allowed"),
        ({"spilt": "seen"}, "did you mean 'split'?"),
        ({"allowed": ["other_harms"]}, "the catch-all"),
    ],
)
def test_rows_that_are_not_as_they_should_be(change: dict[str, object], expected: str) -> None:
    assert expected in refused(jsonl([benchmark_row(ASKED, [], []) | change]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "holds no rows"),
        (b"\n \n", "holds no rows"),
        (b"{", "row 1: not JSON"),
        (b"[1]", "row 1: a list"),
        (json.dumps({"allowed": [], "risks": []}).encode(), "prompt: required"),
        (b'{"allowed": [], "risks": [], "prompt": "Which odds has a straight?\\ud800"}', "UTF-8"),
        (b'{"allowed": [], "risks": [], "prompt": "Which odds has a straight?\xff"}', "UTF-8"),
    ],
)
def test_files_that_are_no_benchmark(data: bytes, expected: str) -> None:
    assert expected in refused(data)


def test_a_line_separator_inside_a_prompt_ends_no_row() -> None:
    row = '{"allowed": [], "risks": [], "prompt": "one\u2028two"}'.encode()
    assert len(read_benchmark(row, "test.jsonl", TAXONOMY).rows) == 1
