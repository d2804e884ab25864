"""Which model is current, and every choice that ever made one current.

::

    models/NAME/history/00000001.json   one entry a promotion or rollback, written once
    models/NAME/current.json            a copy of the newest entry, which readers follow

How the two hold together under races and crashes is ``guarded_history``'s business; here is what
an entry says, and what follows from a history of them.
"""

from __future__ import annotations

from typing import Literal

from cosalign.domain.errors import DataError
from cosalign.domain.validation import StrictModel
from cosalign.store.guarded_history import GuardedHistory, Link
from cosalign.store.storage import GenerationMismatch, Storage


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


class Entry(Choice, Link):
    """A choice as it was recorded."""


class ModelPointer(GuardedHistory[Entry]):
    """The pointer of one name, and its history.

    Args:
        storage: The storage root.
        name: The name that models are promoted under.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        super().__init__(storage, f"models/{name}", Entry, lambda: _moved(name))
        self.name = name

    def record(self, choice: Choice, expected: int) -> Entry:
        """Records a choice and swings the pointer to it.

        Args:
            choice: What was chosen.
            expected: Number of the entry that was current when the choice was made; 0 for none.

        Raises:
            GenerationMismatch: Another writer chose meanwhile; look again.
        """
        return self.append(lambda link: Entry(**choice.model_dump(), **link.model_dump()), expected)


def _moved(name: str) -> GenerationMismatch:
    return GenerationMismatch(
        f"the current model of {name!r} changed meanwhile: another promotion or rollback came "
        "first; look with `cosalign models`, then try again"
    )


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
