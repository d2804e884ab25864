"""Ids as the pairing arithmetic sees them: 64 bits of content, runs, and ranks.

Ids are strings or int64. The arithmetic never sorts strings: rows of a prompt are brought into the
order of their ids' *content hashes*, which is the same in every process, shard and row order. The
hash absorbs eight bytes at a time with the finaliser of SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014), over whole columns at once. It is not
cryptographic and need not be: equal hashes are told apart by the ids themselves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import DataError

IndexArray = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]

_WORD = 8
_KEEP = np.array([0, *(2 ** (8 * n) - 1 for n in range(1, 9))], np.uint64)
"""Mask of the first n bytes of a little-endian word."""


def mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64: every input bit reaches every output bit."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def id_type(name: str, kind: pa.DataType) -> pa.DataType:
    """The type in which a column of ids is worked with: string or int64.

    Raises:
        DataError: It is neither strings nor integers that fit int64.
    """
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return pa.int64()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    raise DataError(f"{name} is of type {kind}; it must be a string or int64")


def as_ids(name: str, column: pa.ChunkedArray) -> pa.Array:
    """A column of ids as one array of strings or int64.

    Raises:
        DataError: Ids are missing or of another type.
    """
    if column.null_count:
        raise DataError(f"{column.null_count} rows have no {name}; every row needs one")
    return column.cast(id_type(name, column.type)).combine_chunks()


def content_hashes(ids: pa.Array) -> Hashes:
    """64 bits of each id, the same in every process; one to one for integers."""
    if pa.types.is_integer(ids.type):
        return mix(_integers(ids).view(np.uint64))
    return _string_hashes(ids)


def ranks(ids: pa.Array) -> IndexArray:
    """Numbers in the order of ids; equal ids have the same number if strings, else neighbours."""
    if pa.types.is_integer(ids.type):
        return _inverse(np.argsort(_integers(ids)))
    coded = ids.dictionary_encode()
    rank_of = _inverse(np.asarray(pc.array_sort_indices(coded.dictionary), np.int64))
    return np.asarray(rank_of[np.asarray(coded.indices)], np.int64)


def same_as_before(ids: pa.Array) -> BoolArray:
    """Whether each id equals the one before it; not so for the first."""
    same = np.ones(len(ids), np.bool_)
    same[run_starts(ids)] = False
    return same


def _inverse(order: IndexArray) -> IndexArray:
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank


def run_starts(ids: pa.Array) -> IndexArray:
    """Positions at which an id differs from the one before; the first position is one of them."""
    begins = np.ones(len(ids), np.bool_)
    if pa.types.is_integer(ids.type):
        values = _integers(ids)
        begins[1:] = values[1:] != values[:-1]
    elif len(ids) > 1:
        begins[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(False)
    return np.flatnonzero(begins)


def runs(ids: pa.Array) -> tuple[pa.Array, IndexArray]:
    """The ids of runs of equal neighbours, and for each row the number of its run."""
    starts = run_starts(ids)
    lengths = np.diff(np.append(starts, len(ids)))
    return ids.take(pa.array(starts)), np.repeat(np.arange(len(starts)), lengths)


def in_order(ids: pa.Array, blocks: IndexArray | None = None) -> bool:
    """Whether ids never fall, or never within a block."""
    if len(ids) < 2:  # noqa: PLR2004 one row cannot fall
        return True
    if pa.types.is_integer(ids.type):
        values = _integers(ids)
        rises = values[1:] >= values[:-1]
    else:
        later, earlier = ids.slice(1), ids.slice(0, len(ids) - 1)
        rises = pc.greater_equal(later, earlier).to_numpy(zero_copy_only=False)
    if blocks is not None:
        rises = rises | (blocks[1:] != blocks[:-1])
    return bool(rises.all())


def _integers(ids: pa.Array) -> IndexArray:
    return np.asarray(ids.to_numpy(zero_copy_only=False), np.int64)


def _string_hashes(ids: pa.Array) -> Hashes:
    """Absorbs the UTF-8 bytes of all strings side by side, one word of each at a time."""
    _, bounds, data = ids.buffers()
    offsets = np.frombuffer(bounds, np.int32)[ids.offset : ids.offset + len(ids) + 1]
    starts = (offsets[:-1] - offsets[0]).astype(np.int64)
    lengths = np.diff(offsets).astype(np.int64)
    padded = np.zeros(int(offsets[-1] - offsets[0]) + _WORD, np.uint8)
    if data is not None:
        padded[:-_WORD] = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
    words = np.ndarray(len(padded) - _WORD + 1, "<u8", padded.data, strides=(1,))
    state = mix(lengths.astype(np.uint64))
    live = np.flatnonzero(lengths > 0)
    at = 0
    while len(live):
        word = words[starts[live] + at] & _KEEP[np.minimum(lengths[live] - at, _WORD)]
        state[live] = mix(state[live] ^ word)
        at += _WORD
        live = live[lengths[live] > at]
    return state
