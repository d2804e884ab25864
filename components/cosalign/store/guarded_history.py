"""A ``current`` document that moves under a guard, and a history that forgets nothing.

::

    FOLDER/history/00000001.json   one entry a change, written once
    FOLDER/current.json            a copy of the newest entry, which readers follow

An entry is written first, under its number, as an object that must not exist yet: of writers who
race for a number exactly one gets it, and that write *is* the decision. Then the pointer is swung
to it under its generation. A crash between the two leaves the pointer one entry behind, and whoever
writes next swings it before doing anything else; nobody can skip or lose an entry. The pointer
never moves to a lower number, so a writer that slept wakes up to find its swing refused.

Each entry holds the digest of the one before, so an altered entry, or a missing one, is noticed.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.validation import StrictModel, validated
from cosalign.store.storage import GenerationMismatch, Storage

CURRENT_FILE = "current.json"
_SWINGS = 100
"""Attempts to swing; each failed one means that another writer got further."""


class Link(StrictModel):
    """What makes an entry a link of the chain.

    Attributes:
        number: Its place in the history, from 1.
        nonce: Random, so that a writer knows its own entry again.
        previous: Digest of the entry before; ``None`` for the first.
    """

    number: int
    nonce: str
    previous: str | None


Entry = TypeVar("Entry", bound=Link)


class GuardedHistory(Generic[Entry]):
    """A pointer and its history.

    Args:
        storage: The storage root.
        folder: Where both lie.
        form: What an entry is.
        moved: What is raised where the current entry is not the one that a change was made against.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        form: type[Entry],
        moved: Callable[[], GenerationMismatch],
    ) -> None:
        self.storage = storage
        self.folder = folder
        self.moved = moved
        self._form = form

    def current(self) -> Entry | None:
        """The current entry, as readers of the pointer see it; ``None`` where there is none."""
        found = self._pointed()
        return found[0] if found else None

    def checked(self) -> Entry | None:
        """The current entry, held against its place in the history.

        Raises:
            DataError: The two differ, or the history has no such entry.
        """
        found = self._pointed()
        if found is None:
            return None
        if self._parsed(self._path(found[0].number)) != found[0]:
            raise self._differs(found[0])
        return found[0]

    def head(self) -> Entry | None:
        """The newest entry, which the pointer reaches at the latest with the next write."""
        entry = self.current()
        number = entry.number if entry else 0
        while (newer := self._entry(number + 1)) is not None:
            entry, number = newer, number + 1
        return entry

    def history(self) -> list[Entry]:
        """All entries, oldest first.

        Raises:
            DataError: An entry is missing or was altered.
        """
        found = list(self._entries())
        current = self.current()
        if current is not None and found[current.number - 1] != current:
            raise self._differs(current)
        return found

    def append(self, make: Callable[[Link], Entry], expected: int) -> Entry:
        """Records an entry and swings the pointer to it.

        Args:
            make: Gives the entry, from its place in the chain.
            expected: Number of the entry that was current when the change was made; 0 for none.

        Raises:
            GenerationMismatch: Another writer came first; look again.
        """
        head = self.settle()
        if (head.number if head else 0) != expected:
            raise self.moved()
        previous = content_sha256(self._read(self._path(expected))) if head else None
        entry = make(Link(number=expected + 1, nonce=secrets.token_hex(8), previous=previous))
        self._create(entry)
        self._swing(entry)
        return entry

    def settle(self) -> Entry | None:
        """Swings the pointer to the newest entry, where a writer died before it did."""
        head = self.head()
        if head is not None:
            self._swing(head)
        return head

    def entry(self, number: int) -> Entry | None:
        """The entry of a number; ``None`` where there is none."""
        return self._entry(number)

    def path_of(self, number: int) -> str:
        """Where the entry of a number lies under the root."""
        return self._path(number)

    def _differs(self, entry: Entry) -> DataError:
        return DataError(
            f"{self.storage.uri_of(self.folder)}: {CURRENT_FILE} is not entry {entry.number} "
            "of the history; one of them was altered"
        )

    def _create(self, entry: Entry) -> None:
        path, data = self._path(entry.number), _bytes(entry)
        try:
            self.storage.write_bytes(path, data, if_generation=0)
        except GenerationMismatch:
            # A client that did not hear the answer asks again, and then finds its own entry.
            if self._read(path) != data:
                raise self.moved() from None

    def _swing(self, entry: Entry) -> None:
        for _ in range(_SWINGS):
            found = self._pointed()
            if found is not None and found[0].number >= entry.number:
                return
            generation = found[1] if found else 0
            with suppress(GenerationMismatch):
                path = f"{self.folder}/{CURRENT_FILE}"
                self.storage.write_bytes(path, _bytes(entry), if_generation=generation)
        raise self.moved()

    def _pointed(self) -> tuple[Entry, int] | None:
        path = f"{self.folder}/{CURRENT_FILE}"
        # The generation first: content that is newer than it makes the swing fail, never succeed.
        stat = self.storage.stat(path)
        return None if stat is None else (self._parsed(path), stat.generation)

    def _entries(self) -> Iterator[Entry]:
        previous: str | None = None
        head = self.head()
        for number in range(1, (head.number if head else 0) + 1):
            data = self._read(self._path(number))
            entry = self._parse(data, self.storage.uri_of(self._path(number)))
            if entry.number != number or entry.previous != previous:
                raise DataError(
                    f"{self.storage.uri_of(self._path(number))}: does not follow the entry before "
                    "it; the history was altered"
                )
            previous = content_sha256(data)
            yield entry

    def _entry(self, number: int) -> Entry | None:
        path = self._path(number)
        return None if self.storage.stat(path) is None else self._parsed(path)

    def _parsed(self, path: str) -> Entry:
        return self._parse(self._read(path), self.storage.uri_of(path))

    def _parse(self, data: bytes, source: str) -> Entry:
        try:
            raw = json.loads(data)
        except ValueError:
            raise DataError(
                f"{source}: not JSON; it was altered or torn. Restore it from the bucket's "
                f"versions; {CURRENT_FILE} is a copy of the newest file under history"
            ) from None
        return validated(self._form, raw, source, DataError)

    def _read(self, path: str) -> bytes:
        return self.storage.read_bytes(path)

    def _path(self, number: int) -> str:
        return f"{self.folder}/history/{number:08d}.json"


def _bytes(entry: Link) -> bytes:
    return f"{json.dumps(entry.model_dump(mode='json'), indent=2, sort_keys=True)}\n".encode()
