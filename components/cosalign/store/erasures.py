"""Carries an erasure out: on record first, then in ledgers and tables, so that a crash loses none.

::

    erasures/20261129T101500-1f2e3d4c.json         what goes, why, on whose word
    erasures/20261129T101500-1f2e3d4c.done.json    all of it is gone

The record is written before anything is deleted, and what it names is deleted whoever finishes it:
an erasure without its ``done`` is carried on by the next one. Prompts that were named, by id or by
source, stand in the record for good as hashes of their text, and no run reads them again.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from typing import Literal

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.validation import StrictModel, validated
from cosalign.store.audit_log import AuditLog
from cosalign.store.audit_verification import ERASED
from cosalign.store.storage import Storage

FOLDER = "erasures"
_SHOWN = 1000


class Erasure(StrictModel):
    """One erasure, as it is on record.

    Attributes:
        form: Version of this document's form.
        by: On whose word.
        reason: Why, in their words.
        at: When, ISO 8601 in UTC.
        selection: What was asked for, in words.
        prompts: Ids of the prompts that no run reads again.
        keys: Rows of ledgers, in hex, by ledger.
        tables: Tables and other files, by path under the root.
        models: Models that were trained on it, and stay.
        compact: Whether ledgers are compacted after it, which takes erased bytes away.
    """

    form: Literal["cosalign-erasure/1"] = "cosalign-erasure/1"
    by: str
    reason: str
    at: str
    selection: dict[str, str]
    prompts: tuple[str, ...]
    keys: dict[str, tuple[str, ...]]
    tables: tuple[str, ...]
    models: tuple[str, ...]
    compact: bool = True


def erase(storage: Storage, erasure: Erasure) -> str:
    """Puts an erasure on record and carries it out; gives its name.

    Args:
        storage: The storage root.
        erasure: What goes.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    name = f"{stamp}-{secrets.token_hex(4)}"
    text = json.dumps(erasure.model_dump(mode="json"), sort_keys=True)
    storage.write_bytes(f"{FOLDER}/{name}.json", f"{text}\n".encode(), if_generation=0)
    _carry_out(storage, name)
    return name


def finish_erasures(storage: Storage) -> list[str]:
    """Carries on erasures that somebody began and did not finish; gives their names."""
    paths = {stat.path for stat in storage.list(FOLDER)}
    names = sorted(
        path.removeprefix(f"{FOLDER}/").removesuffix(".json")
        for path in paths
        if path.endswith(".json") and not path.endswith(".done.json")
    )
    open_ones = [name for name in names if f"{FOLDER}/{name}.done.json" not in paths]
    for name in open_ones:
        _carry_out(storage, name)
    return open_ones


def erased_prompts(storage: Storage) -> frozenset[str]:
    """Ids of all prompts that no run may read again."""
    found: set[str] = set()
    for stat in storage.list(FOLDER):
        if not stat.path.endswith(".done.json"):
            found.update(_read(storage, stat.path).prompts)
    return frozenset(found)


def _carry_out(storage: Storage, name: str) -> None:
    from cosalign.domain.schemas import LEDGERS
    from cosalign.store.ledger import Ledger

    path = f"{FOLDER}/{name}.json"
    erasure = _read(storage, path)
    _record(storage, name, erasure)
    for ledger_name, keys in erasure.keys.items():
        ledger = Ledger(storage, ledger_name, LEDGERS[ledger_name])
        ledger.erase(bytes.fromhex(key) for key in keys)
        # Also where the rows are erased already: whoever did that may have died before this.
        if keys and erasure.compact:
            ledger.compact()
    for table in erasure.tables:
        storage.delete(table)
    storage.write_bytes(f"{FOLDER}/{name}.done.json", b"{}\n")


def _record(storage: Storage, name: str, erasure: Erasure) -> None:
    path = f"{FOLDER}/{name}.json"
    AuditLog(storage).append(
        ERASED, name, by=erasure.by, at=erasure.at, identity=name,
        artifacts={path: content_sha256(storage.read_bytes(path))},
        reason=erasure.reason, selection=erasure.selection, prompts=len(erasure.prompts),
        rows={ledger: len(keys) for ledger, keys in erasure.keys.items()},
        tables=len(erasure.tables), paths=list(erasure.tables[:_SHOWN]),
        models=list(erasure.models[:_SHOWN]),
    )  # fmt: skip


def _read(storage: Storage, path: str) -> Erasure:
    source = storage.uri_of(path)
    try:
        raw = json.loads(storage.read_bytes(path))
    except (ValueError, RecursionError):
        raise DataError(
            f"{source}: torn; restore it from the bucket's versions, since what it names may not "
            "be read again"
        ) from None
    if not isinstance(raw, dict):
        raise DataError(f"{source}: no erasure; who writes there?")
    return validated(Erasure, raw, source, DataError)
