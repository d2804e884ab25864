"""What an erasure has to reach: where a storage root holds the texts that are to go.

Texts lie in the responses ledger and in tables of steps (prompts, responses, answers, training
records, policies). Tables are found by their columns and not by manifests, so that what a killed
step left is found too. A table goes as a whole: a row cannot be taken out of a file whose digest
other results name. What it was made from stays in the ledgers, but for what is erased there, so a
later run makes it anew without paying.

Not reached, and said: models that were trained on it, files that prompts are read from, copies in
local caches, and what a bucket keeps of deleted objects (versions, soft delete).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cosalign.domain.errors import DataError
from cosalign.domain.schemas import LEDGERS
from cosalign.store.ledger import Ledger
from cosalign.store.storage import ObjectStat, Storage

TEXT_COLUMNS = frozenset({"text", "prompt", "response", "chosen", "rejected", "system", "policy"})
TEXT_FILES = ("prompt_review.jsonl",)
"""Files of steps that may hold texts, where a run config asks for them."""


@dataclass(frozen=True)
class Selection:
    """What is to go; a text goes if any of these says so.

    Attributes:
        prompts: Ids of prompts.
        sources: Names of prompts' sources, as the prompts table has them.
        regions: Regions whose configs, and what was answered under them alone, go.
        before: What was made before this moment goes, whatever it is.
    """

    prompts: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    before: datetime | None = None


@dataclass
class ErasurePlan:
    """What goes.

    Attributes:
        prompts: Ids of the prompts that were named, by id or by source; no run reads them again.
        keys: Rows of ledgers, by ledger.
        tables: Tables and other files, by path under the root.
        models: Addresses of models that were trained on what goes; they stay.
    """

    prompts: set[str] = field(default_factory=set)
    keys: dict[str, set[bytes]] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        """Whether nothing is stored that would have to go."""
        return not self.tables and not any(self.keys.values())


def plan_erasure(storage: Storage, selection: Selection) -> ErasurePlan:
    """Looks for all that a selection reaches.

    Args:
        storage: The storage root.
        selection: What is to go.

    Raises:
        DataError: A table cannot be read.
    """
    tables = list(_text_tables(storage))
    plan = ErasurePlan(prompts=set(selection.prompts) | _of_sources(tables, selection.sources))
    configs = _of_regions(tables, selection.regions)
    responses: set[bytes] = set()
    for table in tables:
        found = table.rows(plan.prompts, configs, selection.before)
        if found.num_rows:
            plan.tables.add(table.stat.path)
            responses |= _response_keys(found)
    plan.keys = _ledger_keys(storage, responses, selection.before)
    folders = {path.rpartition("/")[0] for path in plan.tables}
    for folder in folders:
        plan.tables |= {f"{folder}/{n}" for n in TEXT_FILES if storage.stat(f"{folder}/{n}")}
        plan.models |= _models(storage, folder)
    return plan


@dataclass(frozen=True)
class _TextTable:
    """A table that holds texts; opened when it is read, since there may be thousands."""

    storage: Storage
    stat: ObjectStat
    columns: frozenset[str]

    def ids(self, *columns: str) -> pa.Table:
        """Some of its columns; those of them that it has."""
        wanted = [name for name in columns if name in self.columns]
        with _opened(self.storage, self.stat) as file:
            return file.read(columns=wanted)

    def rows(self, prompts: set[str], configs: set[str], before: datetime | None) -> pa.Table:
        """Ids of the rows that go."""
        table = self.ids("prompt_id", "config_id", "response_id")
        if before is not None and self.stat.updated < before.timestamp():
            return table
        marks = pa.array([False] * table.num_rows, pa.bool_())
        for column, gone in (("prompt_id", prompts), ("config_id", configs)):
            if gone and column in table.column_names:
                found = pc.is_in(table[column], value_set=pa.array(sorted(gone), pa.string()))
                marks = pc.or_(marks, pc.fill_null(found, False))
        return table.filter(marks)


def _text_tables(storage: Storage) -> Iterator[_TextTable]:
    for stat in storage.list("steps"):
        if stat.path.endswith(".parquet"):
            with _opened(storage, stat) as file:
                columns = frozenset(file.schema_arrow.names)
            if columns & TEXT_COLUMNS:
                yield _TextTable(storage, stat, columns)


@contextmanager
def _opened(storage: Storage, stat: ObjectStat) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open(stat.path) as source:
            yield pq.ParquetFile(pa.PythonFile(source, "r"), pre_buffer=False)
    except (pa.ArrowInvalid, OSError):
        raise DataError(
            f"{storage.uri_of(stat.path)}: not a readable table, so nobody can say what it holds; "
            "delete it first"
        ) from None


def _of_sources(tables: Iterable[_TextTable], sources: frozenset[str]) -> set[str]:
    found: set[str] = set()
    for table in tables:
        if sources and {"prompt_id", "source"} <= table.columns:
            rows = table.ids("prompt_id", "source")
            named = pc.is_in(rows["source"], value_set=pa.array(sorted(sources), pa.string()))
            found.update(rows.filter(named)["prompt_id"].to_pylist())
    return found


def _of_regions(tables: Iterable[_TextTable], regions: frozenset[str]) -> set[str]:
    """Rendered configs that are of these regions and of no other."""
    found: set[str] = set()
    for table in tables:
        if regions and {"config_id", "region"} <= table.columns:
            rows = table.ids("config_id", "region").to_pylist()
            found |= {
                row["config_id"]
                for row in rows
                if row["region"] is not None and set(row["region"].split(",")) <= regions
            }
    return found


def _response_keys(rows: pa.Table) -> set[bytes]:
    if "response_id" not in rows.column_names:
        return set()
    named = (name for name in rows["response_id"].to_pylist() if name is not None)
    return {bytes.fromhex(name) for name in named if len(name) == 32}  # noqa: PLR2004 hex of a key


def _ledger_keys(
    storage: Storage, responses: set[bytes], before: datetime | None
) -> dict[str, set[bytes]]:
    found: dict[str, set[bytes]] = {}
    for name, schema in LEDGERS.items():
        ledger = Ledger(storage, name, schema)
        keys = ledger.stored(responses) if name == "responses" else set()
        if before is not None:
            keys |= ledger.made_before(int(before.timestamp() * 1e9))
        found[name] = keys
    return found


def _models(storage: Storage, folder: str) -> set[str]:
    """Models of a training step; none of another step, or of one that was killed."""
    path = f"{folder}/manifest.json"
    if not folder.startswith("steps/training/") or storage.stat(path) is None:
        return set()
    return set(json.loads(storage.read_bytes(path)).get("models", {}).values())
