"""Which model is current: a pointer that moves under a guard, and a history that forgets nothing.

::

    models/NAME/history/00000001.json   one entry a promotion or rollback, written once
    models/NAME/current.json            a copy of the newest entry, which readers follow

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
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.validation import StrictModel, validated
from cosalign.store.storage import GenerationMismatch, Storage

CURRENT_FILE = "current.json"
_SWINGS = 100
"""Attempts to swing; each failed one means that another writer got further."""


class GateResult(StrictModel):
    """What the gate had said of a model; ``codes`` are those of failed checks, as RULE:CODE."""

    passed: bool
    uri: str
    sha256: str
    codes: tuple[str, ...] = ()


class Choice(StrictModel):
    """Which model, chosen by whom and why.

    Attributes:
        action: ``promote``, or ``rollback`` to an earlier entry.
        uri: Where the model lies.
        digest: Its digest, 64 hex digits.
        by: Who chose it.
        at: When, ISO 8601 in UTC.
        reason: Why, in their words.
        override: Why it was chosen although the gate was against it; ``None`` where it was not.
        target: The entry that a rollback goes back to.
        gate: The gate's result; ``None`` where the model never stood before it.
    """

    action: Literal["promote", "rollback"]
    uri: str
    digest: str
    by: str
    at: str
    reason: str | None = None
    override: str | None = None
    target: int | None = None
    gate: GateResult | None = None


class Entry(Choice):
    """A choice as it was recorded.

    Attributes:
        number: Its place in the history, from 1.
        nonce: Random, so that a writer knows its own entry again.
        previous: Digest of the entry before; ``None`` for the first.
    """

    number: int
    nonce: str
    previous: str | None


class ModelPointer:
    """The pointer of one name, and its history.

    Args:
        storage: The storage root.
        name: The name that models are promoted under.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.name = name
        self.folder = f"models/{name}"

    def current(self) -> Entry | None:
        """The current entry, as readers of the pointer see it; ``None`` where none was promoted."""
        found = self._pointed()
        return found[0] if found else None

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
            raise DataError(
                f"{self.storage.uri_of(self.folder)}: {CURRENT_FILE} is not entry {current.number} "
                "of the history; one of them was altered"
            )
        return found

    def append(self, choice: Choice, expected: int) -> Entry:
        """Records a choice and swings the pointer to it.

        Args:
            choice: What was chosen.
            expected: Number of the entry that was current when the choice was made; 0 for none.

        Raises:
            GenerationMismatch: Another writer chose meanwhile; look again.
        """
        head = self.settle()
        if (head.number if head else 0) != expected:
            raise self.moved()
        previous = content_sha256(self._read(self._path(expected))) if head else None
        entry = Entry(
            **choice.model_dump(), number=expected + 1, nonce=secrets.token_hex(8),
            previous=previous,
        )  # fmt: skip
        self._create(entry)
        self._swing(entry)
        return entry

    def settle(self) -> Entry | None:
        """Swings the pointer to the newest entry, where a writer died before it did."""
        head = self.head()
        if head is not None:
            self._swing(head)
        return head

    def moved(self) -> GenerationMismatch:
        """What is raised where the current model is not the one that a choice was made against."""
        return GenerationMismatch(
            f"the current model of {self.name!r} changed meanwhile: another promotion or rollback "
            "came first; look with `cosalign models`, then try again"
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
            entry = _parse(data, self.storage.uri_of(self._path(number)))
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
        return _parse(self._read(path), self.storage.uri_of(path))

    def _read(self, path: str) -> bytes:
        return self.storage.read_bytes(path)

    def _path(self, number: int) -> str:
        return f"{self.folder}/history/{number:08d}.json"


def first_promotion(history: list[Entry], digest: str) -> Entry | None:
    """The entry that first made a model current; ``None`` where none did."""
    return next((entry for entry in history if entry.digest == digest), None)


def rival_of(history: list[Entry], digest: str) -> Entry | None:
    """The model that a candidate has to be held against: the current one.

    For a model that was promoted before, it is the one that it replaced then. So the same model
    evaluated again finds the same rival, also after it was promoted, or rolled back from.
    """
    first = first_promotion(history, digest)
    earlier = history if first is None else history[: first.number - 1]
    return earlier[-1] if earlier else None


def rollback_target(history: list[Entry], number: int | None = None) -> Entry:
    """The entry that a rollback goes back to.

    Args:
        history: All entries.
        number: Which; where ``None``, the one before the current model was first promoted, so that
            one rollback after another walks back through the models.

    Raises:
        DataError: There is no such entry.
    """
    if not history:
        raise DataError("nothing was promoted yet, so there is nothing to roll back from")
    if number is not None:
        if not 1 <= number <= len(history):
            raise DataError(f"--to {number}: the history has entries 1 to {len(history)}")
        return history[number - 1]
    current = first_promotion(history, history[-1].digest) or history[-1]
    if current.number == 1:
        raise DataError(
            f"the current model, {history[-1].digest[:12]}, is the first that was promoted; name "
            "another entry with --to"
        )
    return history[current.number - 2]


def _bytes(entry: Entry) -> bytes:
    return f"{json.dumps(entry.model_dump(mode='json'), indent=2, sort_keys=True)}\n".encode()


def _parse(data: bytes, source: str) -> Entry:
    try:
        raw = json.loads(data)
    except ValueError:
        raise DataError(
            f"{source}: not JSON; it was altered or torn. Restore it from the bucket's versions; "
            f"{CURRENT_FILE} is a copy of the newest file under history"
        ) from None
    return validated(Entry, raw, source, DataError)
