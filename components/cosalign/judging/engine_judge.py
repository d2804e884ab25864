"""A language model as judge: one request a text, answered in label tokens.

What it pays for goes through the verdicts ledger; the engine is not even started where nothing is
missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from cosalign.domain.run_config import ScoringGroup
from cosalign.inference.engine import Engine, Labelling, LabelRequest
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import TOKENISED_TOGETHER
from cosalign.inference.models import ModelFolder
from cosalign.inference.paid_work import PaidWork, Row
from cosalign.judging.judge import JudgeIdentity, judge_once, verdict_key
from cosalign.judging.judge_quality import QuestionQuality
from cosalign.judging.label_protocol import Evidence, LabelProtocol
from cosalign.store.storage import Storage


@dataclass(frozen=True)
class EngineJudge:
    """A judge model at work on one storage root."""

    host: EngineHost
    storage: Storage
    model: ModelFolder

    @property
    def identity(self) -> JudgeIdentity:
        """See :class:`cosalign.judging.judge.Judge`."""
        return engine_judge_identity(self.model)

    def judge(self, protocol: LabelProtocol, items: Sequence[Evidence], work: str) -> PaidWork:
        """See :class:`cosalign.judging.judge.Judge`."""
        return judge_once(self, protocol, items, self.storage, self.host, work)

    def key(self, protocol: LabelProtocol, item: Evidence) -> bytes:
        """See :class:`cosalign.judging.judge.ModelJudge`."""
        return verdict_key(self.identity, protocol, item)

    def ask(self, protocol: LabelProtocol, asked: Mapping[str, Evidence]) -> Iterator[Row]:
        """See :class:`cosalign.judging.judge.ModelJudge`."""
        yield from _ask(self.host.engine(self.model), protocol, asked)

    def quality(
        self,
        protocol: LabelProtocol,  # noqa: ARG002
        settings: ScoringGroup,  # noqa: ARG002
    ) -> tuple[QuestionQuality, ...]:
        """Nothing: no labelled examples belong to a model."""
        return ()


def engine_judge_identity(model: ModelFolder) -> JudgeIdentity:
    """A model's identity as a judge."""
    return JudgeIdentity(model.uri, model.digest, model.tokenizer_digest, model.digest)


def _ask(engine: Engine, protocol: LabelProtocol, asked: Mapping[str, Evidence]) -> Iterator[Row]:
    alphabets = protocol.alphabets(engine.tokenizer)
    for result in engine.label(_requests(engine, protocol, asked, alphabets)):
        yield _row(engine, protocol, alphabets, result)


def _requests(
    engine: Engine,
    protocol: LabelProtocol,
    asked: Mapping[str, Evidence],
    alphabets: tuple[tuple[int, ...], ...],
) -> Iterator[LabelRequest]:
    """Requests in prefix order, tokenised some at a time as the engine takes them.

    Equal prompts stand side by side, and with them their cached tokens. Sorting by text needs no
    tokens: a million requests of 900 tokens would hold 30 GB of them, a batch holds 30 MB.
    """
    order = sorted(asked, key=lambda name: (asked[name].prompt, asked[name].response))
    for start in range(0, len(order), TOKENISED_TOGETHER):
        names = order[start : start + TOKENISED_TOGETHER]
        prompts = protocol.all_token_ids(engine.tokenizer, [asked[name] for name in names])
        for name, token_ids in zip(names, prompts, strict=True):
            yield LabelRequest(name, token_ids, alphabets)


def _row(
    engine: Engine,
    protocol: LabelProtocol,
    alphabets: tuple[tuple[int, ...], ...],
    result: Labelling,
) -> Row:
    # NaN (fp16 that overflowed, say) is no answer either; stored as one it would never be retried.
    complete_answer = len(result.answers) == len(result.masses) == len(protocol.questions) and all(
        map(math.isfinite, chain.from_iterable(result.masses))
    )
    masses = result.masses if complete_answer else ()
    return {
        "key": bytes.fromhex(result.request_id),
        "labels": [
            _answer(question.answers, alphabet, token)
            for question, alphabet, token in zip(
                protocol.questions, alphabets, result.answers, strict=False
            )
        ]
        if complete_answer
        else [],
        "probabilities": [list(mass) for mass in masses],
        "outside_mass": [max(0.0, 1.0 - sum(mass)) for mass in masses],
        "failure": None if complete_answer else result.failure or "no_answer",
        "engine": engine.description,
        "dtype": engine.dtype,
        "created": time.time_ns(),
    }


def _answer(answers: tuple[str, ...], alphabet: tuple[int, ...], token: int) -> str:
    """The answer that a token stands for; empty where it answers another question."""
    return answers[alphabet.index(token)] if token in alphabet else ""
