"""Brings responses and draws of a chunk into an order that is content alone.

Rows of a prompt are ordered by content hash, not by id: one sort of integers then serves strings
and int64 alike. A prompt's number, the leading bits of a hash and a row's number share one integer,
since numbers sort several times faster than positions. Where what is left of two hashes of one
prompt is equal, which is rare unless an id stands twice, whole hashes and then the ids decide.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cosalign.domain.errors import DataError
from cosalign.pairing.identifiers import Hashes, IndexArray, ranks, same_as_before

_BITS = 64


def canonical_order(blocks: IndexArray, hashes: Hashes, ids: pa.Array) -> IndexArray:
    """Positions of rows by (block, content hash, id).

    Args:
        blocks: Number of each row's prompt.
        hashes: Content hashes of ``ids``.
        ids: The responses' ids, strings or int64.

    Raises:
        DataError: A response stands twice in a block.
    """
    row_bits = np.uint64(len(blocks).bit_length())
    cut = np.uint64(int(blocks.max(initial=0)).bit_length()) + row_bits
    packed = (hashes >> cut) << row_bits
    packed |= np.arange(len(blocks), dtype=np.uint64)
    packed |= (blocks.astype(np.uint64) << np.uint64(1)) << (np.uint64(_BITS - 1) - cut + row_bits)
    packed.sort()
    order = (packed & ((np.uint64(1) << row_bits) - np.uint64(1))).view(np.int64)
    packed >>= row_bits
    if (packed[1:] == packed[:-1]).any():
        order = np.lexsort((ranks(ids), hashes, blocks))
        check_once(blocks[order], ids.take(pa.array(order)), "response_id", "verdicts")
    return order


def check_once(blocks: IndexArray, ids: pa.Array, name: str, what: str) -> None:
    """Refuses neighbours that share block and id.

    Raises:
        DataError: There are some.
    """
    again = int((same_as_before(ids)[1:] & (blocks[1:] == blocks[:-1])).sum())
    if again:
        raise DataError(
            f"the {what} table has {again} rows whose (prompt_id, {name}) stands more than once; "
            "keep one of each"
        )
