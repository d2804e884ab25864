"""Turns records into token ids, so that training sees exactly what inference will see.

TRL would apply the chat template itself: prompts with ``<|im_end|>`` spelt out in them would then
become control tokens in training and ordinary characters at inference, and its ``max_length`` cuts
the end of a response in silence. Here ids come from the tokenizer that inference uses, contents are
untrusted, and a row that is too long is set aside whole and counted.

A response that stopped at a length limit gets no end-of-turn token: nobody ended there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cosalign.domain.errors import DataError, ModelError
from cosalign.inference.engine import TokenIds, Tokenizer
from cosalign.runtime.logs import get_logger
from cosalign.runtime.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

IGNORED = -100
"""Label of a token that carries no loss; the value that torch's cross entropy ignores."""

_CACHED = 1 << 16

log = get_logger(__name__)


@dataclass(frozen=True)
class Rows:
    """Encoded rows of one stage.

    Attributes:
        table: Columns of token ids (``list<int32>``), and ``row``: an index into ``names``.
        names: "prompt id / config id" of every record, for messages.
        too_long: Records set aside.
        tokens: Tokens that one epoch computes on, padding aside.
    """

    table: pa.Table
    names: tuple[str, ...]
    too_long: int
    tokens: int

    @property
    def digest(self) -> str:
        """Identity of the ids and their order, 64 hex digits: all that a stage trains on."""
        import pyarrow as pa

        digest = hashlib.sha256()
        for name in self.table.column_names:
            array = self.table[name].combine_chunks()
            batch = pa.record_batch([array], names=[name])
            digest.update(name.encode() + batch.serialize().to_pybytes())
        return digest.hexdigest()


def end_of_turn(tokenizer: Tokenizer) -> int:
    """The token that the chat template puts after an answer.

    It is read off the template and not off ``eos_token``: in some families (Gemma) these differ.

    Raises:
        ModelError: The template does not render a past answer as it asks for a new one.
    """
    asked, answer = ("user", "a"), "b"
    start = tokenizer.encode_chat([asked]) + tokenizer.encode_plain(answer)
    whole = tokenizer.encode_chat([asked, ("assistant", answer), asked])
    if whole[: len(start)] != start or len(whole) <= len(start):
        raise ModelError(
            "the base model's chat template renders a past answer otherwise than it asks for one, "
            "so the token that ends an answer is unknown; use another model or template"
        )
    return whole[len(start)]


class ChatEncoder:
    """Encodes (config, prompt, response) as the engine would see and write it.

    Args:
        tokenizer: The tokenizer of inference.
        end_of_turn: The token that ends an answer.
        cut: Ids of responses that did not end by themselves.
    """

    def __init__(self, tokenizer: Tokenizer, end_of_turn: int, cut: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self._end = (end_of_turn,)
        self._cut = cut
        self._context = lru_cache(_CACHED)(self._encode_context)

    def _encode_context(self, system: str, prompt: str) -> TokenIds:
        return self._tokenizer.encode_chat([("system", system), ("user", prompt)])

    def context(self, record: Mapping[str, str]) -> TokenIds:
        """Everything up to where the answer begins."""
        return self._context(record["system"], record["prompt"])

    def answer(self, response_id: str, text: str) -> TokenIds:
        """The answer, with the end of the turn where it ended by itself."""
        ids = self._tokenizer.encode_plain(text)
        return ids if ids and response_id in self._cut else ids + self._end


def encode_sft(records: pa.Table, encoder: ChatEncoder, max_length: int) -> Rows:
    """``input_ids`` and ``labels``; labels are :data:`IGNORED` outside the response.

    Raises:
        DataError: No row fits into ``max_length``.
    """
    kept: dict[str, list[Any]] = {"row": [], "input_ids": [], "labels": []}
    for row, record in enumerate(_each(records, "encode_sft")):
        context = encoder.context(record)
        answer = encoder.answer(record["response_id"], record["response"])
        if len(context) + len(answer) <= max_length:
            kept["row"].append(row)
            kept["input_ids"].append(_int32(context + answer))
            kept["labels"].append(_int32((IGNORED,) * len(context) + answer))
    return _rows("sft", records, kept, ("input_ids",), max_length)


def encode_dpo(records: pa.Table, encoder: ChatEncoder, max_length: int) -> Rows:
    """``prompt_ids``, ``chosen_ids`` and ``rejected_ids``; both answers must fit.

    Raises:
        DataError: No row fits into ``max_length``.
    """
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    kept: dict[str, list[Any]] = {"row": [], **{name: [] for name in names}}
    for row, record in enumerate(_each(records, "encode_dpo")):
        parts = (
            encoder.context(record),
            encoder.answer(record["chosen_id"], record["chosen"]),
            encoder.answer(record["rejected_id"], record["rejected"]),
        )
        if len(parts[0]) + max(len(parts[1]), len(parts[2])) <= max_length:
            kept["row"].append(row)
            for name, ids in zip(names, parts, strict=True):
                kept[name].append(_int32(ids))
    # The prompt is computed twice, once with each answer.
    return _rows("dpo", records, kept, ("prompt_ids", *names), max_length)


def _each(records: pa.Table, work: str) -> Iterable[dict[str, str]]:
    with Progress(log, work, records.num_rows) as progress:
        for batch in records.to_batches(max_chunksize=1024):
            yield from batch.to_pylist()
            progress.advance(batch.num_rows)


def _int32(ids: TokenIds) -> Any:
    import numpy as np

    return np.asarray(ids, dtype=np.int32)


def _rows(
    stage: str,
    records: pa.Table,
    kept: dict[str, list[Any]],
    counted: tuple[str, ...],
    max_length: int,
) -> Rows:
    import pyarrow as pa

    if not kept["row"]:
        raise DataError(
            f"none of the {records.num_rows} {stage} records fits into {max_length} tokens; raise "
            f"training.{stage}.max_length (the longest configs and responses decide)"
        )
    ids = pa.list_(pa.int32())
    columns = {n: pa.array(v, pa.int64() if n == "row" else ids) for n, v in kept.items()}
    pairs = zip(records["prompt_id"].to_pylist(), records["config_id"].to_pylist(), strict=True)
    return Rows(
        pa.table(columns),
        tuple(f"{prompt}/{config}" for prompt, config in pairs),
        records.num_rows - len(kept["row"]),
        sum(len(array) for name in counted for array in kept[name]),
    )
