"""Logistic regressions over sentence embeddings, fitted on labelled examples: one a question.

Each looks at the judged text alone: a risk lies in its words, and so does a refusal. Whether a
response is about its prompt at all is asked apart, of the angle between the two, and what is not
about it neither addresses it nor helps. Without that gate a classifier that has seen helpful
answers and refusals takes whatever is no refusal for help: measured, 99 % of random words. Examples
of answers to something else are made for it, by giving a prompt the answer to another.

A question that all examples answer alike teaches nothing; it is answered by that frequency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosalign.domain.errors import DataError
from cosalign.domain.run_config import JudgingGroup
from cosalign.inference.sentence_encoder import Encoder, FloatArray
from cosalign.judging.judge_quality import IntArray
from cosalign.judging.label_protocol import Evidence, LabelProtocol
from cosalign.judging.labelled_examples import LabelledExamples

VERSION = "2"
"""Raised with any change of features or fit, so that verdicts of two versions are never mixed."""

INVERSE_PENALTY = 10.0
ANGLE_INVERSE_PENALTY = 100.0
"""Weaker: the one feature, a cosine, is small, and one weight cannot be fitted too closely."""
ITERATIONS = 2000
SEED = 0


@dataclass(frozen=True)
class Features:
    """Embeddings of judged texts and of their prompts, each of shape (rows, dimensions).

    A prompt that is judged by itself is both.
    """

    text: FloatArray
    prompt: FloatArray

    def take(self, rows: IntArray) -> Features:
        """Some of the rows."""
        return Features(self.text[rows], self.prompt[rows])

    @property
    def cosine(self) -> FloatArray:
        """Between text and prompt, shape (rows, 1)."""
        found: FloatArray = np.sum(self.text * self.prompt, axis=1, keepdims=True)
        return found


@dataclass(frozen=True)
class Lesson:
    """What one protocol's classifiers are fitted on.

    Attributes:
        features: Of the examples.
        right: Right answers as indices, shape (rows, questions).
        groups: Prompt ids; a cross-validation never parts one prompt's rows.
    """

    features: Features
    right: IntArray
    groups: list[str]


class Classifier:
    """A protocol's fitted classifiers.

    Args:
        protocol: The questions.
        lesson: What to learn.
        rows: Which of its rows; all where ``None``.
    """

    def __init__(
        self, protocol: LabelProtocol, lesson: Lesson, rows: IntArray | None = None
    ) -> None:
        chosen = np.arange(len(lesson.groups)) if rows is None else rows
        features, right = lesson.features.take(chosen), lesson.right[chosen]
        self._risks = protocol.risks
        self._models = [
            _fitted(features.text, right[:, i], INVERSE_PENALTY)
            for i in range(len(protocol.questions))
        ]
        self._counts = [
            np.bincount(right[:, i], minlength=len(question.answers))
            for i, question in enumerate(protocol.questions)
        ]
        addressed = protocol.index("addressed")
        self._about = None
        if addressed is not None:
            self._about = _fitted_about(features, right[:, : self._risks], right[:, addressed])

    def masses(self, features: Features) -> list[FloatArray]:
        """For each question, the probability of each answer, shape (rows, answers)."""
        about = np.ones((len(features.text), 1), np.float32)
        if self._about is not None:
            about = self._about.predict_proba(features.cosine)[:, 1:].astype(np.float32)
        found = [self._answers(i, features.text) for i in range(len(self._models))]
        return [*found[: self._risks], *(_gated(mass, about) for mass in found[self._risks :])]

    def _answers(self, question: int, text: FloatArray) -> FloatArray:
        model, counts = self._models[question], self._counts[question]
        if model is None:
            share = (counts + 1) / (counts + 1).sum()
            return np.tile(share.astype(np.float32), (len(text), 1))
        mass = np.zeros((len(text), len(counts)), np.float32)
        mass[:, model.classes_] = model.predict_proba(text)
        return mass


def features_of(encoder: Encoder, protocol: LabelProtocol, items: Sequence[Evidence]) -> Features:
    """Embeds what is judged; where the questions are about prompts, that is the prompt."""
    judged = [item.prompt if protocol.id == "prompt" else item.response for item in items]
    texts = sorted({item.prompt for item in items} | set(judged))
    vectors = dict(zip(texts, encoder.encode(texts), strict=True))
    return Features(
        text=np.stack([vectors[one] for one in judged]),
        prompt=np.stack([vectors[item.prompt] for item in items]),
    )


def lesson_of(protocol: LabelProtocol, examples: LabelledExamples, encoder: Encoder) -> Lesson:
    """What a protocol's classifiers can learn from labelled examples.

    Raises:
        DataError: All examples are of one prompt, or no prompt's risks are known.
    """
    items: list[Evidence]
    if protocol.id == "prompt":
        labels = examples.prompt_labels
        items = [Evidence(text) for text, _ in labels.values()]
        right = [[int(q.id in risks) for q in protocol.questions] for _, risks in labels.values()]
        groups = list(labels)
    else:
        items = [row.evidence for row in examples.rows]
        right = [[row.answer(q) for q in protocol.questions] for row in examples.rows]
        groups = [row.prompt_id for row in examples.rows]
    if len(set(groups)) <= 1:
        raise DataError(
            f"judging.examples label the {protocol.id}s of {len(set(groups))} prompts; give "
            "examples of at least two, better of hundreds"
        )
    return Lesson(features_of(encoder, protocol, items), np.array(right, np.int64), groups)


def cross_validated(
    protocol: LabelProtocol, lesson: Lesson, settings: JudgingGroup
) -> list[FloatArray]:
    """Each row's masses by classifiers that saw no row of its prompt; as :meth:`Classifier.masses`.

    Where there are fewer prompts than parts, each prompt is a part.
    """
    found = [
        np.zeros((len(lesson.groups), len(question.answers)), np.float32)
        for question in protocol.questions
    ]
    for train, test in _folds(lesson, settings):
        classifier = Classifier(protocol, lesson, train)
        masses = classifier.masses(lesson.features.take(test))
        for whole, part in zip(found, masses, strict=True):
            whole[test] = part
    return found


def _folds(lesson: Lesson, settings: JudgingGroup) -> Iterator[tuple[IntArray, IntArray]]:
    from sklearn.model_selection import GroupKFold

    parts = min(settings.folds, len(set(lesson.groups)))
    split = GroupKFold(parts, shuffle=True, random_state=settings.seed)
    yield from split.split(lesson.right, groups=lesson.groups)


def _gated(mass: FloatArray, about: FloatArray) -> FloatArray:
    """Probability moved to the first answer, which is "not addressed" or "no help"."""
    gated = mass * about
    gated[:, :1] += 1 - about
    return gated


def _fitted(x: FloatArray, y: npt.NDArray[np.int64], inverse_penalty: float) -> Any | None:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) == 1:
        return None
    # Double precision: in single, lbfgs ends where rounding makes it, not where it is best.
    model = LogisticRegression(C=inverse_penalty, max_iter=ITERATIONS)
    return model.fit(x.astype(np.float64), y)


def _fitted_about(features: Features, risks: IntArray, addressed: IntArray) -> Any | None:
    """Tells a text about its prompt from one about something else; ``None`` where none can."""
    rows = np.flatnonzero(addressed)
    rng = np.random.default_rng(SEED)
    others = [_other(row, rows, risks, rng) for row in rows]
    pairs = [(row, other) for row, other in zip(rows, others, strict=True) if other is not None]
    if not pairs:
        return None
    own, other = np.array(pairs).T
    elsewhere = Features(features.text[other], features.prompt[own])
    cosine = np.concatenate([features.take(rows).cosine, elsewhere.cosine])
    about = np.repeat([1, 0], [len(rows), len(pairs)])
    return _fitted(cosine, about, ANGLE_INVERSE_PENALTY)


def _other(row: int, rows: IntArray, risks: IntArray, rng: np.random.Generator) -> int | None:
    """A row whose text has other risks, and is therefore about something else."""
    differs = rows[(risks[rows] != risks[row]).any(axis=1)]
    return int(rng.choice(differs)) if len(differs) else None
