"""Law 3 on a ledger of its own: what is stored is never paid for again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosalign.domain.errors import DataError, EngineUnavailable
from cosalign.inference.paid_work import PaidWork, Row, complete
from cosalign.store.ledger import Ledger
from cosalign.store.storage import open_storage

SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("value", pa.int64(), nullable=False),
        pa.field("failure", pa.string()),
    ]
)


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def row(asked: bytes, failure: str | None = None) -> Row:
    return {"key": asked, "value": int.from_bytes(asked, "big") ** 2, "failure": failure}


class Till:
    """Pays for keys, and keeps account of which; fails after so many, or for some keys."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.keys = keys
        self.calls = 0
        self.paid: list[bytes] = []
        self.breaks_after: int | None = None
        self.unpayable: set[bytes] = set()

    def pay(self, positions: list[int]) -> Iterator[Row]:
        self.calls += 1
        return self._rows(positions)

    def _rows(self, positions: list[int]) -> Iterator[Row]:
        for position in reversed(positions):
            if len(self.paid) == self.breaks_after:
                raise EngineUnavailable("gone")
            asked = self.keys[position]
            self.paid.append(asked)
            yield row(asked, "too_long" if asked in self.unpayable else None)


def run(ledger: Ledger, till: Till, flush_rows: int = 3) -> PaidWork:
    return complete(ledger, till.keys, till.pay, work="sums", flush_rows=flush_rows)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_storage(str(tmp_path)), "sums", SCHEMA)


KEYS = [key(i) for i in range(10)]


def values(done: PaidWork) -> list[Any]:
    found: list[Any] = done.rows.column("value").to_pylist()
    return found


def test_rows_come_in_the_order_of_the_keys(ledger: Ledger) -> None:
    done = run(ledger, Till(KEYS))
    assert values(done) == [i**2 for i in range(10)]
    assert done.made == 10


def test_nothing_missing_calls_nobody(ledger: Ledger) -> None:
    run(ledger, Till(KEYS))
    till = Till(KEYS[::-1])
    done = run(ledger, till)
    assert (till.calls, done.made) == (0, 0)
    assert values(done) == [i**2 for i in range(9, -1, -1)]


def test_no_keys_call_nobody(ledger: Ledger) -> None:
    till = Till([])
    assert (run(ledger, till).rows.num_rows, till.calls) == (0, 0)


def test_a_key_asked_for_twice_is_paid_once(ledger: Ledger) -> None:
    till = Till([*KEYS, *KEYS[:4], KEYS[0]])
    done = run(ledger, till)
    assert sorted(till.paid) == sorted(KEYS)
    assert done.made == 10
    assert values(done) == [*(i**2 for i in range(10)), 0, 1, 4, 9, 0]


def test_only_what_is_missing_is_paid(ledger: Ledger) -> None:
    run(ledger, Till(KEYS[2:6]))
    till = Till(KEYS)
    assert run(ledger, till).made == 6
    assert set(till.paid) == {*KEYS[:2], *KEYS[6:]}


@pytest.mark.parametrize("paid", [0, 1, 2, 3, 5, 9])
def test_what_was_paid_before_a_failure_is_kept(ledger: Ledger, paid: int) -> None:
    broken = Till(KEYS)
    broken.breaks_after = paid
    with pytest.raises(EngineUnavailable):
        run(ledger, broken)
    assert ledger.stats().keys == len(broken.paid) == paid
    again = Till(KEYS)
    assert run(ledger, again).made == 10 - paid
    assert set(again.paid).isdisjoint(broken.paid)


@pytest.mark.parametrize(("flush_rows", "parts"), [(1, 10), (3, 4), (5, 2), (10, 1), (99, 1)])
def test_rows_are_stored_as_they_come(ledger: Ledger, flush_rows: int, parts: int) -> None:
    run(ledger, Till(KEYS), flush_rows)
    assert ledger.stats().parts == parts


def test_rows_are_durable_before_the_next_batch_is_paid(ledger: Ledger) -> None:
    stored: list[int] = []

    def pay(positions: list[int]) -> Iterator[Row]:
        for position in positions:
            stored.append(ledger.stats().keys)
            yield row(KEYS[position])

    complete(ledger, KEYS, pay, work="sums", flush_rows=4)
    assert stored == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_a_failed_row_is_given_and_asked_for_again(ledger: Ledger) -> None:
    first = Till(KEYS)
    first.unpayable = {KEYS[3]}
    done = run(ledger, first)
    assert done.rows.column("failure").to_pylist() == [None] * 3 + ["too_long"] + [None] * 6
    second = Till(KEYS)
    mended = run(ledger, second)
    assert second.paid == [KEYS[3]]
    assert mended.made == 1
    assert mended.rows.column("failure").null_count == 10


def test_a_payer_that_forgets_a_row_is_found_out(ledger: Ledger) -> None:
    def forgetful(positions: list[int]) -> Iterator[Row]:
        return (row(KEYS[position]) for position in positions[1:])

    with pytest.raises(DataError, match="1 rows are not stored"):
        complete(ledger, KEYS, forgetful, work="sums", flush_rows=3)


@given(st.lists(st.integers(0, 20), max_size=30), st.lists(st.integers(0, 20), max_size=30))
@settings(max_examples=20, deadline=None)
def test_any_two_runs_pay_each_key_once(
    tmp_path_factory: pytest.TempPathFactory, one: list[int], other: list[int]
) -> None:
    ledger = Ledger(open_storage(str(tmp_path_factory.mktemp("ledger"))), "sums", SCHEMA)
    tills = [Till([key(n) for n in numbers]) for numbers in (one, other)]
    rows = [values(run(ledger, till)) for till in tills]
    assert rows == [[n**2 for n in one], [n**2 for n in other]]
    paid = [*tills[0].paid, *tills[1].paid]
    assert sorted(paid) == [key(n) for n in sorted({*one, *other})]


def test_rows_that_come_slowly_are_stored_before_a_batch_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cosalign.inference.paid_work.FLUSH_SECONDS", 0.0)
    ledger = Ledger(open_storage(str(tmp_path)), "sums", SCHEMA)
    keys = [key(i) for i in range(4)]
    stored: list[int] = []

    def pay(positions: list[int]) -> Iterator[Row]:
        for position in positions:
            stored.append(len(keys) - len(ledger.missing(keys)))
            yield row(keys[position])

    complete(ledger, keys, pay, work="sums", flush_rows=1000)
    assert stored == [0, 1, 2, 3]
