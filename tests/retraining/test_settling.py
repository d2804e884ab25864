"""Configs rest for a while before they are acted on, by the storage's clock alone."""

from __future__ import annotations

import pytest

from cosalign.domain.errors import DataError
from cosalign.retraining.settling import Seen, SettleRules, see
from cosalign.store.storage import Storage
from cosalign.store.storage_clock import storage_time

RULES = SettleRules(seconds=100.0, limit_seconds=300.0)


def now_of(storage: Storage) -> float:
    return storage_time(storage, "clock")


def test_a_set_is_the_same_since_it_was_first_seen(storage: Storage) -> None:
    first = see(storage, "main", "a", now_of(storage), RULES)
    again = see(storage, "main", "a", now_of(storage), RULES)
    assert first == again
    assert first.left(first.since, RULES) == 100.0
    assert first.left(first.since + 100, RULES) <= 0


def test_a_change_begins_the_rest_anew_and_not_the_unrest(storage: Storage) -> None:
    first = see(storage, "main", "a", now_of(storage), RULES)
    then = see(storage, "main", "b", now_of(storage), RULES)
    last = see(storage, "main", "c", now_of(storage), RULES)
    assert first.since <= then.since <= last.since
    assert last.unrest == first.since
    # It may change on and on, and is acted on after the limit all the same.
    assert last.left(last.unrest + 300, RULES) <= 0


def test_what_comes_after_a_rest_is_a_new_unrest(storage: Storage) -> None:
    first = see(storage, "main", "a", now_of(storage), RULES)
    later = see(storage, "main", "b", first.since + 100, RULES)
    assert later.unrest == later.since


def test_nothing_has_to_rest_where_no_time_is_set() -> None:
    assert Seen("a", since=50.0, unrest=50.0).left(49.0, SettleRules(0.0, 0.0)) == 0.0


def test_a_torn_note_is_named(storage: Storage) -> None:
    storage.write_bytes("reconcile/main/seen.json", b"{")
    with pytest.raises(DataError, match="delete it"):
        see(storage, "main", "a", now_of(storage), RULES)
