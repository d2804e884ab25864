"""Is the audit log whole, and is what it names still what it was?

Every entry is read, not a sample and not a copy: an entry that was altered, put in, taken out or
moved breaks the chain where it stands, and is named. Objects that entries name by digest are hashed
again. What a chain cannot show is that its end was cut off, tip and all; so a verification gives
the number and digest of the newest entry, for whoever verifies to keep elsewhere and to expect the
next time. In a bucket under a retention lock nothing can be cut off to begin with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from cosalign.domain.errors import DataError, UserError
from cosalign.domain.fingerprint import content_sha256
from cosalign.store.audit_log import FOLDER, READERS, TIP, AuditEntry, entry_path, parse_entry
from cosalign.store.storage import Storage

_WINDOW = 4096
_CHUNK = 1 << 20
_HASHERS = 8
ERASED = "Erased"
"""The event of an erasure; objects that it names in ``details.paths`` may be gone since."""


@dataclass(frozen=True)
class Anchor:
    """An entry's number and the SHA-256 of its bytes."""

    number: int
    digest: str


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where."""

    where: str
    says: str


@dataclass(frozen=True)
class Verification:
    """What was verified.

    Attributes:
        entries: Entries read.
        tip: The newest one; ``None`` where the log is empty.
        artifacts: Objects hashed again.
        faults: What is wrong: entries in their order, then the tip, then objects by path.
    """

    entries: int
    tip: Anchor | None
    artifacts: int
    faults: tuple[Fault, ...]


def verify_log(
    storage: Storage,
    expect: Anchor | None = None,
    artifacts: bool = True,
    watch: Callable[[AuditEntry], None] | None = None,
) -> Verification:
    """Reads the whole log and says what is wrong with it.

    Args:
        storage: The storage root.
        expect: What an earlier verification ended with.
        artifacts: Whether objects that entries name are hashed again.
        watch: Is shown each entry that can be read, in order, for checks of other kinds.
    """
    chain = _Chain(storage, watch)
    chain.read()
    faults = [*chain.faults, *_tip_faults(storage, chain), *_anchor_faults(storage, chain, expect)]
    named = {} if not artifacts else chain.artifacts
    faults += _artifact_faults(storage, named, chain.erased)
    newest = max(chain.digests, default=0)
    tip = Anchor(newest, chain.digests[newest]) if newest else None
    return Verification(len(chain.digests), tip, len(named), tuple(faults))


class _Chain:
    """The entries, read one after the other; what later checks need of them is kept."""

    def __init__(self, storage: Storage, watch: Callable[[AuditEntry], None] | None) -> None:
        self.storage = storage
        self._watch = watch
        self.digests: dict[int, str] = {}
        self.faults: list[Fault] = []
        self.artifacts: dict[str, tuple[str, int]] = {}
        self.erased: set[str] = set()
        self._identities: dict[tuple[str, str], int] = {}
        self._before: str | None = None

    def read(self) -> None:
        """Reads all entries."""
        numbers = self._numbers()
        missing = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
        gaps = iter([*missing, 0])
        gap = next(gaps)
        for number, data in self._contents(numbers):
            while 0 < gap < number:
                self._fault(gap, "is missing; it was taken out")
                self._before = None
                gap = next(gaps)
            self._check(number, data, follows_gap=number - 1 in missing)

    def _numbers(self) -> list[int]:
        found = []
        for stat in self.storage.list(f"{FOLDER}/entries"):
            name = stat.path.rpartition("/")[2].removesuffix(".json")
            if not stat.path.endswith(".json"):
                continue  # Nothing reads it; a copied folder has its lock files, say.
            if name.isdigit() and stat.path == entry_path(int(name)) and int(name):
                found.append(int(name))
            else:
                where = self.storage.uri_of(stat.path)
                self.faults.append(Fault(where, "is no entry's name; it was put in"))
        return found

    def _contents(self, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        waiting = iter(numbers)
        with ThreadPoolExecutor(READERS) as pool:
            while window := list(islice(waiting, _WINDOW)):
                paths = map(entry_path, window)
                yield from zip(window, pool.map(self.storage.read_bytes, paths), strict=True)

    def _check(self, number: int, data: bytes, follows_gap: bool) -> None:
        before, self._before = self._before, content_sha256(data)
        self.digests[number] = self._before
        try:
            entry = parse_entry(data, self.storage.uri_of(entry_path(number)))
        except DataError as problem:
            self.faults.append(Fault(*str(problem).split(": ", 1)))
            return
        if entry.number != number:
            self._fault(number, f"holds entry {entry.number}; the order was changed")
        elif entry.previous != before and not follows_gap:
            self._fault(
                number, f"does not follow entry {number - 1}: one of the two was altered or put in"
            )
        self._note(number, entry)
        if self._watch is not None:
            self._watch(entry)

    def _note(self, number: int, entry: AuditEntry) -> None:
        if entry.identity is not None:
            first = self._identities.setdefault((entry.event, entry.identity), number)
            if first != number:
                self._fault(number, f"records again what entry {first} records, which it may not")
        for path, digest in entry.artifacts.items():
            self.artifacts[path] = (digest, number)
        if entry.event == ERASED:
            paths = entry.details.get("paths")
            self.erased |= {str(path) for path in paths} if isinstance(paths, list) else set()

    def _fault(self, number: int, says: str) -> None:
        self.faults.append(Fault(self.storage.uri_of(entry_path(number)), says))


def _tip_faults(storage: Storage, chain: _Chain) -> Iterator[Fault]:
    where = storage.uri_of(TIP)
    if storage.stat(TIP) is None:
        # The first entry's writer may have died before it; nobody else leaves a log without one.
        if len(chain.digests) > 1:
            yield Fault(where, "is missing, so entries behind the last may be too")
        return
    try:
        body = json.loads(storage.read_bytes(TIP))
        number, digest = int(body["number"]), str(body["digest"])
    except (ValueError, KeyError, TypeError):
        yield Fault(where, "is torn; delete it once the log is verified")
        return
    if number not in chain.digests:
        yield Fault(where, f"names entry {number}, which is not there; the end was cut off")
    elif chain.digests[number] != digest:
        yield Fault(where, f"names another entry {number} than there is; it was replaced")


def _anchor_faults(storage: Storage, chain: _Chain, expect: Anchor | None) -> Iterator[Fault]:
    if expect is None or chain.digests.get(expect.number) == expect.digest:
        return
    where = storage.uri_of(entry_path(expect.number))
    if expect.number in chain.digests:
        yield Fault(where, "is not the entry that was verified before; the log was written anew")
    else:
        yield Fault(where, "was verified before and is not there; the end was cut off")


def _artifact_faults(
    storage: Storage, named: dict[str, tuple[str, int]], erased: set[str]
) -> Iterator[Fault]:
    with ThreadPoolExecutor(_HASHERS) as pool:
        digests = pool.map(lambda path: _digest(storage, path), sorted(named))
        for path, digest in zip(sorted(named), digests, strict=True):
            wanted, number = named[path]
            where = f"{storage.uri}/{path}"
            if digest is None and path not in erased:
                yield Fault(where, f"is gone, and entry {number} rests on it")
            elif digest not in (None, wanted):
                yield Fault(where, f"was altered since entry {number} was written on it")


def _digest(storage: Storage, path: str) -> str | None:
    """SHA-256 of an object, read in chunks; ``None`` where it is gone."""
    found = hashlib.sha256()
    try:
        with storage.open(path) as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
    except UserError:
        return None
    return found.hexdigest()
