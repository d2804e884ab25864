"""A chunk's tables as checked columns: what the arithmetic takes for granted is refused here.

A chunk holds all rows of some prompts, in the order of prompts. A verdict with any unknown label
(``risk_mask`` or ``addressed`` null, or a bit missing from ``known_mask`` where that column is
there) enters no pair and is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.error_score import collapse_array
from cosalign.domain.errors import DataError
from cosalign.pairing.algorithm import Responses
from cosalign.pairing.canonical import canonical_order, check_once
from cosalign.pairing.identifiers import (
    BoolArray,
    Hashes,
    IndexArray,
    as_ids,
    content_hashes,
    in_order,
    mix,
    ranks,
    runs,
)
from cosalign.pairing.settings import PairingSettings

Masks = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Chunk:
    """All rows of some prompts, each table in the order of prompts.

    Attributes:
        verdicts: prompt_id, response_id, risk_mask, addressed; maybe known_mask.
        draws: prompt_id, config_id, allowed_mask; maybe mode.
        follows: prompt_id, response_id, config_id, follows.
        lengths: prompt_id, response_id, tokens.
    """

    verdicts: pa.Table
    draws: pa.Table
    follows: pa.Table | None = None
    lengths: pa.Table | None = None


@dataclass(frozen=True)
class ResponseColumns:
    """Known responses in canonical order.

    Attributes:
        prompts: The distinct prompts; block b is of prompt b.
        ids: Response ids.
        columns: What the arithmetic sees.
        unknown: Verdicts left out because a label is unknown.
    """

    prompts: pa.Array
    ids: pa.Array
    columns: Responses
    unknown: int


@dataclass(frozen=True)
class DrawColumns:
    """Draws in the order of (prompt, config).

    Attributes:
        prompts: Prompt ids.
        configs: Config ids.
        blocks: The block of each, -1 where no response of the prompt is known.
        hashes: Of the seed, the prompt id and the config id.
        allowed_masks: 0 for a free-form config.
        freeform: Whether the config has no allowed set.
        modes: Names of modes, dictionary-encoded; ``None`` where the table has none.
    """

    prompts: pa.Array
    configs: pa.Array
    blocks: IndexArray
    hashes: Hashes
    allowed_masks: Masks
    freeform: BoolArray
    modes: pa.DictionaryArray | None


def response_columns(verdicts: pa.Table, settings: PairingSettings) -> ResponseColumns:
    """The known responses of a verdicts table in the order of prompts.

    Raises:
        DataError: An id is missing or stands twice, or a mask has bits beyond the taxonomy.
    """
    known = _known(verdicts, settings.full)
    rows = verdicts if pc.all(known).as_py() else verdicts.filter(known)
    prompts, blocks = runs(as_ids("prompt_id", rows["prompt_id"]))
    ids = as_ids("response_id", rows["response_id"])
    hashes = content_hashes(ids)
    order = canonical_order(blocks, hashes, ids)
    masks = _masks(rows["risk_mask"], "risk_mask", "verdicts", settings.full)[order]
    columns = Responses(
        blocks=blocks,  # The order moves rows within blocks only.
        hashes=hashes[order],
        risk_masks=collapse_array(masks, settings.pool, settings.catch_all),
        addressed=_bools(rows["addressed"], "addressed")[order],
    )
    return ResponseColumns(
        prompts, ids.take(pa.array(order)), columns, verdicts.num_rows - rows.num_rows
    )


def draw_columns(
    draws: pa.Table, prompts: pa.Array, settings: PairingSettings, *, freeform: bool
) -> DrawColumns:
    """The draws, each with the block of its prompt.

    Args:
        draws: In the order of prompts.
        prompts: The distinct prompts that have known responses.
        settings: Categories and seed.
        freeform: Whether it is known which responses follow the free-form configs.

    Raises:
        DataError: An id is missing or stands twice, a mask has bits that no config may allow, or
            is missing though nothing is known of free-form configs.
    """
    allowed = _cast(draws["allowed_mask"], "allowed_mask", pa.uint32())
    if allowed.null_count and not freeform:
        raise DataError(
            f"{allowed.null_count} rows of the draws table have no allowed_mask; fill it in, or "
            "give --follows for free-form configs"
        )
    own, own_block = runs(as_ids("prompt_id", draws["prompt_id"]))
    configs = as_ids("config_id", draws["config_id"])
    order = _order(own_block, configs)
    taken = pa.array(order)
    configs = configs.take(taken)
    check_once(own_block, configs, "config_id", "draws")
    prompt_hash = mix(content_hashes(own) ^ np.uint64(settings.seed % 2**64))[own_block]
    masks = _masks(
        pc.fill_null(allowed, 0), "allowed_mask", "draws", settings.full & ~settings.catch_all
    )
    return DrawColumns(
        prompts=own.take(pa.array(own_block)),
        configs=configs,
        blocks=_places(own, prompts)[own_block],
        hashes=mix(prompt_hash + content_hashes(configs)),
        allowed_masks=masks[order],
        freeform=allowed.is_null().to_numpy()[order],
        modes=_modes(draws, taken),
    )


def _order(blocks: IndexArray, configs: pa.Array) -> IndexArray:
    """Positions by (block, config); blocks ascend."""
    if in_order(configs, blocks):
        return np.arange(len(blocks))
    bits = len(blocks).bit_length()
    packed = (blocks << 2 * bits) | (ranks(configs) << bits) | np.arange(len(blocks))
    packed.sort()
    return packed & ((1 << bits) - 1)


def _places(own: pa.Array, prompts: pa.Array) -> IndexArray:
    """Where each prompt stands among those with known responses; -1 where it does not."""
    if own.equals(prompts):
        return np.arange(len(own))
    places = pc.fill_null(pc.index_in(own, value_set=prompts), -1)
    return np.asarray(places.to_numpy(zero_copy_only=False), np.int64)


def _modes(draws: pa.Table, order: pa.Array) -> pa.DictionaryArray | None:
    if "mode" not in draws.column_names:
        return None
    modes = draws["mode"].combine_chunks()
    coded = modes if pa.types.is_dictionary(modes.type) else modes.dictionary_encode()
    return coded.take(order)


def _known(verdicts: pa.Table, full: int) -> pa.ChunkedArray:
    known = pc.and_(pc.is_valid(verdicts["risk_mask"]), pc.is_valid(verdicts["addressed"]))
    if "known_mask" in verdicts.column_names:
        whole = pc.equal(_cast(verdicts["known_mask"], "known_mask", pa.uint32()), full)
        known = pc.and_(known, pc.fill_null(whole, False))
    return known


def _masks(column: pa.ChunkedArray, name: str, what: str, possible: int) -> Masks:
    masks = np.asarray(_cast(column, name, pa.uint32()).to_numpy(), np.uint32)
    beyond = masks & ~np.uint32(possible)
    if beyond.any():
        raise DataError(
            f"the {what} table's {name} holds {int(masks[beyond != 0][0])}, whose bits lie outside "
            f"the {possible.bit_count()} categories possible there; is --categories right?"
        )
    return masks


def _bools(column: pa.ChunkedArray, name: str) -> BoolArray:
    return np.asarray(_cast(column, name, pa.bool_()).to_numpy(), np.bool_)


def _cast(column: pa.ChunkedArray, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
        raise DataError(
            f"{name} is of type {column.type} and does not fit {kind}: {problem}"
        ) from None
