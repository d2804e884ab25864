"""Logistic regressions over sentence embeddings: one a question, fitted on labelled examples.

A question about risks looks at the response alone, because only its words count; whether it
addresses the prompt, and how well, is a matter of both. A question that all examples answer alike
teaches nothing; it is answered by that frequency.
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

VERSION = "1"
"""Raised with any change of features or fit, so that verdicts of two versions are never mixed."""

INVERSE_PENALTY = 10.0
ITERATIONS = 2000


@dataclass(frozen=True)
class Lesson:
    """What one protocol's classifiers are fitted on.

    Attributes:
        alone: Features of the judged text alone, shape (rows, dimensions).
        both: Features of text and prompt, shape (rows, 3 * dimensions).
        right: Right answers as indices, shape (rows, questions).
        groups: Prompt ids; a cross-validation never parts one prompt's rows.
    """

    alone: FloatArray
    both: FloatArray
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
        self._protocol = protocol
        self._models = [
            _fitted(self._features(i, lesson.alone, lesson.both)[chosen], lesson.right[chosen, i])
            for i in range(len(protocol.questions))
        ]
        self._counts = [
            np.bincount(lesson.right[chosen, i], minlength=len(question.answers))
            for i, question in enumerate(protocol.questions)
        ]

    def masses(self, alone: FloatArray, both: FloatArray) -> list[FloatArray]:
        """For each question, the probability of each answer, shape (rows, answers)."""
        found = []
        for i, (model, counts) in enumerate(zip(self._models, self._counts, strict=True)):
            if model is None:
                share = (counts + 1) / (counts + 1).sum()
                found.append(np.tile(share.astype(np.float32), (len(alone), 1)))
                continue
            mass = np.zeros((len(alone), len(counts)), np.float32)
            mass[:, model.classes_] = model.predict_proba(self._features(i, alone, both))
            found.append(mass)
        return found

    def _features(self, question: int, alone: FloatArray, both: FloatArray) -> FloatArray:
        return alone if question < self._protocol.risks else both


def features(
    encoder: Encoder, protocol: LabelProtocol, items: Sequence[Evidence]
) -> tuple[FloatArray, FloatArray]:
    """Features of the judged text alone, and of text and prompt together.

    Args:
        encoder: Embeds texts.
        protocol: The questions; where they are about prompts, a prompt is the judged text.
        items: What is judged.
    """
    judged = [item.prompt if protocol.id == "prompt" else item.response for item in items]
    texts = sorted({item.prompt for item in items} | set(judged))
    vectors = dict(zip(texts, encoder.encode(texts), strict=True))
    prompt = np.stack([vectors[item.prompt] for item in items])
    text = np.stack([vectors[one] for one in judged])
    # The product of two unit vectors is small; scaled, it weighs as much as each of them.
    product = prompt * text * np.float32(np.sqrt(prompt.shape[1]))
    return text, np.hstack([text, prompt, product])


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
    alone, both = features(encoder, protocol, items)
    return Lesson(alone, both, np.array(right, np.int64), groups)


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
        masses = classifier.masses(lesson.alone[test], lesson.both[test])
        for whole, part in zip(found, masses, strict=True):
            whole[test] = part
    return found


def _folds(lesson: Lesson, settings: JudgingGroup) -> Iterator[tuple[IntArray, IntArray]]:
    from sklearn.model_selection import GroupKFold

    parts = min(settings.folds, len(set(lesson.groups)))
    split = GroupKFold(parts, shuffle=True, random_state=settings.seed)
    yield from split.split(lesson.alone, groups=lesson.groups)


def _fitted(x: FloatArray, y: npt.NDArray[np.int64]) -> Any | None:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(y)) == 1:
        return None
    # Double precision: in single, lbfgs ends where rounding makes it, not where it is best.
    return LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS).fit(x.astype(np.float64), y)
