"""Generates responses through the responses ledger.

A response's key names everything that makes it what it is (law 3): the generator's weights, its
tokenizer and chat template, the messages, the sampling settings and the draw index. The engine and
its version are kept beside the key. The seed of a draw is taken from the key, so a resumed or
reshuffled run draws the same.

Memory is bounded by what is asked for, at 16 bytes of key each, and not by its tokens: messages are
read from the caller's sequence when they are needed, and token ids live in small batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from cosalign.domain.fingerprint import row_key
from cosalign.domain.schemas import RESPONSE_LEDGER
from cosalign.inference.engine import (
    Engine,
    Generation,
    GenerationRequest,
    Messages,
    Sampling,
    Tokenizer,
)
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder
from cosalign.inference.paid_work import PaidWork, Row, complete
from cosalign.store.ledger import Ledger
from cosalign.store.storage import Storage

TOKENISED_TOGETHER = 1024
"""Requests whose token ids are in memory at a time, beside those in flight."""


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
        wanted: The responses, in any order; a sequence that makes its items on access is enough.
        work: What the work is called in logs.

    Returns:
        Response ids and ledger rows, each in the order of ``wanted``.
    """
    keys = [response_key(model, item) for item in wanted]

    def pay(positions: list[int]) -> Iterator[Row]:
        yield from _generate(host.engine(model), keys, wanted, positions)

    done = complete(
        response_ledger(storage),
        keys,
        pay,
        work=work,
        flush_rows=host.settings.flush_rows,
        pays=host.pays,
    )
    return [key.hex() for key in keys], done


def _generate(
    engine: Engine, keys: Sequence[bytes], wanted: Sequence[Wanted], positions: list[int]
) -> Iterator[Row]:
    return generated_rows(engine, planned_requests(engine.tokenizer, keys, wanted, positions))


def generated_rows(engine: Engine, requests: Iterable[GenerationRequest]) -> Iterator[Row]:
    """Rows of the responses ledger as an engine gives them; request ids are keys in hex."""
    for result in engine.generate(requests):
        yield {
            "key": bytes.fromhex(result.request_id),
            "text": result.text,
            "finish_reason": result.finish_reason,
            "tokens": result.tokens,
            "failure": _failure(result),
            "engine": engine.description,
            "dtype": engine.dtype,
            "created": time.time_ns(),
        }


def planned_requests(
    tokenizer: Tokenizer, keys: Sequence[bytes], wanted: Sequence[Wanted], positions: Sequence[int]
) -> Iterator[GenerationRequest]:
    """Requests in prefix order, tokenised some at a time as the engine asks for them.

    Equal system prompts stand side by side: an LRU prefix cache loses reuse when they interleave.
    Sorting by messages needs no tokens, so that only ``TOKENISED_TOGETHER`` requests hold theirs.

    Args:
        tokenizer: The generator's.
        keys: The key of each response wanted.
        wanted: The responses.
        positions: Which of them to ask for.
    """
    order = sorted(positions, key=lambda i: wanted[i].messages)
    for start in range(0, len(order), TOKENISED_TOGETHER):
        together = order[start : start + TOKENISED_TOGETHER]
        items = [wanted[i] for i in together]
        prompts = tokenizer.encode_chats([item.messages for item in items])
        for i, item, token_ids in zip(together, items, prompts, strict=True):
            seed = int.from_bytes(keys[i][:4], "big")
            yield GenerationRequest(keys[i].hex(), token_ids, item.sampling, seed, item.messages)


def _failure(result: Generation) -> str | None:
    if result.finish_reason != "error":
        return None
    return result.failure or "not_generated"
