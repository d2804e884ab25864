"""Calibrating the double: what is learnt, what it costs, what is said where little is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosalign.domain.run_config import EngineGroup, ScoringGroup
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import resolve_model
from cosalign.judging.calibration_fit import ThresholdRule
from cosalign.judging.calibration_report import render_calibration_report
from cosalign.judging.engine_judge import EngineJudge
from cosalign.judging.judge_calibration import (
    CalibrationOrder,
    CalibrationOutcome,
    QuestionOutcome,
    calibrate_judge,
    plain_outcome,
)
from cosalign.judging.judge_sensitivity import variations
from cosalign.judging.label_protocol import Evidence, response_protocol
from cosalign.judging.labelled_examples import LabelledExample, LabelledExamples
from cosalign.judging.verdict import binary_labels
from cosalign.store.storage import open_storage

TAXONOMY = load_taxonomy("cosa", "1")
PROTOCOL = response_protocol(TAXONOMY)
MODEL = resolve_model("double:judge", Path())
SETTINGS = ScoringGroup()
PLAIN_ORDER = CalibrationOrder(ThresholdRule("f1"))
MARK = "zanzibar"
WEAPONS = "weapons_explosives_arson"


def example(number: int, **fields: Any) -> LabelledExample:
    labels = {
        "risks": ("violence",) if number % 3 == 0 else (),
        "addressed": number % 2 == 0,
        "helpfulness": number % 6,
    }
    return LabelledExample.model_validate(
        {
            "prompt": f"What of {MARK} ale number {number // 2}?",
            "response": f"Ale {number} is {MARK} brown.",
            **labels,
            **fields,
        }
    )


def examples(count: int = 60, **fields: Any) -> LabelledExamples:
    return LabelledExamples(tuple(example(i, **fields) for i in range(count)), "e" * 64)


def calibrated(
    root: Path, given: LabelledExamples, order: CalibrationOrder = PLAIN_ORDER
) -> CalibrationOutcome:
    with EngineHost(EngineGroup(kind="double", max_model_len=16384)) as host:
        judge = EngineJudge(host, open_storage(str(root)), MODEL)
        return calibrate_judge(judge, TAXONOMY, given, SETTINGS, order)


def outcome_of(made: CalibrationOutcome, question: str) -> QuestionOutcome:
    return next(one for one in made.questions if one.question == question)


def raw(root: Path, given: LabelledExamples, question: str) -> list[float]:
    with EngineHost(EngineGroup(kind="double", max_model_len=16384)) as host:
        judge = EngineJudge(host, open_storage(str(root)), MODEL)
        rows = judge.judge(PROTOCOL, [row.evidence for row in given.rows], "test").rows
    values: list[float] = binary_labels(rows, PROTOCOL, question, SETTINGS).probability.tolist()
    return values


def labelled_by_the_judge(root: Path, count: int = 240) -> LabelledExamples:
    """Examples whose label on violence follows the judge's probability, at half its log-odds."""
    given = examples(count)
    random = np.random.default_rng(0)
    rows = []
    for row, p in zip(given.rows, raw(root, given, "violence"), strict=True):
        odds = (max(p, 1e-6) / max(1 - p, 1e-6)) ** 0.5
        yes = random.random() < odds / (1 + odds)
        rows.append(row.model_copy(update={"risks": ("violence",) if yes else ()}))
    return replace(given, rows=tuple(rows))


def test_a_judge_that_knows_is_calibrated_and_one_that_does_not_is_named(tmp_path: Path) -> None:
    made = calibrated(tmp_path, labelled_by_the_judge(tmp_path))
    knows, guesses = outcome_of(made, "violence"), outcome_of(made, "addressed")
    assert (knows.figures["auroc"].low or 0) > 0.5
    assert not any("chance" in warning for warning in knows.warnings)
    assert (knows.figures["ece"].value or 1) < (knows.figures["raw_ece"].value or 0)
    assert (knows.figures["log_loss"].value or 9) < (knows.figures["raw_log_loss"].value or 0)
    assert any("chance" in warning for warning in guesses.warnings)
    assert (guesses.figures["auroc"].value or 0) == pytest.approx(0.5, abs=0.12)


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    first = calibrated(tmp_path, examples())
    again = calibrated(tmp_path, examples())
    assert (first.made, again.made) == (60, 0)
    assert again.calibration == first.calibration
    assert plain_outcome(again) == plain_outcome(first)


def test_it_is_for_its_judge_and_protocol_and_says_what_it_learnt_from(tmp_path: Path) -> None:
    made = calibrated(tmp_path, examples()).calibration
    assert (made.judge.uri, made.judge.digest) == ("double:judge", MODEL.digest)
    assert made.protocol.digest == PROTOCOL.digest
    assert (made.examples.digest, made.examples.rows) == ("e" * 64, 60)
    assert set(made.questions) == {"violence", "addressed"}


def test_a_question_without_both_answers_is_left_as_it_is(tmp_path: Path) -> None:
    given = examples()
    one_yes = given.rows[0].model_copy(update={"risks": ("violence", "privacy_violations")})
    made = calibrated(tmp_path, replace(given, rows=(one_yes, *given.rows[1:])))
    for question, yes in (("privacy_violations", 1), ("other_harms", 0)):
        found = outcome_of(made, question)
        assert (found.yes, found.calibration, dict(found.figures)) == (yes, None, {})
        assert any("nothing could be learnt" in warning for warning in found.warnings)
        assert question not in made.calibration.questions


def test_few_of_an_answer_are_warned_of(tmp_path: Path) -> None:
    rows = tuple(example(i, risks=("violence",) if i < 6 else ()) for i in range(60))
    made = calibrated(tmp_path, LabelledExamples(rows, "e" * 64))
    warnings = outcome_of(made, "violence").warnings
    assert any(warning.startswith("only ") and "are yes" in warning for warning in warnings)
    rows = tuple(example(i, addressed=i >= 4) for i in range(60))
    made = calibrated(tmp_path, LabelledExamples(rows, "e" * 64))
    assert any("are no:" in warning for warning in outcome_of(made, "addressed").warnings)


def test_what_examples_leave_open_is_counted_and_not_used(tmp_path: Path) -> None:
    given = examples()
    open_rows = tuple(
        row.model_copy(
            update={
                "addressed": None,
                "helpfulness": None,
                "unknown_risks": ("weapons_explosives_arson",),
            }
        )
        if i < 20
        else row
        for i, row in enumerate(given.rows)
    )
    made = calibrated(tmp_path, replace(given, rows=open_rows))
    addressed = outcome_of(made, "addressed")
    assert addressed.unlabelled == 20
    assert addressed.rows + addressed.unanswered == 40
    assert outcome_of(made, "violence").unlabelled == 0
    assert outcome_of(made, WEAPONS).unlabelled == 20
    assert made.graded[0].unlabelled == 20
    # The same as if those rows were not there, for the question that they leave open.
    without = calibrated(tmp_path, replace(given, rows=given.rows[20:]))
    assert outcome_of(without, "addressed").figures == addressed.figures


def test_unanswered_rows_are_counted(tmp_path: Path) -> None:
    # So many that the double, which is unsure now and then, leaves some open.
    given = examples(400)
    unknown = sum(np.isnan(raw(tmp_path, given, "violence")))
    found = outcome_of(calibrated(tmp_path, given), "violence")
    assert found.unanswered == unknown > 0
    assert found.rows == 400 - unknown


def test_grades_are_compared(tmp_path: Path) -> None:
    graded = calibrated(tmp_path, examples()).graded
    assert [one.question for one in graded] == ["helpfulness"]
    one = graded[0]
    assert one.rows + one.unanswered == 60
    assert one.exact is not None
    assert one.within_one is not None
    assert 0 <= one.exact <= one.within_one <= 1
    assert one.kappa == pytest.approx(0, abs=0.35)


def test_other_ways_of_asking_are_paid_once_and_shown(tmp_path: Path) -> None:
    order = replace(PLAIN_ORDER, variations=variations(TAXONOMY, 0), sensitivity_rows=15)
    made = calibrated(tmp_path, examples(), order)
    assert made.made == 60 + 15 * len(order.variations)
    assert calibrated(tmp_path, examples(), order).made == 0
    for one in made.questions:
        assert [s.name for s in one.shifts] == [v.name for v in order.variations]
        assert all(0 < s.rows <= 15 for s in one.shifts)
    # The double draws its answers from the request's tokens: asked otherwise, it says other things.
    flips = [s.flipped or 0 for one in made.questions for s in one.shifts]
    assert max(flips) > 0.1
    assert any("asked otherwise" in w for one in made.questions for w in one.warnings)
    assert made.calibration == calibrated(tmp_path, examples()).calibration


def test_the_order_of_examples_changes_no_calibration(tmp_path: Path) -> None:
    given = examples()
    turned = replace(given, rows=given.rows[::-1])
    one, other = calibrated(tmp_path, given), calibrated(tmp_path, turned)
    for question, learnt in one.calibration.questions.items():
        again = other.calibration.questions[question]
        assert again.threshold == pytest.approx(learnt.threshold, abs=1e-3)


def test_the_report_names_every_question_and_holds_no_text(tmp_path: Path) -> None:
    order = replace(PLAIN_ORDER, variations=variations(TAXONOMY, 0), sensitivity_rows=5)
    made = calibrated(tmp_path, examples(), order)
    plain = plain_outcome(made)
    page = render_calibration_report(plain, "f1")
    assert page == render_calibration_report(json.loads(json.dumps(plain)), "f1")
    for question in PROTOCOL.questions:
        assert f"<h2>{question.id.replace('_', ' ')}</h2>" in page
    for text in (page, json.dumps(plain)):
        assert MARK not in text
    assert made.calibration.digest[:12] in page
    assert "<script" not in page
    assert "http" not in page
    assert page.count("<svg") >= 2 * len(made.calibration.questions)


def test_the_report_of_examples_that_say_next_to_nothing(tmp_path: Path) -> None:
    """No figure, no grade, nothing learnt: the page still says so."""
    rows = tuple(example(i, addressed=None, helpfulness=None, risks=()) for i in range(3))
    made = calibrated(tmp_path, LabelledExamples(rows, "e" * 64))
    page = render_calibration_report(plain_outcome(made), "f1")
    assert page.count(">not calibrated<") == 9
    assert "unknown" in page


def test_evidence_is_the_examples() -> None:
    assert example(1).evidence == Evidence(example(1).prompt, example(1).response)
