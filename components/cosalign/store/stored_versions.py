"""Which versions of its own forms a storage root holds, and what a migration would rewrite.

Tables are never rewritten, since their digests stand in what was made from them: older ones are
upgraded as they are read. Ledgers are, by the compaction that they have anyway: it merges all parts
into one of today's version under a guard, so that it may be killed at any point and started again,
and does nothing where nothing is old. Documents say their form; one of a newer release is named
here, before a run stumbles over it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from cosalign.domain.errors import DataError
from cosalign.domain.schema_upgrades import current_version, is_upgraded, version_of
from cosalign.domain.schemas import LEDGERS
from cosalign.store.audit_log import AuditLog
from cosalign.store.ledger import Ledger
from cosalign.store.storage import Storage

FORMS = frozenset({
    "cosalign-approvals/1", "cosalign-audit/1", "cosalign-comparison/1", "cosalign-erasure/1",
    "cosalign-gate/1", "cosalign-model/1", "cosalign-reading/1", "cosalign-usage/1",
})  # fmt: skip
"""Forms of documents that this release reads."""
_DOCUMENTS = ("gate.json", "model-manifest.json")
_FOLDERS = ("approvals", "erasures", "readings", "usage")
_READERS = 16


@dataclass(frozen=True)
class Found:
    """Some stored things of one version.

    Attributes:
        kind: ``ledger``, ``table`` or ``document``.
        name: Of the ledger or table; the form of documents.
        version: The version of the schema; ``None`` for documents, whose form says it.
        count: How many files.
        becomes: What a migration does with them, and what happens to them without one.
        newer: Whether this release is too old for them.
    """

    kind: str
    name: str
    version: int | None
    count: int
    becomes: str
    newer: bool = False


def survey(storage: Storage) -> list[Found]:
    """Everything stored, by kind, name and version."""
    return [*_ledgers(storage), *_tables(storage), *_documents(storage)]


def migrate_ledgers(storage: Storage) -> list[str]:
    """Rewrites ledgers that hold parts of an older version; gives their names.

    Raises:
        DataError: A part was written by a newer release.
        GenerationMismatch: Another compaction was faster; start it again.
    """
    done = []
    for name, schema in LEDGERS.items():
        ledger = Ledger(storage, name, schema)
        if any(version < current_version() for version in ledger.versions()):
            ledger.compact()
            done.append(name)
    return done


def _ledgers(storage: Storage) -> Iterator[Found]:
    for name, schema in LEDGERS.items():
        try:
            versions = Ledger(storage, name, schema).versions()
        except DataError as problem:
            yield Found("ledger", name, None, 1, str(problem), newer=True)
            continue
        for version, count in sorted(versions.items()):
            old = version < current_version()
            yield Found("ledger", name, version, count, "rewritten" if old else "as it is")


def _tables(storage: Storage) -> Iterator[Found]:
    paths = [s.path for s in storage.list("steps") if s.path.endswith(".parquet")]
    with ThreadPoolExecutor(_READERS) as pool:
        read = list(pool.map(lambda path: _table_version(storage, path), paths))
    counts: Counter[tuple[str, int]] = Counter()
    for path, (version, problem) in zip(paths, read, strict=True):
        if version is None:
            yield Found("table", PurePosixPath(path).stem, None, 1, problem, newer=True)
        else:
            counts[PurePosixPath(path).stem, version] += 1
    for (name, version), count in sorted(counts.items()):
        old = is_upgraded("table", name, version)
        yield Found("table", name, version, count, "upgraded when read" if old else "as it is")


def _table_version(storage: Storage, path: str) -> tuple[int | None, str]:
    """A table's version; ``None`` and why, where it cannot be read."""
    source = storage.uri_of(path)
    try:
        file = pq.ParquetFile(pa.PythonFile(storage.open(path), "r"), pre_buffer=False)
        return version_of(file.schema_arrow, source), ""
    except DataError as problem:
        return None, str(problem)
    except (pa.ArrowInvalid, OSError):
        return None, f"{source}: not a readable table"


def _documents(storage: Storage) -> Iterator[Found]:
    paths = [s.path for folder in ("steps", "models") for s in storage.list(folder)
             if PurePosixPath(s.path).name in _DOCUMENTS]  # fmt: skip
    paths += [s.path for folder in _FOLDERS for s in storage.list(folder)
              if not s.path.endswith(".done.json")]  # fmt: skip
    with ThreadPoolExecutor(_READERS) as pool:
        counts = Counter(pool.map(lambda path: _form(storage, path), paths))
    newest = AuditLog(storage).head()
    if newest is not None:
        counts[newest.form] += newest.number
    for form, count in sorted(counts.items()):
        known = form in FORMS
        becomes = "as it is" if known else "not known to this release; use the one that wrote it"
        yield Found("document", form, None, count, becomes, newer=not known)


def _form(storage: Storage, path: str) -> str:
    try:
        return str(json.loads(storage.read_bytes(path))["form"])
    except (ValueError, KeyError, TypeError):
        return "none"
