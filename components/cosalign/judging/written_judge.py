"""A language model as judge that writes its answer: reasoning, or a guard's own words.

Its verdicts stand in the same ledger as labels and in the same columns. A written answer has no
probability: the answer given carries all of it, and a question without an answer carries none, so
that it is unknown like any label that no probability fell on. ``labels`` says why, in its place.

The text itself is not kept: it quotes what was judged, and a ledger of verdicts outlives the run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from cosalign.domain.fingerprint import fingerprint
from cosalign.domain.run_config import ScoringGroup
from cosalign.domain.schemas import VERDICT_LEDGER
from cosalign.inference.engine import Engine, Generation, GenerationRequest, Sampling
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder
from cosalign.inference.paid_work import PaidWork, Row
from cosalign.judging.answer_form import (
    FINAL,
    NO_ANSWER,
    TRUNCATED,
    UNMAPPED,
    AnswerForm,
    AnswerForms,
    Reading,
)
from cosalign.judging.criteria_file import QuestionSettings
from cosalign.judging.judge import JudgeIdentity, judge_once, verdict_key
from cosalign.judging.judge_quality import QuestionQuality
from cosalign.judging.label_protocol import Evidence, LabelProtocol
from cosalign.store.storage import Storage

TOKENISED_TOGETHER = 256
"""Requests whose tokens are held at a time."""

UNKNOWN = "unknown:"
"""What begins a label that is none; the reason follows (see ``answer_form``)."""


@dataclass(frozen=True)
class WrittenJudge:
    """A model that is asked in one of the written forms."""

    host: EngineHost
    storage: Storage
    model: ModelFolder
    forms: AnswerForms

    @property
    def identity(self) -> JudgeIdentity:
        """See :class:`cosalign.judging.judge.Judge`."""
        return written_judge_identity(self.model, self.forms)

    def judge(self, protocol: LabelProtocol, items: Sequence[Evidence], work: str) -> PaidWork:
        """See :class:`cosalign.judging.judge.Judge`.

        What cannot be asked in this form is unknown, and costs nothing.
        """
        if self.forms.form(protocol) is None:
            rows = [_unasked(protocol) for _ in items]
            return PaidWork(pa.Table.from_pylist(rows, schema=VERDICT_LEDGER), 0)
        return judge_once(self, protocol, items, self.storage, self.host, work)

    def key(self, protocol: LabelProtocol, item: Evidence) -> bytes:
        """See :class:`cosalign.judging.judge.ModelJudge`."""
        return verdict_key(self.identity, self._form(protocol), item)

    def ask(self, protocol: LabelProtocol, asked: Mapping[str, Evidence]) -> Iterator[Row]:
        """See :class:`cosalign.judging.judge.ModelJudge`."""
        form, engine = self._form(protocol), self.host.engine(self.model)
        for result in engine.generate(_requests(engine, form, asked)):
            yield _row(engine, protocol, result.request_id, _reading(form, result))

    def quality(
        self,
        protocol: LabelProtocol,  # noqa: ARG002
        settings: ScoringGroup,  # noqa: ARG002
    ) -> tuple[QuestionQuality, ...]:
        """Nothing: no labelled examples belong to a model."""
        return ()

    def _form(self, protocol: LabelProtocol) -> AnswerForm:
        form = self.forms.form(protocol)
        if form is None:
            raise LookupError(f"{self.forms.name} cannot be asked the protocol {protocol.id}")
        return form


def written_judge_identity(model: ModelFolder, forms: AnswerForms) -> JudgeIdentity:
    """Identity of a model that is asked in a written form."""
    digest = fingerprint("written judge", [model.digest, forms.name, forms.digest])
    uri = f"{model.uri} ({forms.name})"
    return JudgeIdentity(uri, digest, model.tokenizer_digest, model.digest)


def unknown_reasons(rows: pa.Table) -> Counter[str]:
    """How many labels of verdict rows are unknown for each reason that a judge gave."""
    found: Counter[str] = Counter()
    for labels in rows.column("labels").to_pylist():
        found.update(label.removeprefix(UNKNOWN) for label in labels if label.startswith(UNKNOWN))
    return found


def _requests(
    engine: Engine, form: AnswerForm, asked: Mapping[str, Evidence]
) -> Iterator[GenerationRequest]:
    """Requests in prefix order, tokenised some at a time as the engine asks for them."""
    sampling = Sampling(max_tokens=form.max_tokens)
    wanted = sorted((form.messages(item), request_id) for request_id, item in asked.items())
    for start in range(0, len(wanted), TOKENISED_TOGETHER):
        some = wanted[start : start + TOKENISED_TOGETHER]
        tokens = engine.tokenizer.encode_chats([messages for messages, _ in some])
        for (messages, request_id), token_ids in zip(some, tokens, strict=True):
            yield GenerationRequest(request_id, token_ids, sampling, seed=0, messages=messages)


def _reading(form: AnswerForm, result: Generation) -> Reading:
    if result.finish_reason == "error":
        return Reading(failure=result.failure or NO_ANSWER)
    if result.finish_reason == "length":
        # Cut off, a text may end in a verdict that its writer was only quoting.
        return Reading(failure=TRUNCATED)
    return form.read(result.text)


def _row(engine: Engine, protocol: LabelProtocol, request_id: str, reading: Reading) -> Row:
    reasons = [reading.reason(question.id) for question in protocol.questions]
    failures = [reason for reason in reasons if reason and reason not in FINAL]
    return {
        **_answers(protocol, reading),
        "key": bytes.fromhex(request_id),
        "failure": failures[0] if failures else None,
        "engine": engine.description,
        "dtype": engine.dtype,
        "created": time.time_ns(),
    }


def _answers(protocol: LabelProtocol, reading: Reading) -> dict[str, object]:
    labels, probabilities, outside = [], [], []
    for question in protocol.questions:
        reason = reading.reason(question.id)
        answer = None if reason else reading.answers[question.id]
        labels.append(f"{UNKNOWN}{reason}" if reason else answer)
        probabilities.append(_all_on(question, answer))
        outside.append(1.0 if reason else 0.0)
    return {"labels": labels, "probabilities": probabilities, "outside_mass": outside}


def _all_on(question: QuestionSettings, answer: str | None) -> list[float]:
    return [float(possible == answer) for possible in question.answers]


def _unasked(protocol: LabelProtocol) -> Row:
    nothing = Reading(reasons={question.id: UNMAPPED for question in protocol.questions})
    return {
        **_answers(protocol, nothing),
        "key": bytes(16), "failure": None, "engine": "", "dtype": "", "created": 0,
    }  # fmt: skip
