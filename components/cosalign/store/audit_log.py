"""The audit log: who decided what, in an order that nobody can change unseen.

::

    audit/entries/00000001.json   one entry, written once, holding the digest of the one before
    audit/tip.json                number and digest of a recent entry: where to look for the newest
    audit/once/<digest>.json      where the entry of something that is recorded once is to be found

An entry is created under its number as an object that must not exist yet, so of writers who race
for a number exactly one gets it; the others read on and try the next. That write is all there is to
an append: the tip is a hint that may lag behind, since a crash or a slow writer leaves it so, and
the newest entry is found from it by doubling steps. An append therefore costs some requests,
however long the log is.

What must stand in the log once, though writers may die between doing it and recording it, has an
*identity*. Whoever records it first leaves a note of how long the log was then; the entry, if there
is one, is behind that. So everybody who comes later finds it by reading from there, and of those
who find nothing only one gets the next number: the others see theirs taken, and read that too.

What the chain shows: an entry altered, put in, taken out or moved. What it cannot show alone is a
tail cut off together with the tip, or a log written anew from some entry on: for that the number
and digest of an earlier verification have to be kept elsewhere, or the bucket has to forbid
deletion (a retention lock). ``audit_verification`` looks for all of it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from cosalign.domain.errors import CosalignError, DataError, StorageError
from cosalign.domain.fingerprint import Json, content_sha256, fingerprint
from cosalign.domain.validation import StrictModel, validated
from cosalign.store.storage import GenerationMismatch, Storage, inside

FOLDER = "audit"
TIP = f"{FOLDER}/tip.json"
READERS = 32
"""Entries read at a time."""
_WINDOW = 4096


class AuditEntry(StrictModel):
    """One decision as it was recorded.

    Attributes:
        form: Version of this document's form.
        number: Its place in the log, from 1.
        previous: SHA-256 of the entry before; ``None`` for the first.
        nonce: Random, so that a writer knows its own entry again.
        at: When, ISO 8601 in UTC, by the writer's clock; the order is by number.
        event: What happened, in CamelCase.
        subject: What it is about: a config's name, a run's id, a model's digest.
        by: Who did it; empty where a program did by itself.
        identity: What stands in the log once; ``None`` where it may stand there again.
        artifacts: SHA-256 of stored objects that the entry rests on, by their path under the root.
        details: Anything else, as plain JSON without texts.
    """

    form: str = "cosalign-audit/1"
    number: int
    previous: str | None
    nonce: str
    at: str
    event: str
    subject: str
    by: str = ""
    identity: str | None = None
    artifacts: dict[str, str] = {}
    details: dict[str, object] = {}


@dataclass(frozen=True)
class Record:
    """Everything that an append says; the log adds number, predecessor and nonce.

    Attributes as of :class:`AuditEntry`; the time is now where it is empty.
    """

    event: str
    subject: str
    by: str = ""
    identity: str | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Json] = field(default_factory=dict)
    at: str = ""

    @property
    def key(self) -> tuple[str, str | None]:
        """What stands in the log once, if it has an identity."""
        return self.event, self.identity


@dataclass(frozen=True)
class _Noted:
    """What a note says: how long the log was, and the entry's number; 0 where it is not known."""

    length: int
    number: int


class AuditLog:
    """The log of one storage root.

    Args:
        storage: The storage root, or one of its own where retention is locked.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._known = 0
        self._last: tuple[int, str | None] = (0, None)

    def append(
        self,
        event: str,
        subject: str,
        *,
        by: str = "",
        identity: str | None = None,
        artifacts: Mapping[str, str] | None = None,
        at: str | None = None,
        **details: Json,
    ) -> AuditEntry:
        """Records a decision; when it returns, the entry is durable and nobody can take its place.

        Args:
            event: What happened, in CamelCase.
            subject: What it is about.
            by: Who did it.
            identity: Where given, the log holds one entry of this event and identity at most, and
                a later append gives that one back.
            artifacts: SHA-256 of stored objects that it rests on, by their path under the root; one
                that is rewritten is held against the newest entry that names it.
            at: When; now, where ``None``.
            details: Anything else, as plain JSON; ids and digests, never texts.

        Raises:
            DataError: The log was cut, or an entry that is needed to go on is torn.
            StorageError: An artifact's path leaves the root.
        """
        record = Record(event, subject, by, identity, artifacts or {}, details, at or "")
        for path in record.artifacts:
            inside(path, self.storage.uri)
        if identity is None:
            return self._add(record, self._newest())
        return self._add_once(record, identity)

    def append_all(self, records: Sequence[Record]) -> int:
        """Records what has an identity and is not there yet, in order, many requests at a time.

        Args:
            records: Each with an identity.

        Returns:
            How many entries were added, by this writer.
        """
        if not records:
            return 0
        for path in (path for record in records for path in record.artifacts):
            inside(path, self.storage.uri)
        with ThreadPoolExecutor(min(READERS, len(records))) as pool:
            length = self._newest()
            notes = list(pool.map(lambda record: self._claimed(record, length), records))
            open_ones = [r for r, noted in zip(records, notes, strict=True) if not noted.number]
            if not open_ones:
                return 0
            start = min(noted.length for noted in notes if not noted.number)
            newest = self._newest(start)
            known = self._keys(start, newest)
            added = self._add_all(open_ones, newest, known)
            paths = {self._note_path(r.event, r.identity or ""): known[r.key] for r in open_ones}
            bodies = [(path, {"length": start, "number": n}) for path, n in paths.items()]
            list(pool.map(lambda body: self._hint(*body), bodies))
        return added

    def _claimed(self, record: Record, length: int) -> _Noted:
        """What is noted of something that is recorded once; noted now where it was not."""
        path = self._note_path(record.event, record.identity or "")
        if self.storage.stat(path) is None:
            with suppress(GenerationMismatch):
                self._create(path, _json({"length": length}))
                return _Noted(length, 0)
        return self._note(path)

    def _keys(self, after: int, newest: int) -> dict[tuple[str, str | None], int]:
        """What stands behind a number, and where."""
        parsed = (parse_entry(d, self._uri(n)) for n, d in self._all(after, newest))
        return {(entry.event, entry.identity): entry.number for entry in parsed}

    def _add_all(
        self, records: Iterable[Record], newest: int, known: dict[tuple[str, str | None], int]
    ) -> int:
        """Adds what is not known; fills in where everything stands."""
        added = 0
        for record in records:
            while record.key not in known:
                entry = self._created(record, newest)
                if entry is None:  # Somebody else got the number; perhaps with this very record.
                    further = self._newest(newest + 1)
                    known |= self._keys(newest, further)
                    newest = further
                    continue
                known[record.key] = newest = entry.number
                added += 1
        if added:
            self._point(newest)
        return added

    def head(self) -> AuditEntry | None:
        """The newest entry; ``None`` where the log is empty."""
        number = self._newest()
        return parse_entry(self._read(number), self._uri(number)) if number else None

    def find(self, event: str, identity: str) -> AuditEntry | None:
        """The entry of something that is recorded once; ``None`` where it is not recorded."""
        path = self._note_path(event, identity)
        return None if self.storage.stat(path) is None else self._noted(path, event, identity)[0]

    def entries(self, after: int = 0) -> Iterator[AuditEntry]:
        """All entries behind a number, oldest first, read many at a time.

        Raises:
            DataError: One is missing, torn or out of order.
        """
        previous = content_sha256(self._read(after)) if after else None
        for number, data in self._all(after, self._newest()):
            entry = parse_entry(data, self._uri(number))
            if entry.number != number or entry.previous != previous:
                raise DataError(
                    f"{self._uri(number)}: does not follow the entry before it; the log was "
                    "altered, see cosalign audit verify"
                )
            previous = content_sha256(data)
            yield entry

    def _add(self, record: Record, newest: int) -> AuditEntry:
        """Adds an entry behind the newest, or behind whatever came first meanwhile."""
        while True:
            entry = self._created(record, newest)
            if entry is not None:
                self._point(entry.number)
                return entry
            newest += 1

    def _created(self, record: Record, newest: int) -> AuditEntry | None:
        """The entry, if this writer got the number; ``None`` where another one did."""
        entry = AuditEntry(
            number=newest + 1, previous=self._digest(newest), nonce=secrets.token_hex(8),
            at=record.at or datetime.now(UTC).isoformat(timespec="milliseconds"),
            event=record.event, subject=record.subject, by=record.by, identity=record.identity,
            artifacts=dict(record.artifacts), details=dict(record.details),
        )  # fmt: skip
        path, data = entry_path(entry.number), _bytes(entry)
        try:
            self._create(path, data)
        except GenerationMismatch:
            # A client that did not hear the answer asks again, and then finds its own entry.
            if self.storage.read_bytes(path) != data:
                return None
        self._known = entry.number
        self._last = (entry.number, content_sha256(data))
        return entry

    def _create(self, path: str, data: bytes) -> None:
        """Writes an object that must not exist yet.

        Raises:
            GenerationMismatch: It does.
        """
        try:
            self.storage.write_bytes(path, data, if_generation=0)
        except StorageError:
            # An account that may add and not replace can be refused what is there already.
            if self.storage.stat(path) is None:
                raise
            raise GenerationMismatch(f"{self.storage.uri_of(path)}: is there already") from None

    def _digest(self, number: int) -> str | None:
        """SHA-256 of an entry, ``None`` for the one before the first."""
        if self._last[0] == number:
            return self._last[1]
        return content_sha256(self._read(number)) if number else None

    def _add_once(self, record: Record, identity: str) -> AuditEntry:
        path = self._note_path(record.event, identity)
        self._claimed(record, self._newest())
        found, read = self._noted(path, record.event, identity)
        while True:
            entry = found or self._created(record, read)
            if entry is not None:
                if found is None:
                    self._point(entry.number)
                return entry
            found, read = self._search(record.event, identity, read)

    def _note(self, path: str) -> _Noted:
        try:
            body = json.loads(self.storage.read_bytes(path))
            return _Noted(int(body["length"]), int(body.get("number", 0)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{self.storage.uri_of(path)}: torn; delete it") from None

    def _noted(self, path: str, event: str, identity: str) -> tuple[AuditEntry | None, int]:
        """The entry that a note leads to, and the number read up to."""
        noted = self._note(path)
        if noted.number and self._exists(noted.number):
            entry = parse_entry(self._read(noted.number), self._uri(noted.number))
            if (entry.event, entry.identity) == (event, identity):
                return entry, noted.number
        found, read = self._search(event, identity, noted.length)
        if found is not None:
            # So that whoever asks next reads one entry, and not all since.
            self._hint(path, {"length": noted.length, "number": found.number})
        return found, read

    def _search(self, event: str, identity: str, after: int) -> tuple[AuditEntry | None, int]:
        """The entry of an identity behind a number, and the number read up to."""
        newest = self._newest(after)
        for number, data in self._all(after, newest):
            entry = parse_entry(data, self._uri(number))
            if (entry.event, entry.identity) == (event, identity):
                return entry, number
        return None, newest

    def _note_path(self, event: str, identity: str) -> str:
        return f"{FOLDER}/once/{fingerprint('audit-identity', [event, identity])}.json"

    def _generation(self, path: str) -> int:
        stat = self.storage.stat(path)
        return stat.generation if stat else 0

    def _hint(self, path: str, body: Mapping[str, Json], generation: int | None = None) -> None:
        """Writes what only saves requests; missed where others were faster, or it is locked."""
        with suppress(CosalignError):
            self.storage.write_bytes(path, _json(body), if_generation=generation)

    def _newest(self, known: int = 0) -> int:
        """The number of the newest entry, looked for from a known one or the tip on."""
        low = max(known, self._known) or self._hinted()
        if low and not self._exists(low):
            raise DataError(
                f"{self._uri(low)}: is gone, and was written; the log was cut. Nothing is added to "
                "it: see cosalign audit verify, and restore it from the bucket's versions"
            )
        step = 1
        while self._exists(low + step):
            low, step = low + step, step * 2
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._exists(middle) else (low, middle)
        self._known = low
        return low

    def _hinted(self) -> int:
        """The tip's number; 0 where there is none."""
        if self.storage.stat(TIP) is None:
            return 0
        try:
            return int(json.loads(self.storage.read_bytes(TIP))["number"])
        except (ValueError, KeyError, TypeError):
            return 0

    def _point(self, number: int) -> None:
        """Moves the tip to an entry of this writer, unless it is further already."""
        # The generation first: a tip that is newer than it makes the write fail, never go back.
        generation = self._generation(TIP)
        if not generation or self._hinted() < number:
            self._hint(TIP, {"number": number, "digest": self._digest(number)}, generation)

    def _all(self, after: int, newest: int) -> Iterator[tuple[int, bytes]]:
        numbers = iter(range(after + 1, newest + 1))
        with ThreadPoolExecutor(min(READERS, max(1, newest - after))) as pool:
            while window := list(islice(numbers, _WINDOW)):
                yield from zip(window, pool.map(self._read, window), strict=True)

    def _exists(self, number: int) -> bool:
        return number > 0 and self.storage.stat(entry_path(number)) is not None

    def _read(self, number: int) -> bytes:
        return self.storage.read_bytes(entry_path(number))

    def _uri(self, number: int) -> str:
        return self.storage.uri_of(entry_path(number))


def entry_path(number: int) -> str:
    """Where an entry lies under the root."""
    return f"{FOLDER}/entries/{number:08d}.json"


def parse_entry(data: bytes, source: str) -> AuditEntry:
    """An entry from its bytes.

    Raises:
        DataError: It is none.
    """
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        raise DataError(f"{source}: not JSON; it was altered or torn") from None
    if not isinstance(raw, dict):
        raise DataError(f"{source}: no entry; it was altered")
    return validated(AuditEntry, raw, source, DataError)


def _json(body: Mapping[str, Json]) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def _bytes(entry: AuditEntry) -> bytes:
    plain = entry.model_dump(mode="json")
    return f"{json.dumps(plain, sort_keys=True, allow_nan=False)}\n".encode()
