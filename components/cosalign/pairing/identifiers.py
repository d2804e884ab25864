"""Ids as int64 codes, so that the pairing arithmetic sees integers only.

int64 ids are their own codes. Strings become their rank among all strings of their kind, which
keeps their order, and are looked up again when the result is written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import DataError

Codes = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class IdSpace:
    """All ids of one kind (prompts, say) in a run; ``strings`` is sorted, or ``None`` for int64."""

    strings: pa.Array | None

    @classmethod
    def of(cls, name: str, *columns: pa.ChunkedArray) -> IdSpace:
        """The space of all ids in some columns.

        Raises:
            DataError: Ids are missing, or neither all strings nor all integers.
        """
        kinds = {_kind(name, column) for column in columns}
        if len(kinds) > 1:
            raise DataError(f"{name} is a string in one table and an integer in another")
        if kinds == {"integer"}:
            return cls(None)
        chunks = [chunk.cast(pa.string()) for column in columns for chunk in column.chunks]
        unique = pc.unique(pa.chunked_array(chunks, pa.string()))
        return cls(unique.take(pc.array_sort_indices(unique)))

    def codes(self, column: pa.ChunkedArray) -> Codes:
        """The code of each id, ascending as the ids are."""
        if self.strings is None:
            return np.asarray(column.cast(pa.int64()).to_numpy(), np.int64)
        found = pc.index_in(column.cast(pa.string()), value_set=self.strings)
        return np.asarray(found.to_numpy(), np.int64)

    def hashes(self, codes: Codes) -> Hashes:
        """64 bits of each id, the same in every process."""
        if self.strings is None:
            return mix(codes.view(np.uint64))
        digests = (
            hashlib.blake2b(text.encode(), digest_size=8).digest()
            for text in self.strings.to_pylist()
        )
        table = np.fromiter((int.from_bytes(d, "big") for d in digests), np.uint64)
        return table[codes]

    def ids(self, codes: Codes) -> pa.Array:
        """The ids of codes."""
        return pa.array(codes) if self.strings is None else self.strings.take(pa.array(codes))


def mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64: every input bit reaches every output bit."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _kind(name: str, column: pa.ChunkedArray) -> str:
    if column.null_count:
        raise DataError(f"{column.null_count} rows have no {name}; every row needs one")
    if pa.types.is_integer(column.type) and column.type != pa.uint64():
        return "integer"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return "string"
    raise DataError(f"{name} is of type {column.type}; it must be a string or int64")
