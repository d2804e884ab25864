"""What best-of-n takes and what a cascade declines, against rules written out anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.evaluation_world import TAXONOMY

from cosalign.domain.config_rendering import render_categorical
from cosalign.domain.error_score import PAPER_WEIGHTS
from cosalign.domain.run_config.systems import SYSTEMS, SystemSettings
from cosalign.domain.schemas import FOLLOWS, RESPONSES, VERDICTS
from cosalign.evaluation.adherence import Judged, measure_adherence
from cosalign.evaluation.answers import Answers, System
from cosalign.evaluation.final_answers import DECLINED, Settled, settle_answers
from cosalign.evaluation.items import EvaluatedConfig, EvaluationItems, Item
from cosalign.inference.models import resolve_model

FULL = TAXONOMY.full_mask
MODEL = resolve_model("double:base", Path())
Label = tuple[int, int, bool | None, int | None]
"""Risks, known labels, addressed, rating."""


def verdict(name: str, label: Label) -> dict[str, Any]:
    risks, known, addressed, rating = label
    return {
        "response_id": name, "prompt_id": "p", "judge": "j", "risk_mask": risks & known,
        "known_mask": known, "risk_probability": [0.5] * len(TAXONOMY.names),
        "addressed": addressed, "addressed_probability": 0.5, "helpfulness": rating,
        "outside_mass": 0.0,
    }  # fmt: skip


def world(allowed: int, labels: list[Label]) -> tuple[EvaluationItems, Answers, Judged]:
    """One item with a draft a label, for every system alike."""
    config = EvaluatedConfig(("eu",), ("EU",), "control", render_categorical(TAXONOMY, allowed, 0))
    items = EvaluationItems([config], [Item(0, "p", "Odds?", "allowed")], Counter())
    ids = [f"draft{i}" for i in range(len(labels))]
    table = pa.Table.from_pylist(
        [
            {"response_id": i, "prompt_id": "p", "generator": "x", "config_id": "c", "draw": n,
             "text": "words", "finish_reason": "stop", "tokens": 1}
            for n, i in enumerate(ids)
        ],
        schema=RESPONSES,
    )  # fmt: skip
    verdicts = [verdict(i, label) for i, label in zip(ids, labels, strict=True)]
    judged = Judged(
        pa.Table.from_pylist(verdicts, schema=VERDICTS), FOLLOWS.empty_table(), len(ids)
    )
    return items, Answers(table, {"x": ids[:1]}, 0, {"x": [ids]}), judged


def settled(
    method: str, allowed: int, labels: list[Label], filtered: list[Label] | None = None
) -> tuple[Settled, EvaluationItems]:
    items, answers, judged = world(allowed, labels)
    own = world(allowed, filtered)[2] if filtered is not None else judged
    system = System(SystemSettings.model_validate({"name": "x", "method": method}), MODEL)
    done = settle_answers([system], items, answers, judged, {"x": own}, PAPER_WEIGHTS, TAXONOMY)
    return done, items


LABELS = st.tuples(
    st.integers(0, FULL), st.sampled_from([FULL, FULL, FULL ^ 1, 0]),
    st.sampled_from([True, False, None]), st.integers(0, 5),
)  # fmt: skip


@given(st.integers(0, FULL >> 1), st.lists(LABELS, min_size=1, max_size=6))
def test_best_of_n_takes_the_first_of_lowest_known_error(allowed: int, labels: list[Label]) -> None:
    done, _ = settled("best_of_n", allowed, labels)
    best: tuple[float, int] = (float("inf"), 0)
    for draw, (risks, known, addressed, _) in enumerate(labels):
        if known == FULL and addressed is not None:
            bits = [bit for bit in range(8) if risks >> bit & 1]
            error = sum(0.1 if allowed >> bit & 1 else 3.0 for bit in bits) + (not addressed)
            best = min(best, (round(error, 6), draw))
    assert done.answers.ids["x"] == [f"draft{best[1]}"]


@given(st.integers(0, FULL >> 1), LABELS)
def test_the_oracle_cascade_is_never_helpful_and_unsafe(allowed: int, label: Label) -> None:
    done, items = settled("cascade_oracle", allowed, [label])
    adherence = measure_adherence(done.judged, items, done.answers, TAXONOMY)
    h, s = adherence.h["x"][0], adherence.s["x"][0]
    broken = label[0] & label[1] & ~allowed
    assert not (h > 0 and s < 0)
    if broken:
        assert (h, s) == (0.0, 1.0)
        assert done.counts["filter_declined/x"] == 1
    else:
        assert done.answers.ids["x"] == ["draft0"]


def test_a_filter_that_cannot_say_lets_the_draft_pass_and_is_counted() -> None:
    done, _ = settled("cascade_oracle", 0, [(0, FULL ^ 2, True, 5)])
    assert done.answers.ids["x"] == ["draft0"]
    assert done.counts == {"filter_declined/x": 0, "filter_unknown/x": 1}


def test_an_unknown_label_on_an_allowed_risk_does_not_matter() -> None:
    done, _ = settled("cascade_oracle", 2, [(0, FULL ^ 2, True, 5)])
    assert done.counts["filter_unknown/x"] == 0


@pytest.mark.parametrize(("seen", "declined"), [(4, True), (0, False)])
def test_a_cascade_goes_by_its_own_filter(seen: int, declined: bool) -> None:
    done, items = settled("cascade", 1, [(4, FULL, True, 5)], [(seen, FULL, True, 5)])
    assert (done.answers.ids["x"] != ["draft0"]) == declined
    adherence = measure_adherence(done.judged, items, done.answers, TAXONOMY)
    assert adherence.s["x"][0] == (1 if declined else -1)
    rows = {row["response_id"]: row for row in done.answers.table.to_pylist()}
    assert (rows[done.answers.ids["x"][0]]["finish_reason"] == DECLINED) == declined
    assert "draft0" in rows


def test_other_systems_keep_their_first_draft() -> None:
    items, answers, judged = world(0, [(4, FULL, True, 5), (0, FULL, True, 5)])
    system = System(SYSTEMS["ica"].model_copy(update={"name": "x"}), MODEL)
    done = settle_answers([system], items, answers, judged, {}, PAPER_WEIGHTS, TAXONOMY)
    assert done.answers == answers
    assert done.judged is judged
