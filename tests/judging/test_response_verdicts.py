"""The verdicts table of responses: row for row, and unknown where nothing was generated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cosalign.domain.run_config import EngineGroup, ScoringGroup
from cosalign.domain.schemas import RESPONSES, VERDICTS
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import resolve_model
from cosalign.judging.engine_judge import EngineJudge
from cosalign.judging.judge import verdict_ledger
from cosalign.judging.response_verdicts import JudgedResponses, judge_responses
from cosalign.store.storage import open_storage

TAXONOMY = load_taxonomy("cosa", "1")
MODEL = resolve_model("double:judge", Path())
PROMPTS = {"cards": "What are the odds of four aces?", "beer": "Which beer suits a cheddar?"}


def responses(*rows: tuple[str, str, str]) -> pa.Table:
    """Rows of (prompt id, text, finish reason)."""
    return pa.Table.from_pylist(
        [
            {
                "response_id": f"response-{i}",
                "prompt_id": prompt,
                "generator": "base",
                "config_id": None,
                "draw": i,
                "text": text,
                "finish_reason": reason,
                "tokens": 4,
            }
            for i, (prompt, text, reason) in enumerate(rows)
        ],
        schema=RESPONSES,
    )


def judged(root: Path, table: pa.Table, **settings: object) -> tuple[JudgedResponses, int]:
    """The verdicts, and how many engines were started."""
    with EngineHost(EngineGroup(kind="double", max_model_len=16384)) as host:
        judge = EngineJudge(host, open_storage(str(root)), MODEL)
        made = judge_responses(
            judge, TAXONOMY, table, PROMPTS, ScoringGroup.model_validate(settings)
        )
    return made, host.starts


MIXED = (
    ("cards", "Slim.", "stop"),
    ("cards", "", "error"),
    ("beer", "A brown ale", "length"),
    ("beer", "", "error"),
    ("beer", "", "stop"),
)


def assert_all_unknown(row: dict[str, Any]) -> None:
    assert (row["risk_mask"], row["known_mask"]) == (0, 0)
    assert row["addressed"] is None
    assert row["addressed_probability"] is None
    assert row["helpfulness"] is None
    assert row["outside_mass"] == 1.0
    assert all(math.isnan(p) for p in row["risk_probability"])
    assert len(row["risk_probability"]) == 8


def test_failed_generations_are_unknown_and_not_sent_to_the_judge(tmp_path: Path) -> None:
    table = responses(*MIXED)
    made, _ = judged(tmp_path, table)
    assert made.made == 3
    assert verdict_ledger(open_storage(str(tmp_path))).stats().keys == 3
    rows = made.table.to_pylist()
    assert [r["response_id"] for r in rows] == table.column("response_id").to_pylist()
    assert [r["prompt_id"] for r in rows] == table.column("prompt_id").to_pylist()
    for at in (1, 3):
        assert_all_unknown(rows[at])
    for at in (0, 2, 4):
        assert rows[at]["known_mask"] != 0
        assert {rows[at]["judge"]} == {MODEL.digest}


def test_verdicts_do_not_depend_on_the_other_rows(tmp_path: Path) -> None:
    table = responses(*MIXED)
    whole, _ = judged(tmp_path / "a", table)
    for at in range(table.num_rows):
        alone, _ = judged(tmp_path / "b", table.slice(at, 1))
        assert str(alone.table.to_pylist()) == str(whole.table.slice(at, 1).to_pylist())


@pytest.mark.parametrize("rows", [(), (MIXED[1], MIXED[3])])
def test_nothing_to_judge_starts_no_engine(
    tmp_path: Path, rows: tuple[tuple[str, str, str], ...]
) -> None:
    made, starts = judged(tmp_path, responses(*rows))
    assert (made.made, starts) == (0, 0)
    assert made.table.schema.equals(VERDICTS)
    assert made.table.num_rows == len(rows)
    for row in made.table.to_pylist():
        assert_all_unknown(row)


def test_equal_responses_share_a_verdict_and_keep_their_rows(tmp_path: Path) -> None:
    same = ("cards", "Slim.", "stop")
    made, _ = judged(tmp_path, responses(same, same, ("beer", "Slim.", "stop")))
    assert made.made == 2
    first, second, _ = made.table.drop_columns(["response_id"]).to_pylist()
    assert str(first) == str(second)


def test_thresholds_move_verdicts_without_a_judge(tmp_path: Path) -> None:
    table = responses(*((p, f"Answer {i}.", "stop") for p in PROMPTS for i in range(6)))
    low, _ = judged(tmp_path, table, threshold=0.05)
    high, starts = judged(tmp_path, table, threshold=0.95)
    assert (high.made, starts) == (0, 0)
    masks = [t.table.column("risk_mask").to_pylist() for t in (low, high)]
    assert all(a & b == b for a, b in zip(*masks, strict=True))
    assert masks[0] != masks[1]
    assert low.table.column("known_mask") == high.table.column("known_mask")
