"""One immutable part of a ledger, read a row group at a time and no more columns than asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cosalign.domain.errors import DataError
from cosalign.domain.schema_upgrades import is_upgraded, upgraded, version_of
from cosalign.store.key_set import KeySet, key_halves
from cosalign.store.storage import ObjectStat, Storage

SMALL_BYTES = 1 << 20
"""Parts up to this size are fetched whole: one request; larger ones by what is read of them."""


class PartGoneError(Exception):
    """A part vanished under a reader: a compaction deleted it; list again."""


class PartFile:
    """A part's rows.

    Args:
        storage: Where it lies.
        part: Its path and size.
        schema: The ledger's columns.
        name: The ledger's name, by which older versions of its schema are known.

    Attributes:
        version: The version of the schema that it was written under.

    Raises:
        DataError: It is torn, has other columns, or was written by a newer release.
        PartGoneError: It is not there any more.
    """

    def __init__(
        self, storage: Storage, part: ObjectStat, schema: pa.Schema, name: str = ""
    ) -> None:
        self._storage, self._part, self._schema, self._name = storage, part, schema, name
        source = self._opened()
        try:
            self._file = pq.ParquetFile(source, pre_buffer=False)
        except (pa.ArrowInvalid, OSError):
            raise self._torn() from None
        found = self._file.schema_arrow
        self.version = version_of(found, storage.uri_of(part.path))
        self._old = is_upgraded("ledger", name, self.version)
        asked = ["key"] if self._old else schema.names
        types = [found.field(n).type if n in found.names else None for n in asked]
        if types != [schema.field(n).type for n in asked]:
            raise self._torn()

    @property
    def rows(self) -> int:
        """Rows in the part, living or not."""
        count: int = self._file.metadata.num_rows
        return count

    def groups(
        self, columns: Sequence[str], wanted: KeySet | None = None, dead: KeySet | None = None
    ) -> Iterator[tuple[pa.Table, npt.NDArray[np.int64]]]:
        """The rows that are wanted and not dead, with their numbers in the part.

        Keys are looked at first; the other columns of a row group are read only if one is there.
        """
        start = 0
        for group in range(self._file.metadata.num_row_groups):
            keys = self._read(group, ["key"])
            kept = np.ones(keys.num_rows, np.bool_)
            for keyset, keeps in ((wanted, True), (dead, False)):
                if keyset is not None:
                    kept &= keyset.marks(key_halves(keys["key"])) == keeps
            numbers = np.flatnonzero(kept)
            if len(numbers):
                table = self._with_columns(group, keys, columns)
                whole = len(numbers) == keys.num_rows
                yield (table if whole else table.filter(pa.array(kept))), start + numbers
            start += keys.num_rows

    def _with_columns(self, group: int, keys: pa.Table, columns: Sequence[str]) -> pa.Table:
        more = [name for name in columns if name != "key"]
        rows = self._current(group, more) if more else keys
        found = {name: (keys if name == "key" else rows)[name] for name in columns}
        # The ledger's schema: a file may say of a column that it could be null.
        return pa.table(found, schema=pa.schema([self._schema.field(name) for name in columns]))

    def _current(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Columns of a row group as they are today, whatever version they were written under."""
        if not self._old:
            return self._read(group, columns)
        whole = self._read(group, self._file.schema_arrow.names)
        return upgraded("ledger", self._name, whole, self.version).select(columns)

    def _opened(self) -> pa.NativeFile:
        try:
            if self._part.size <= SMALL_BYTES:
                return pa.BufferReader(self._storage.read_bytes(self._part.path))
            return pa.PythonFile(self._storage.open(self._part.path), "r")
        except DataError:
            raise PartGoneError(self._part.path) from None

    def _read(self, group: int, columns: Sequence[str]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=list(columns), use_threads=False)
        except DataError:
            raise PartGoneError(self._part.path) from None
        except (pa.ArrowInvalid, OSError):
            raise self._torn() from None

    def _torn(self) -> DataError:
        return DataError(
            f"{self._storage.uri_of(self._part.path)}: this part of the ledger is torn; delete the "
            "file and run again: only its rows are made anew"
        )
