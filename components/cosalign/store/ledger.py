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
Names of void parts that are gone are dropped from the manifest by the next compaction.

There is no index beside the parts, hence none that could be stale: the keys of a hundred million
rows are read in seconds (``docs/design/storage.md``), a row group at a time, and other columns only
where a key is wanted.

A tombstone names the parts it applies to, so that a row made anew after an erasure is alive,
without trusting clocks.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import KEY_BYTES
from cosalign.domain.schema_upgrades import VERSION_KEY, current_version
from cosalign.store.key_set import KeySet
from cosalign.store.part_file import PartFile, PartGoneError
from cosalign.store.part_scan import ROWS_HELD, Snapshot, count_keys, retried, superseded_rows
from cosalign.store.storage import ObjectStat, Storage
from cosalign.store.table_files import TableSink
from cosalign.store.tables import table_bytes


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
        self._schema = schema.with_metadata({VERSION_KEY: str(current_version())})
        self._name = name
        self.folder = f"ledgers/{name}"

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores rows as one new part; when it returns, they are durable."""
        if rows:
            self.append_table(pa.Table.from_pylist(list(rows), schema=self._schema))

    def append_table(self, rows: pa.Table) -> None:
        """Stores a table of rows as one new part; when it returns, they are durable."""
        self._write_part(rows)

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        """The keys that are not stored, each once, in the order given: what is still to pay."""
        asked = list(dict.fromkeys(keys))
        found: set[bytes] = set()
        for table in self._wanted(["key", "failure"], asked):
            found.update(_successes(table).column("key").to_pylist())
        return [key for key in asked if key not in found]

    def stored(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of some keys that have a living row, failures too."""
        tables = self._wanted(["key"], sorted(set(keys)))
        return {key for table in tables for key in table.column("key").to_pylist()}

    def made_before(self, moment: int) -> set[bytes]:
        """Keys all of whose living rows were made before a moment, nanoseconds since 1970."""

        def scanned() -> set[bytes]:
            older: set[bytes] = set()
            newer: set[bytes] = set()
            for table in self._snapshot().tables(["key", "created"]):
                old = pc.less(table["created"], moment)
                older.update(table.filter(old)["key"].to_pylist())
                newer.update(table.filter(pc.invert(old))["key"].to_pylist())
            return older - newer

        return retried(scanned)

    def read(self, keys: Sequence[bytes]) -> pa.Table:
        """The rows of the keys, row i for key i; a key may be asked for more than once.

        Raises:
            DataError: A key is not stored.
        """
        order = pa.chunked_array([_key_array(list(keys))])
        tables = self._wanted(self._schema.names, list(dict.fromkeys(keys)))
        rows = pa.concat_tables([self._schema.empty_table(), *tables])
        rows = _first_of_each_key(rows)
        at = pc.index_in(order, value_set=rows.column("key").combine_chunks())
        if at.null_count:
            lost = order.filter(pc.is_null(at))[0].as_py().hex()
            raise DataError(
                f"{self._storage.uri_of(self.folder)}: {at.null_count} rows are not stored, among "
                f"them {lost}; were they erased? run the step again to make them anew"
            )
        return rows.take(at).combine_chunks()

    def stats(self) -> LedgerStats:
        """Counts parts, rows, keys and bytes, holding a bounded number of keys at a time."""
        found = retried(lambda: count_keys(self._snapshot()))
        erased = {key for tombstone in self._tombstones() for key in tombstone.keys}
        anew = {
            key
            for table in self._wanted(["key"], sorted(erased))
            for key in table.column("key").to_pylist()
        }
        parts = self._parts()
        return LedgerStats(
            parts=len(parts),
            rows=found.rows,
            keys=found.keys,
            failures=found.failures,
            bytes=sum(part.size for part in parts),
            erased=len(erased - anew),
        )

    def versions(self) -> Counter[int]:
        """How many parts there are of each version of the schema.

        Raises:
            DataError: A part is torn, or was written by a newer release.
        """
        return retried(lambda: Counter(self._open(part).version for part in self._parts()))

    def verify(self) -> list[str]:
        """Names of parts that are torn or have another schema; empty where all is well."""
        return [part.path for part in self._parts() if not self._readable(part)]

    def erase(self, keys: Iterable[bytes]) -> int:
        """Erases rows: from now on they are not stored. Compaction removes their bytes.

        Rows of failures go too; what was generated before one failed may stand in them.

        Returns:
            How many of the keys had a row.
        """
        stored = sorted(self.stored(keys))
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
        here = {part.path for part in self._storage.list(f"{self.folder}/parts")}
        # A void part that is gone never comes back: its name is random.
        void, parts = set(self._void()) & here, self._parts()
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
        return set() if retried(lambda: self._merge_into(merged)) else {merged}

    def _merge_into(self, merged: str) -> bool:
        """Fills the merged part; whether there was anything to fill it with."""
        snapshot = self._snapshot()
        dropped = superseded_rows(snapshot)
        with ExitStack() as stack:
            file = partial(stack.enter_context, self._storage.new_file(merged))
            sink = TableSink(file, self._schema, "zstd", row_group=ROWS_HELD)
            for table in snapshot.tables(self._schema.names, dropped):
                sink.write(table)
            if sink.rows:
                sink.close()
        return sink.rows > 0

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

    def _snapshot(self) -> Snapshot:
        parts, tombstones = self._parts(), self._tombstones()
        dead = [[k for t in tombstones if part.path in t.parts for k in t.keys] for part in parts]
        return Snapshot(self._open, parts, [KeySet.of(keys) if keys else None for keys in dead])

    def _open(self, part: ObjectStat) -> PartFile:
        return PartFile(self._storage, part, self._schema, self._name)

    def _wanted(self, columns: Sequence[str], keys: Sequence[bytes]) -> list[pa.Table]:
        """Living rows of some keys, in the order in which they count."""
        if not keys:
            return []
        wanted = KeySet.of(keys)
        return retried(lambda: list(self._snapshot().tables(columns, wanted=wanted)))

    def _readable(self, part: ObjectStat) -> bool:
        try:
            for _ in self._open(part).groups(self._schema.names):
                pass
        except DataError:
            return False
        except PartGoneError:
            return True
        return True


def _part_name(made: int | None = None) -> str:
    return f"{time.time_ns() if made is None else made:020d}-{uuid.uuid4().hex[:12]}"


def _part_time(path: str) -> int:
    return int(path.rpartition("/")[2].partition("-")[0])


def _key_array(keys: Sequence[bytes]) -> pa.Array:
    return pa.array(keys, pa.binary(KEY_BYTES))


def _successes(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.is_null(rows.column("failure")))


def _first_of_each_key(rows: pa.Table) -> pa.Table:
    failed = rows.filter(pc.is_valid(rows.column("failure")))
    rows = pa.concat_tables([_successes(rows), failed])
    keys = rows.column("key").combine_chunks()
    first = pc.index_in(keys, value_set=keys)
    return rows.filter(pc.equal(first, pa.array(range(len(keys)), pa.int32())))
