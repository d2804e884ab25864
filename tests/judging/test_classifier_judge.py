"""The fitted judge: what it learns, what it refuses, and that its verdicts are kept like any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.judging.examples_world import TAXONOMY, WordCounts, example_rows, row, write_rows

from cosalign.domain.errors import ConfigError, DataError
from cosalign.domain.run_config import JudgingGroup, RunConfig, ScoringGroup
from cosalign.inference.architectures import ENCODERS
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import resolve_model
from cosalign.inference.sentence_encoder import SentenceEncoder
from cosalign.judging import classifier_judge
from cosalign.judging.classifier_judge import ClassifierJudge, classifier_identity
from cosalign.judging.judge import verdict_ledger
from cosalign.judging.label_protocol import (
    Evidence,
    follows_protocol,
    prompt_protocol,
    response_protocol,
)
from cosalign.judging.labelled_examples import read_examples
from cosalign.judging.open_judge import judge_identity, judging_identity, open_judge
from cosalign.judging.verdict import binary_labels, ratings, risk_labels
from cosalign.store.storage import open_storage

RESPONSE, PROMPT = response_protocol(TAXONOMY), prompt_protocol(TAXONOMY)
EMBEDDER = JudgingGroup().embedder
ITEMS = [
    Evidence("Is ale like lager?", "Enjoy ale with lager slowly."),
    Evidence("Is ale like lager?", "Sorry, I cannot help with ale."),
    Evidence("Cards or bluffs?", "Enjoy bluffs with cards slowly."),
]


def fitted(root: Path, rows: list[dict[str, Any]] | None = None) -> ClassifierJudge:
    file = write_rows(root / "examples.jsonl", example_rows() if rows is None else rows)
    examples = read_examples(file, TAXONOMY)
    embedder = resolve_model(EMBEDDER, root / "cache", ENCODERS)
    return ClassifierJudge(
        classifier_identity(embedder, examples.digest, file),
        open_storage(str(root / "out")),
        examples,
        JudgingGroup(folds=4),
        WordCounts,
        flush_rows=2,
    )


def test_it_answers_every_question_with_all_its_probability(tmp_path: Path) -> None:
    done = fitted(tmp_path).judge(RESPONSE, ITEMS, "judge")
    risks = risk_labels(done.rows, RESPONSE, ScoringGroup())
    assert risks.risk_mask.tolist() == [0b01, 0b00, 0b10]
    assert set(risks.known_mask.tolist()) == {TAXONOMY.full_mask}
    addressed = binary_labels(done.rows, RESPONSE, "addressed", ScoringGroup())
    assert addressed.value.tolist() == [True, False, True]
    assert ratings(done.rows, RESPONSE, "helpfulness", ScoringGroup()) == [5, 1, 5]
    for stored in done.rows.to_pylist():
        assert stored["outside_mass"] == [0.0] * len(RESPONSE.questions)
        assert [sum(mass) for mass in stored["probabilities"]] == pytest.approx([1.0] * 5, abs=1e-5)
        assert stored["failure"] is None


@pytest.mark.parametrize("text", ["Enjoy bluffs with cards slowly.", "Kettle of copper rain.", ""])
def test_an_answer_to_something_else_is_no_help(tmp_path: Path, text: str) -> None:
    judge = fitted(tmp_path)
    embedder = resolve_model(EMBEDDER, tmp_path / "cache", ENCODERS)
    judge.open_encoder = lambda: SentenceEncoder(embedder.path)
    items = [Evidence("Is ale like lager?", text), ITEMS[0]]
    rows = judge.judge(RESPONSE, items, "judge").rows
    addressed = binary_labels(rows, RESPONSE, "addressed", ScoringGroup())
    assert addressed.value.tolist() == [False, True]
    grades = [grade or 0 for grade in ratings(rows, RESPONSE, "helpfulness", ScoringGroup())]
    assert grades[0] <= 1 < grades[1]


def test_examples_of_one_topic_are_taken_as_they_are(tmp_path: Path) -> None:
    """Nothing in them tells what is about something else, so nothing is taken for it."""
    beer = [one for one in example_rows() if one["risks"] != ["poker"] and "ale" in one["prompt"]]
    for one in beer:
        one["risks"] = []
    rows = fitted(tmp_path, beer).judge(RESPONSE, ITEMS[:2], "judge").rows
    addressed = binary_labels(rows, RESPONSE, "addressed", ScoringGroup())
    assert addressed.value.tolist() == [True, False]


def test_prompts_are_labelled_by_what_would_answer_them(tmp_path: Path) -> None:
    done = fitted(tmp_path).judge(PROMPT, [Evidence("Any ale?"), Evidence("Any bluffs?")], "label")
    assert risk_labels(done.rows, PROMPT, ScoringGroup()).risk_mask.tolist() == [0b01, 0b10]


def test_nothing_is_judged_twice_and_a_resumed_run_stores_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier_judge, "BLOCK", 2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed = fitted(tmp_path / "a").judge(RESPONSE, ITEMS, "judge")
    assert undisturbed.made == 3
    again = fitted(tmp_path / "a").judge(RESPONSE, [*ITEMS, ITEMS[0]], "judge")
    assert again.made == 0
    resumed = fitted(tmp_path / "b")
    assert resumed.judge(RESPONSE, ITEMS[1:2], "judge").made == 1
    finished = resumed.judge(RESPONSE, ITEMS, "judge")
    assert finished.made == 2
    for name in ("probabilities", "labels"):
        assert finished.rows.column(name).to_pylist() == undisturbed.rows.column(name).to_pylist()


def test_an_encoder_is_not_loaded_for_what_is_stored(tmp_path: Path) -> None:
    fitted(tmp_path).judge(RESPONSE, ITEMS, "judge")
    opened: list[int] = []
    judge = fitted(tmp_path)

    def open_encoder() -> WordCounts:
        opened.append(1)
        return WordCounts()

    judge.open_encoder = open_encoder
    judge.judge(RESPONSE, ITEMS, "judge")
    assert not opened
    judge.judge(RESPONSE, [Evidence("Any stout?", "Pour it.")], "judge")
    judge.quality(RESPONSE, ScoringGroup())
    assert len(opened) == 1


def test_other_examples_are_another_judge(tmp_path: Path) -> None:
    fitted(tmp_path).judge(RESPONSE, ITEMS, "judge")
    fewer = fitted(tmp_path, example_rows()[:-2])
    assert fewer.judge(RESPONSE, ITEMS, "judge").made == 3
    assert verdict_ledger(open_storage(str(tmp_path / "out"))).stats().keys == 6


def test_a_prompt_that_it_was_fitted_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stand in judging\.examples too"):
        fitted(tmp_path).judge(RESPONSE, [Evidence("what of ALE?", "Brown.")], "judge")


def test_a_free_form_config_is_beyond_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="free-form"):
        fitted(tmp_path).judge(follows_protocol("Beer is fine."), ITEMS, "follows")


def test_examples_of_one_prompt_are_too_few(tmp_path: Path) -> None:
    judge = fitted(tmp_path, [row("What of ale?", "Brown.", ["beer"], 5)])
    with pytest.raises(DataError, match="the responses of 1 prompts"):
        judge.quality(RESPONSE, ScoringGroup())


def test_it_is_measured_on_prompts_that_it_did_not_see(tmp_path: Path) -> None:
    quality = {q.question: q for q in fitted(tmp_path).quality(RESPONSE, ScoringGroup())}
    assert quality["beer"].accuracy == 1.0
    assert quality["addressed"].accuracy > 0.9
    assert (quality["addressed"].commonest, quality["beer"].commonest) == (0.5, 0.75)
    assert quality["other"].auc is None


def test_labels_that_mean_nothing_are_measured_as_chance(tmp_path: Path) -> None:
    """A cross-validation that let a prompt's rows into both parts would score near 1 here."""
    rows = []
    for i in range(120):
        for copy in ("Yes indeed", "Well yes"):
            rows.append(
                row(f"Question {i * 7919}?", f"{copy} {i * 104729}.", ["beer"] * (i % 2), 3)
            )
            rows[-1]["addressed"] = i * 7 % 13 < 6
    quality = {q.question: q for q in fitted(tmp_path, rows).quality(RESPONSE, ScoringGroup())}
    assert quality["beer"].auc is not None
    assert 0.3 < quality["beer"].auc < 0.7
    assert quality["beer"].accuracy < 0.7


def test_a_run_config_names_it_and_its_identity_needs_no_model_in_memory(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "examples.jsonl", example_rows())
    raw: dict[str, Any] = {
        "storage": {"root": str(tmp_path / "out"), "cache": str(tmp_path / "cache")},
        "models": {"base": "double:base", "engine": {"kind": "double"}},
        "judging": {"examples": file},
    }
    config = RunConfig.model_validate(raw)
    with EngineHost(config.models.engine) as host:
        judge = open_judge(config, TAXONOMY, open_storage(config.storage.root), host)
        assert judge.identity == judge_identity(config)
        done = judge.judge(RESPONSE, ITEMS[:2], "judge")
        assert host.starts == 0
    addressed = binary_labels(done.rows, RESPONSE, "addressed", ScoringGroup())
    assert addressed.value.tolist() == [True, False]
    other = RunConfig.model_validate({**raw, "judging": {"examples": file, "folds": 3}})
    assert judging_identity(other) != judging_identity(config)
    assert judge_identity(other) == judge_identity(config)
    engine = RunConfig.model_validate({**raw, "judging": {}})
    assert judge_identity(engine).uri == "double:base"
