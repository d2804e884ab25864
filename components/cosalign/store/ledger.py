"""Ledgers: paid work kept for ever, so that it is never paid twice (law 3).

A ledger is a folder of Parquet parts that are only ever added. A writer flushes its rows as new
parts of its own, each written atomically, so that writers never wait for one another and a kill
loses at most one unflushed batch. What is stored is a *set* keyed by 128 bits: when two writers
paid for the same key, the row in the part whose name sorts first counts, for every reader alike.
A row whose ``failure`` is set is kept and read, but it is not *stored*: it is asked for again by
the next run, and any success, before or after it, counts instead.

::

    ledgers/NAME/parts/<nanoseconds>-<random>.parquet    rows, immutable
    ledgers/NAME/tombstones/<same form>.json             erased keys, and the parts they stood in
    ledgers/NAME/manifest.json                           after a compaction: which parts are void

Compaction writes one part that holds everything alive, swaps the manifest under a generation
guard (the swap is the only moment that matters), and then deletes the void parts. A crash between
any two of these leaves either the old parts or the new one in force, never both and never none.
A tombstone names the parts it applies to, so that a row made anew after an erasure is alive,
without trusting clocks.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import KEY_BYTES
from cosalign.store.storage import ObjectStat, Storage
from cosalign.store.tables import parquet_table, table_bytes

_RETRIES = 5
T = TypeVar("T")


@dataclass(frozen=True)
class LedgerStats:
    """What a ledger holds.

    Attributes:
        parts: Part files.
        rows: Living rows, duplicates and failures included.
        keys: Distinct keys with a success.
        failures: Distinct keys with failures only.
        bytes: Size of all parts.
        erased: Erased keys that were not made anew.
    """

    parts: int
    rows: int
    keys: int
    failures: int
    bytes: int
    erased: int


@dataclass(frozen=True)
class _Tombstone:
    keys: frozenset[bytes]
    parts: frozenset[str]


class Ledger:
    """One ledger in storage.

    Args:
        storage: The storage root.
        name: The ledger's name (``responses``, ``verdicts``).
        schema: Its columns, among them ``key`` (16 bytes) and the nullable string ``failure``.
    """

    def __init__(self, storage: Storage, name: str, schema: pa.Schema) -> None:
        self._storage = storage
        self._schema = schema
        self.folder = f"ledgers/{name}"

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores rows as one new part; when it returns, they are durable."""
        if rows:
            self._write_part(pa.Table.from_pylist(list(rows), schema=self._schema))

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """The keys that are not stored, each once, in the order given: what is still to pay."""
        asked = list(dict.fromkeys(keys))
        found: set[bytes] = set()
        for table in self._scan(["key", "failure"], _key_array(asked)):
            found.update(_successes(table).column("key").to_pylist())
        return [key for key in asked if key not in found]

    def read(self, keys: Sequence[bytes]) -> pa.Table:
        """The rows of the keys, row i for key i; a key may be asked for more than once.

        Raises:
            DataError: A key is not stored.
        """
        order = pa.chunked_array([_key_array(list(keys))])
        tables = list(self._scan(None, _key_array(list(dict.fromkeys(keys)))))
        rows = pa.concat_tables(tables) if tables else self._schema.empty_table()
        rows = _first_of_each_key(rows)
        at = pc.index_in(order, value_set=rows.column("key").combine_chunks())
        if at.null_count:
            lost = order.filter(pc.is_null(at))[0].as_py().hex()
            raise DataError(
                f"{self._storage.uri_of(self.folder)}: {at.null_count} rows are not stored, among "
                f"them {lost}; were they erased? run the step again to make them anew"
            )
        return rows.take(at)

    def stats(self) -> LedgerStats:
        """Counts parts, rows, keys and bytes."""
        parts = self._parts()
        keys: set[bytes] = set()
        everything: set[bytes] = set()
        rows = 0
        for table in self._scan(["key", "failure"], None):
            rows += table.num_rows
            keys.update(_successes(table).column("key").to_pylist())
            everything.update(table.column("key").to_pylist())
        erased = set().union(*(t.keys for t in self._tombstones())) - everything
        return LedgerStats(
            parts=len(parts),
            rows=rows,
            keys=len(keys),
            failures=len(everything - keys),
            bytes=sum(part.size for part in parts),
            erased=len(erased),
        )

    def verify(self) -> list[str]:
        """Names of parts that are torn or have another schema; empty where all is well."""
        return [part.path for part in self._parts() if not self._readable(part.path)]

    def erase(self, keys: Iterable[bytes]) -> int:
        """Erases rows: from now on they are not stored. Compaction removes their bytes.

        Returns:
            How many of the keys were stored.
        """
        asked = list(dict.fromkeys(keys))
        lost = set(self.missing(asked))
        stored = [key for key in asked if key not in lost]
        named: set[str] = set()
        # Looked at again after each tombstone: a compaction may have begun in between, and its part
        # would bring the rows back.
        while stored and (parts := {part.path for part in self._parts()}) - named:
            body = {"keys": [key.hex() for key in stored], "parts": sorted(parts)}
            path = f"{self.folder}/tombstones/{_part_name()}.json"
            self._storage.write_bytes(path, json.dumps(body).encode(), if_generation=0)
            named |= parts
        return len(stored)

    def compact(self) -> LedgerStats:
        """Merges all parts into one, without duplicates and erased rows; gives the new figures.

        Raises:
            GenerationMismatch: Another compaction was faster; nothing is lost.
        """
        stat = self._storage.stat(self._manifest_path)
        void, parts = set(self._void()), self._parts()
        if parts:
            void |= {part.path for part in parts} | self._merge(_part_time(parts[0].path))
        body = json.dumps({"void": sorted(void)}).encode()
        self._storage.write_bytes(
            self._manifest_path, body, if_generation=stat.generation if stat else 0
        )
        for path in sorted(void):
            self._storage.delete(path)
        return self.stats()

    def _merge(self, made: int) -> set[str]:
        """Writes all that lives as one part; gives that part as void where nothing lives."""
        # It takes the first part's place in the order, so that its rows still count first. It
        # stands empty before rows are read, so that an erasure meanwhile knows of it and names it.
        merged = self._write_part(self._schema.empty_table(), made)
        tables = list(self._scan(None, None))
        if not tables:
            return {merged}
        rows = _first_of_each_key(pa.concat_tables(tables))
        self._storage.write_bytes(merged, table_bytes(rows, self._schema))
        return set()

    @property
    def _manifest_path(self) -> str:
        return f"{self.folder}/manifest.json"

    def _write_part(self, table: pa.Table, made: int | None = None) -> str:
        path = f"{self.folder}/parts/{_part_name(made)}.parquet"
        self._storage.write_bytes(path, table_bytes(table, self._schema), if_generation=0)
        return path

    def _void(self) -> frozenset[str]:
        if self._storage.stat(self._manifest_path) is None:
            return frozenset()
        return frozenset(json.loads(self._storage.read_bytes(self._manifest_path))["void"])

    def _parts(self) -> list[ObjectStat]:
        # Parts are listed before the manifest is read: a part that a compaction made void in
        # between is then known to be void, and a merged part seen too late only repeats rows.
        parts = self._storage.list(f"{self.folder}/parts")
        void = self._void()
        return [part for part in parts if part.path not in void]

    def _tombstones(self) -> list[_Tombstone]:
        found = []
        for stat in self._storage.list(f"{self.folder}/tombstones"):
            body = json.loads(self._storage.read_bytes(stat.path))
            keys = frozenset(bytes.fromhex(key) for key in body["keys"])
            found.append(_Tombstone(keys, frozenset(body["parts"])))
        return found

    def _scan(self, columns: list[str] | None, wanted: pa.Array | None) -> Iterator[pa.Table]:
        """Living rows part by part, in the order in which they count."""
        yield from _retried(lambda: list(self._scan_once(columns, wanted)))

    def _scan_once(self, columns: list[str] | None, wanted: pa.Array | None) -> Iterator[pa.Table]:
        parts, tombstones = self._parts(), self._tombstones()
        for part in parts:
            table = self._part(part.path, columns)
            dead = [k for t in tombstones if part.path in t.parts for k in t.keys]
            if dead:
                table = table.filter(pc.invert(_is_in(table, _key_array(dead))))
            if wanted is not None:
                table = table.filter(_is_in(table, wanted))
            if table.num_rows:
                yield table

    def _part(self, path: str, columns: list[str] | None) -> pa.Table:
        source = self._storage.uri_of(path)
        try:
            data = self._storage.read_bytes(path)
        except DataError:
            raise _PartGoneError(path) from None
        try:
            table = parquet_table(data, source).select(self._schema.names)
        except (DataError, KeyError):
            table = None
        if table is None or table.schema.types != self._schema.types:
            raise DataError(
                f"{source}: this part of the ledger is torn; delete the file and run again: only "
                "its rows are made anew"
            )
        return table.select(columns or self._schema.names)

    def _readable(self, path: str) -> bool:
        try:
            self._part(path, None)
        except DataError:
            return False
        except _PartGoneError:
            return True
        return True


class _PartGoneError(Exception):
    """A part vanished under a reader: a compaction deleted it; list again."""


def _retried(action: Callable[[], T]) -> T:
    for _ in range(_RETRIES):
        try:
            return action()
        except _PartGoneError as problem:
            gone = str(problem)
    raise DataError(f"{gone}: this part of the ledger vanished; who deletes parts? run again")


def _part_name(made: int | None = None) -> str:
    return f"{time.time_ns() if made is None else made:020d}-{uuid.uuid4().hex[:12]}"


def _part_time(path: str) -> int:
    return int(path.rpartition("/")[2].partition("-")[0])


def _key_array(keys: Sequence[bytes]) -> pa.Array:
    return pa.array(keys, pa.binary(KEY_BYTES))


def _is_in(table: pa.Table, keys: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(table.column("key"), value_set=keys)


def _successes(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.is_null(rows.column("failure")))


def _first_of_each_key(rows: pa.Table) -> pa.Table:
    failed = rows.filter(pc.is_valid(rows.column("failure")))
    rows = pa.concat_tables([_successes(rows), failed])
    keys = rows.column("key").combine_chunks()
    first = pc.index_in(keys, value_set=keys)
    return rows.filter(pc.equal(first, pa.array(range(len(keys)), pa.int32())))
