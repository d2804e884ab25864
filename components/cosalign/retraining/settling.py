"""Configs that land within a while are dealt with together.

A region's pull request rarely comes alone, and each run has its fixed price. So nothing is started
before the set of configs has been the same for the settling time; a set that never rests is dealt
with after a limit all the same. ``reconcile/NAME/seen.json`` names the set that was seen last. It
is written when the set changes and at no other time, so the object's own time says since when the
set has been the same, by the storage's clock, whoever asks.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

from cosalign.domain.errors import DataError
from cosalign.store.storage import GenerationMismatch, Storage


@dataclass(frozen=True)
class SettleRules:
    """How long is waited.

    Attributes:
        seconds: For the set to rest.
        limit_seconds: At most, counted from when the first unrest began.
    """

    seconds: float = 300.0
    limit_seconds: float = 3600.0


@dataclass(frozen=True)
class Seen:
    """The set that was seen last.

    Attributes:
        digest: Which.
        since: Since when it is the same, by the storage's clock.
        unrest: When the first change came that was not dealt with yet.
    """

    digest: str
    since: float
    unrest: float

    def left(self, now: float, rules: SettleRules) -> float:
        """Seconds until it may be acted on; none left where it is zero or less."""
        # What was noted by this very look is no older than the look itself.
        rest = min(self.since, now) + rules.seconds
        return min(rest, min(self.unrest, now) + rules.limit_seconds) - now


def see(storage: Storage, name: str, digest: str, now: float, rules: SettleRules) -> Seen:
    """Notes which set is there, and says since when.

    Args:
        storage: The storage root.
        name: As of the model that is reconciled.
        digest: The set that is there now.
        now: The storage's time.
        rules: How long a set has to rest; what changed after a rest is a new unrest.

    Raises:
        DataError: The note is torn.
    """
    path = f"reconcile/{name}/seen.json"
    while True:
        stat = storage.stat(path)
        if stat is None:
            _write(storage, path, digest, None, 0)
            continue
        before, unrest = _parsed(storage, path)
        if before != digest:
            rested = now - stat.updated >= rules.seconds
            begun = None if rested else (unrest or stat.updated)
            _write(storage, path, digest, begun, stat.generation)
            continue
        # What was read may be newer than what was asked for; then once more.
        again = storage.stat(path)
        if again is not None and again.generation == stat.generation:
            return Seen(digest, stat.updated, unrest or stat.updated)


def _write(storage: Storage, path: str, digest: str, unrest: float | None, generation: int) -> None:
    body = json.dumps({"digest": digest, "unrest": unrest}).encode()
    # Who loses the race reads what the winner saw, which may be this very set.
    with suppress(GenerationMismatch):
        storage.write_bytes(path, body, if_generation=generation)


def _parsed(storage: Storage, path: str) -> tuple[str, float | None]:
    try:
        raw = json.loads(storage.read_bytes(path))
        return str(raw["digest"]), None if raw["unrest"] is None else float(raw["unrest"])
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{storage.uri_of(path)}: torn; delete it, configs are taken for new then and settle "
            "once more"
        ) from None
