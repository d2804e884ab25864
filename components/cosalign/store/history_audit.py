"""From guarded histories to the audit log: what was decided gets a row, whoever dies in between.

A history's entry *is* the decision; its row in the log comes after it. A writer that dies between
the two leaves a row missing, which the next writer adds before its own: rows are recorded once, by
the history's folder and the entry's number, so that of several who notice one adds it. Since rows
are added in the order of entries, the newest entry that has one shows that all before it have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cosalign.domain.fingerprint import Json, content_sha256
from cosalign.store.audit_log import AuditLog
from cosalign.store.guarded_history import Entry, GuardedHistory
from cosalign.store.storage import Storage


@dataclass(frozen=True)
class Row:
    """What a row says of an entry, beside where the entry lies.

    Attributes:
        event: What happened, in CamelCase.
        subject: What it is about.
        by: Who did it.
        at: When, ISO 8601 in UTC.
        artifacts: SHA-256 of other objects that the decision rests on, by path.
        details: Anything else, without texts.
    """

    event: str
    subject: str
    by: str
    at: str
    artifacts: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Json] = field(default_factory=dict)


def record_history(
    history: GuardedHistory[Entry], log: AuditLog, row_of: Callable[[Entry, Entry | None], Row]
) -> int:
    """Gives every entry of a history that has none its row.

    Args:
        history: The history.
        log: The log of the same storage root.
        row_of: The row of an entry, from it and the one before.

    Returns:
        How many rows were added.
    """
    newest = history.head()
    waiting: list[tuple[Entry, Row]] = []
    while newest is not None:
        before = history.entry(newest.number - 1)
        row = row_of(newest, before)
        if log.find(row.event, _identity(history, newest)) is not None:
            break
        waiting.append((newest, row))
        newest = before
    for entry, row in reversed(waiting):
        _add(history, log, entry, row)
    return len(waiting)


def _add(history: GuardedHistory[Entry], log: AuditLog, entry: Entry, row: Row) -> None:
    path = history.path_of(entry.number)
    log.append(
        row.event, row.subject, by=row.by, at=row.at, identity=_identity(history, entry),
        artifacts={path: content_sha256(history.storage.read_bytes(path)), **row.artifacts},
        entry=entry.number, **row.details,
    )  # fmt: skip


def _identity(history: GuardedHistory[Entry], entry: Entry) -> str:
    return f"{history.folder}/{entry.number}"


def artifact(storage: Storage, uri: str) -> dict[str, str]:
    """An object's path and SHA-256, if it lies under the root and is there; else nothing."""
    prefix = f"{storage.uri}/"
    path = uri.removeprefix(prefix)
    if path == uri or storage.stat(path) is None:
        return {}
    return {path: content_sha256(storage.read_bytes(path))}
