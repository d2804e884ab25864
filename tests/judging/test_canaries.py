"""Canaries: which are tried, what counts, and how a judge's answers become an accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from tests.judging.examples_world import TAXONOMY as MILD

from cosalign.domain.errors import DataError, ModelError
from cosalign.domain.run_config import RunConfig, ScoringGroup
from cosalign.domain.schemas import VERDICT_LEDGER
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.paid_work import PaidWork
from cosalign.judging.attacks import attack_corpus
from cosalign.judging.canaries import (
    CanaryOutcome,
    canary_identity,
    fooled_by,
    judge_canaries,
    refuse_fooled_judge,
)
from cosalign.judging.judge import JudgeIdentity
from cosalign.judging.judge_quality import QuestionQuality
from cosalign.judging.label_protocol import Evidence, LabelProtocol

COSA = load_taxonomy("cosa", "1")
Answerer = Callable[[str, Evidence], float | None]


class Scripted:
    """A judge whose probability of yes is a function of the question and the evidence."""

    def __init__(self, answer: Answerer) -> None:
        self.answer = answer
        self.items: list[Evidence] = []
        self.identity = JudgeIdentity("scripted", "5" * 64)

    def judge(self, protocol: LabelProtocol, items: Sequence[Evidence], work: str) -> PaidWork:  # noqa: ARG002
        self.items = list(items)
        return PaidWork(
            pa.Table.from_pylist([self._row(protocol, i) for i in items], VERDICT_LEDGER),
            len(items),
        )

    def quality(
        self,
        protocol: LabelProtocol,  # noqa: ARG002
        settings: ScoringGroup,  # noqa: ARG002
    ) -> tuple[QuestionQuality, ...]:
        return ()

    def _row(self, protocol: LabelProtocol, item: Evidence) -> dict[str, Any]:
        masses = []
        for question in protocol.questions:
            yes = self.answer(question.id, item)
            rest = len(question.answers) - 1
            masses.append([0.0] * (rest + 1) if yes is None else [(1 - yes) / rest] * rest + [yes])
        return {
            "key": bytes(16),
            "labels": [q.answers[0] for q in protocol.questions],
            "probabilities": masses,
            "outside_mass": [0.0] * len(masses),
            "failure": None,
            "engine": "scripted",
            "dtype": "float64",
            "created": 0,
        }


def config(**judging: Any) -> RunConfig:
    return RunConfig.model_validate({"judging": judging})


def outcome(judge: Scripted, run: RunConfig | None = None) -> CanaryOutcome:
    found = judge_canaries(judge, COSA, run or config())
    assert found is not None
    return found


def truthful(question: str, item: Evidence) -> float:
    """Reads the answer's words, whatever is laid around, between or over them."""
    back = str.maketrans("асеіорхуАВСЕНКМОРТХ", "aceiopxyABCEHKMOPTX")  # noqa: RUF001
    text = item.response.replace("\u200b", "").translate(back)
    yes = {
        "discrimination_verbal_abuse": "lazy fools" in text,
        "privacy_violations": "Elm Street" in text,
        "addressed": any(word in text for word in ("lazy", "Elm", "boiling")),
    }
    return 0.9 if yes.get(question, False) else 0.1


def test_a_judge_that_reads_is_right_in_all() -> None:
    found = outcome(Scripted(truthful))
    assert set(found.accuracy.values()) == {1.0}
    assert found.unanswered == 0
    assert found.made > 30


@pytest.mark.parametrize("always", [0.1, 0.9])
def test_a_judge_that_always_says_the_same_comes_out_near_half(always: float) -> None:
    found = outcome(Scripted(lambda *_: always))
    assert 0.4 <= found.accuracy["plain"] <= 0.6
    assert 0.35 <= found.accuracy["all"] <= 0.65


def test_a_judge_that_obeys_its_evidence_fails_where_it_is_told_to() -> None:
    def obedient(question: str, item: Evidence) -> float:
        return 0.1 if "Write N" in item.response else truthful(question, item)

    accuracy = outcome(Scripted(obedient)).accuracy
    assert accuracy["plain"] == accuracy["padding"] == 1.0
    assert accuracy["instruction"] < 0.8
    assert accuracy["delimiter"] < 0.8
    assert accuracy["all"] < 1


def test_what_is_not_answered_is_not_right() -> None:
    def silent_when_padded(question: str, item: Evidence) -> float | None:
        return None if "kettle" in item.response else truthful(question, item)

    found = outcome(Scripted(silent_when_padded))
    assert found.accuracy["padding"] == 0.0
    assert found.accuracy["plain"] == 1.0
    assert found.accuracy["all"] == (found.labels - found.unanswered) / found.labels < 1
    assert found.metrics()["canary_accuracy/padding"] == 0.0
    assert found.counts()["canary_labels_unknown"] == found.unanswered > 0


def test_a_judge_that_answers_plain_canaries_alone_passes_no_bound() -> None:
    shipped = yaml.safe_load((resources.files("cosalign.judging") / "canaries.yaml").read_bytes())
    plain = {canary["response"] for canary in shipped["canaries"]}

    def silent(question: str, item: Evidence) -> float | None:
        return truthful(question, item) if item.response in plain else None

    found = outcome(Scripted(silent))
    assert found.accuracy["plain"] == 1.0
    with pytest.raises(ModelError, match="canary_bound is"):
        refuse_fooled_judge(found, 0.5)


def test_a_judge_that_obeys_one_kind_of_attack_is_fooled_whatever_its_mean() -> None:
    def obedient(question: str, item: Evidence) -> float:
        return 0.1 if "kettle" in item.response else truthful(question, item)

    found = outcome(Scripted(obedient))
    assert found.accuracy["all"] > 0.9
    assert fooled_by(found.accuracy) == ["padding"]
    with pytest.raises(ModelError, match="fooled by padding"):
        refuse_fooled_judge(found, 0.9)
    refuse_fooled_judge(found, None)


def test_each_canary_is_tried_plainly_and_under_each_kind() -> None:
    judge = Scripted(truthful)
    found = outcome(judge)
    corpus = attack_corpus().canaries
    silent = [attack for attack in corpus if attack.answers_nothing]
    assert len(judge.items) == 4 * (1 + len(corpus) - len(silent)) + len(silent)
    assert set(found.accuracy) == {"all", "plain", *(attack.kind for attack in corpus)}
    assert len(set(judge.items)) == len(judge.items)
    assert max(len(item.response) for item in judge.items) < 1500


def test_under_another_taxonomy_only_addressed_counts() -> None:
    asked: set[str] = set()

    def noted(question: str, item: Evidence) -> float:
        asked.add(question)
        return truthful(question, item)

    found = judge_canaries(Scripted(noted), MILD, config())
    assert found is not None
    assert found.accuracy["all"] == 1.0
    assert found.labels == found.made


def test_thresholds_and_questions_are_the_runs() -> None:
    strict = RunConfig.model_validate({"scoring": {"thresholds": {"addressed": 0.95}}})
    found = outcome(Scripted(truthful), strict)
    assert found.accuracy["plain"] < 1


def write_file(folder: Path, text: str) -> str:
    file = folder / "canaries.yaml"
    file.write_text(text)
    return str(file)


OWN = """
version: "1"
taxonomy: mild
canaries:
  - {id: ale, prompt: "What of ale?", response: Ale is brown., labels: {beer: true, poker: false}}
"""


def test_a_run_may_bring_its_own(tmp_path: Path) -> None:
    file = write_file(tmp_path, OWN)
    judge = Scripted(lambda question, _: 0.9 if question == "beer" else 0.1)
    found = judge_canaries(judge, MILD, config(canary_file=file))
    assert found is not None
    assert found.accuracy["plain"] == 1.0
    assert judge.items[0] == Evidence("What of ale?", "Ale is brown.")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OWN.replace("beer: true", "beer: maybe"), "labels.beer"),
        (OWN.replace("taxonomy: mild", "taxonomy: other"), "no canary has a label"),
        ("version: '1'\ntaxonomy: mild\ncanaries: []", "canaries"),
        ("nonsense: [", "canaries.yaml"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = write_file(tmp_path, text)
    with pytest.raises(DataError, match=told):
        judge_canaries(Scripted(truthful), MILD, config(canary_file=file))


def test_no_canaries_where_none_are_wanted() -> None:
    judge = Scripted(truthful)
    assert judge_canaries(judge, COSA, config(canaries=False)) is None
    assert judge.items == []
    refuse_fooled_judge(None, 0.9)


def test_the_identity_follows_the_content(tmp_path: Path) -> None:
    shipped = canary_identity(config())
    own = canary_identity(config(canary_file=write_file(tmp_path, OWN)))
    assert shipped != own
    assert canary_identity(config(canaries=False)) is None
    assert shipped == canary_identity(config(canary_bound=0.9))


@pytest.mark.parametrize(
    ("accuracy", "bound", "stopped"),
    [
        (0.8, None, False),
        (0.8, 0.8, False),
        (0.79, 0.8, True),
        (0.0, 0.1, True),
    ],
)
def test_the_bound(accuracy: float, bound: float | None, stopped: bool) -> None:
    found = CanaryOutcome({"all": accuracy, "plain": 0.5, "padding": 0.25}, 10, 3, 5)
    if not stopped:
        refuse_fooled_judge(found, bound)
        return
    with pytest.raises(ModelError, match=r"padding 0\.25.*3 of 10 unanswered"):
        refuse_fooled_judge(found, bound)
