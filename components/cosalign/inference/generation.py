"""Generates responses through the responses ledger.

A response's key names everything that makes it what it is (law 3): the generator's weights, its
tokenizer and chat template, the messages, the sampling settings and the draw index. The engine and
its version are kept beside the key. The seed of a draw is taken from the key, so a resumed or
reshuffled run draws the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from cosalign.domain.fingerprint import row_key
from cosalign.domain.schemas import RESPONSE_LEDGER
from cosalign.inference.engine import Engine, GenerationRequest, Sampling
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder
from cosalign.inference.paid_work import PaidWork, Row, complete
from cosalign.store.ledger import Ledger
from cosalign.store.storage import Storage

Messages = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Wanted:
    """One response that is wanted: (role, content) messages, sampling, and which draw of it."""

    messages: Messages
    sampling: Sampling
    draw: int = 0


def response_ledger(storage: Storage) -> Ledger:
    """The ledger of generated responses."""
    return Ledger(storage, "responses", RESPONSE_LEDGER)


def response_key(model: ModelFolder, wanted: Wanted) -> bytes:
    """The identity of a response, 16 bytes."""
    return row_key(
        "response",
        {
            "model": model.digest,
            "tokenizer": model.tokenizer_digest,
            "messages": [list(message) for message in wanted.messages],
            "sampling": asdict(wanted.sampling),
            "draw": wanted.draw,
        },
    )


def generate_responses(
    host: EngineHost, storage: Storage, model: ModelFolder, wanted: Sequence[Wanted], work: str
) -> tuple[list[str], PaidWork]:
    """Generates what is not stored yet.

    Args:
        host: Where the engine runs, if one has to.
        storage: The storage root.
        model: The generator.
        wanted: The responses, in any order.
        work: What the work is called in logs.

    Returns:
        Response ids and ledger rows, each in the order of ``wanted``.
    """
    keys = [response_key(model, item) for item in wanted]

    def pay(positions: list[int]) -> Iterator[Row]:
        engine = host.engine(model)
        yield from _generate(engine, [(keys[i], wanted[i]) for i in positions])

    done = complete(
        response_ledger(storage), keys, pay, work=work, flush_rows=host.settings.flush_rows
    )
    return [key.hex() for key in keys], done


def _generate(engine: Engine, items: Sequence[tuple[bytes, Wanted]]) -> Iterator[Row]:
    requests = [
        GenerationRequest(
            request_id=key.hex(),
            token_ids=engine.tokenizer.encode_chat(item.messages),
            sampling=item.sampling,
            seed=int.from_bytes(key[:4], "big"),
        )
        for key, item in items
    ]
    # Equal prefixes side by side: an LRU prefix cache loses reuse when they interleave.
    requests.sort(key=lambda request: request.token_ids)
    for result in engine.generate(requests):
        yield {
            "key": bytes.fromhex(result.request_id),
            "text": result.text,
            "finish_reason": result.finish_reason,
            "tokens": result.tokens,
            "failure": "not_generated" if result.finish_reason == "error" else None,
            "engine": engine.description,
            "dtype": engine.dtype,
            "created": time.time_ns(),
        }
