"""Log-probabilities of given continuations, through a ledger of their own.

Benchmarks of general ability ask which of several answers a model finds likeliest. An engine that
can say so is one that :class:`~cosalign.inference.engine.ScoresContinuations`; servers that only
write text cannot. A row's key is the model and the token ids, so the same question under another
task, limit or run is not asked again (law 3).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from cosalign.domain.errors import ConfigError
from cosalign.domain.fingerprint import row_key
from cosalign.domain.schemas import CONTINUATION_LEDGER
from cosalign.inference.engine import (
    Engine,
    GenerationRequest,
    Sampling,
    ScoreRequest,
    ScoresContinuations,
    TokenIds,
)
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import generated_rows, response_ledger
from cosalign.inference.models import ModelFolder
from cosalign.inference.paid_work import PaidWork, Row, complete
from cosalign.store.ledger import Ledger
from cosalign.store.storage import Storage


@dataclass(frozen=True)
class Continuation:
    """What is to be scored: a context of at least one token, and what follows it."""

    context: TokenIds
    following: TokenIds


def continuation_ledger(storage: Storage) -> Ledger:
    """The ledger of scored continuations."""
    return Ledger(storage, "continuations", CONTINUATION_LEDGER)


def score_continuations(
    host: EngineHost,
    storage: Storage,
    model: ModelFolder,
    wanted: Sequence[Continuation],
    work: str,
) -> PaidWork:
    """Scores what is not stored yet.

    Args:
        host: Where the engine runs, if one has to.
        storage: The storage root.
        model: The model.
        wanted: The continuations.
        work: What the work is called in logs.

    Returns:
        Ledger rows in the order of ``wanted``.

    Raises:
        ConfigError: The model's engine cannot score text.
    """
    keys = [_key(model, item) for item in wanted]

    def pay(positions: list[int]) -> Iterator[Row]:
        yield from _score(host.engine(model), model, keys, wanted, positions)

    return complete(
        continuation_ledger(storage), keys, pay, work=work, flush_rows=host.settings.flush_rows
    )


def write_continuations(
    host: EngineHost,
    storage: Storage,
    model: ModelFolder,
    wanted: Sequence[tuple[TokenIds, Sampling]],
    work: str,
) -> PaidWork:
    """Has texts that are no conversations continued, through the responses ledger.

    Args:
        host: Where the engine runs, if one has to.
        storage: The storage root.
        model: The model.
        wanted: Each text as token ids, and how it is continued.
        work: What the work is called in logs.

    Returns:
        Rows of the responses ledger in the order of ``wanted``.

    Raises:
        ConfigError: The model is one that takes messages only.
    """
    keys = [
        row_key(
            "continued text",
            {"model": model.digest, "text": list(text), "sampling": asdict(sampling)},
        )
        for text, sampling in wanted
    ]

    def pay(positions: list[int]) -> Iterator[Row]:
        engine = host.engine(model)
        if not getattr(engine, "takes_token_ids", True):
            raise ConfigError(
                f"{model.uri!r} takes conversations and no plain texts; set "
                "evaluation.general.chat=true, or name its tokenizer (served:NAME?tokenizer=...)"
            )
        requests = (
            GenerationRequest(keys[i].hex(), *wanted[i], int.from_bytes(keys[i][:4], "big"))
            for i in sorted(positions, key=lambda i: wanted[i][0])
        )
        yield from generated_rows(engine, requests)

    return complete(
        response_ledger(storage), keys, pay, work=work, flush_rows=host.settings.flush_rows
    )


def _key(model: ModelFolder, item: Continuation) -> bytes:
    return row_key(
        "continuation",
        {
            "model": model.digest,
            "context": list(item.context),
            "following": list(item.following),
        },
    )


def _score(
    engine: Engine,
    model: ModelFolder,
    keys: Sequence[bytes],
    wanted: Sequence[Continuation],
    positions: list[int],
) -> Iterator[Row]:
    if not isinstance(engine, ScoresContinuations):
        raise ConfigError(
            f"the engine of {model.uri!r} gives no log-probabilities of given text, which this "
            "task compares; leave the task out, or name the model's weights"
        )
    requests = (
        ScoreRequest(keys[i].hex(), wanted[i].context + wanted[i].following, len(wanted[i].context))
        for i in sorted(positions, key=lambda i: wanted[i].context)
    )
    for result in engine.score(requests):
        yield {
            "key": bytes.fromhex(result.request_id),
            "log_prob": 0.0 if result.log_prob is None else result.log_prob,
            "greedy": result.greedy,
            "failure": "not_scored" if result.log_prob is None else None,
            "engine": engine.description,
            "dtype": engine.dtype,
            "created": time.time_ns(),
        }
