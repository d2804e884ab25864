"""What every judge is: an identity, and answers to a protocol's questions through one ledger.

A verdict's key is the judge, the label protocol and the content judged. It knows no config (law 1):
two prompts' equal responses, or one response under a hundred configs, are judged once. What could
not be judged is stored with its reason and stays *unknown* (law 4). Three kinds of judge stand
behind this: a language model that answers in label tokens (``engine_judge``), one that writes its
answer (``written_judge``), a classifier fitted on examples (``classifier_judge``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cosalign.domain.fingerprint import row_key
from cosalign.domain.run_config import ScoringGroup
from cosalign.domain.schemas import VERDICT_LEDGER
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.paid_work import PaidWork, Row, complete
from cosalign.judging.judge_quality import QuestionQuality
from cosalign.judging.label_protocol import Evidence, LabelProtocol
from cosalign.store.ledger import Ledger
from cosalign.store.storage import Storage


@dataclass(frozen=True)
class JudgeIdentity:
    """Who judged.

    Attributes:
        uri: Its address, or ``classifier:EXAMPLES``.
        digest: Identity of all that its answers depend on, 64 hex digits; it stands in tables.
        tokenizer_digest: Identity of a model's tokenizer; empty for a classifier.
        model_digest: Identity of the model that judges; empty for a classifier. One model may be
            two judges, where it once answers in labels and once reasons.
    """

    uri: str
    digest: str
    tokenizer_digest: str = ""
    model_digest: str = ""


class Questions(Protocol):
    """What a verdict answers: a label protocol, or its form for a judge that writes."""

    @property
    def digest(self) -> str:
        """Identity of the questions, 64 hex digits."""
        ...


class Judge(Protocol):
    """Whoever answers a label protocol's questions."""

    @property
    def identity(self) -> JudgeIdentity:
        """Who it is."""
        ...

    def judge(self, protocol: LabelProtocol, items: Sequence[Evidence], work: str) -> PaidWork:
        """Answers the protocol's questions for each item.

        Args:
            protocol: The questions.
            items: What is judged, in any order; equal items are judged once.
            work: What the work is called in logs.

        Returns:
            Verdict ledger rows in the order of ``items``, and how many judgements were made.
        """
        ...

    def quality(
        self, protocol: LabelProtocol, settings: ScoringGroup
    ) -> tuple[QuestionQuality, ...]:
        """How right it is, by question, on labelled examples it did not learn from.

        Empty where there are no examples to know it by.
        """
        ...


class ModelJudge(Judge, Protocol):
    """A judge that is a model: its verdicts have keys, and it can be asked outside the ledger."""

    def key(self, protocol: LabelProtocol, item: Evidence) -> bytes:
        """The identity of its verdict on an item, 16 bytes."""
        ...

    def ask(self, protocol: LabelProtocol, asked: Mapping[str, Evidence]) -> Iterator[Row]:
        """Judges now, and stores nothing.

        Args:
            protocol: The questions.
            asked: Items by the hex form of their keys.

        Returns:
            Verdict ledger rows, in any order.
        """
        ...


def judge_once(
    judge: ModelJudge,
    protocol: LabelProtocol,
    items: Sequence[Evidence],
    storage: Storage,
    host: EngineHost,
    work: str,
) -> PaidWork:
    """Has a model judge what the ledger does not hold; see :meth:`Judge.judge`."""
    keys = [judge.key(protocol, item) for item in items]

    def pay(positions: list[int]) -> Iterator[Row]:
        yield from judge.ask(protocol, {keys[i].hex(): items[i] for i in positions})

    return complete(
        verdict_ledger(storage),
        keys,
        pay,
        work=work,
        flush_rows=host.settings.flush_rows,
        pays=host.pays,
    )


def verdict_ledger(storage: Storage) -> Ledger:
    """The ledger of verdicts, on responses and on prompts."""
    return Ledger(storage, "verdicts", VERDICT_LEDGER)


def verdict_key(judge: JudgeIdentity, protocol: Questions, item: Evidence) -> bytes:
    """The identity of a verdict, 16 bytes."""
    return row_key(
        "verdict",
        {
            "judge": judge.digest,
            "tokenizer": judge.tokenizer_digest,
            "protocol": protocol.digest,
            "prompt": item.prompt,
            "response": item.response,
        },
    )
