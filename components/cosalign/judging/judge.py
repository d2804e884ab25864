"""Judges texts through the verdicts ledger: one request each, nothing dropped in silence.

A verdict's key is the judge's weights, its tokenizer, the label protocol and the content judged. It
knows no config (law 1): two prompts' equal responses, or one response under a hundred configs, are
judged once. What could not be judged is stored with its reason and stays *unknown* (law 4).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from cosalign.domain.fingerprint import row_key
from cosalign.domain.schemas import VERDICT_LEDGER
from cosalign.inference.engine import Engine, Labelling, LabelRequest
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder
from cosalign.inference.paid_work import PaidWork, Row, complete
from cosalign.judging.label_protocol import Evidence, LabelProtocol
from cosalign.store.ledger import Ledger
from cosalign.store.storage import Storage


@dataclass(frozen=True)
class Judge:
    """A judge model at work on one storage root."""

    host: EngineHost
    storage: Storage
    model: ModelFolder

    def judge(self, protocol: LabelProtocol, items: Sequence[Evidence], work: str) -> PaidWork:
        """Answers the protocol's questions for each item.

        Args:
            protocol: The questions.
            items: What is judged, in any order; equal items are judged once.
            work: What the work is called in logs.

        Returns:
            Verdict ledger rows in the order of ``items``, and how many judgements were made.
        """
        keys = [verdict_key(self.model, protocol, item) for item in items]

        def pay(positions: list[int]) -> Iterator[Row]:
            asked = {keys[i].hex(): items[i] for i in positions}
            yield from _ask(self.host.engine(self.model), protocol, asked)

        flush = self.host.settings.flush_rows
        return complete(verdict_ledger(self.storage), keys, pay, work=work, flush_rows=flush)


def verdict_ledger(storage: Storage) -> Ledger:
    """The ledger of verdicts, on responses and on prompts."""
    return Ledger(storage, "verdicts", VERDICT_LEDGER)


def verdict_key(model: ModelFolder, protocol: LabelProtocol, item: Evidence) -> bytes:
    """The identity of a verdict, 16 bytes."""
    return row_key(
        "verdict",
        {
            "judge": model.digest,
            "tokenizer": model.tokenizer_digest,
            "protocol": protocol.digest,
            "prompt": item.prompt,
            "response": item.response,
        },
    )


def _ask(engine: Engine, protocol: LabelProtocol, asked: dict[str, Evidence]) -> Iterator[Row]:
    alphabets = protocol.alphabets(engine.tokenizer)
    requests = [
        LabelRequest(request_id, protocol.token_ids(engine.tokenizer, item), alphabets)
        for request_id, item in asked.items()
    ]
    requests.sort(key=lambda request: request.token_ids)
    for result in engine.label(requests):
        yield _row(engine, protocol, alphabets, result)


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
        "failure": None if complete_answer else "no_answer",
        "engine": engine.description,
        "dtype": engine.dtype,
        "created": time.time_ns(),
    }


def _answer(answers: tuple[str, ...], alphabet: tuple[int, ...], token: int) -> str:
    """The answer that a token stands for; empty where it answers another question."""
    return answers[alphabet.index(token)] if token in alphabet else ""
