"""What every judge is: an identity, and answers to a protocol's questions through one ledger.

A verdict's key is the judge, the label protocol and the content judged. It knows no config (law 1):
two prompts' equal responses, or one response under a hundred configs, are judged once. What could
not be judged is stored with its reason and stays *unknown* (law 4). Two kinds of judge stand behind
this: a language model (``engine_judge``), a classifier fitted on examples (``classifier_judge``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cosalign.domain.fingerprint import row_key
from cosalign.domain.run_config import ScoringGroup
from cosalign.domain.schemas import VERDICT_LEDGER
from cosalign.inference.paid_work import PaidWork
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
    """

    uri: str
    digest: str
    tokenizer_digest: str = ""


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


def verdict_ledger(storage: Storage) -> Ledger:
    """The ledger of verdicts, on responses and on prompts."""
    return Ledger(storage, "verdicts", VERDICT_LEDGER)


def verdict_key(judge: JudgeIdentity, protocol: LabelProtocol, item: Evidence) -> bytes:
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
