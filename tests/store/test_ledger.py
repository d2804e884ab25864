from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from tests.store.ledger_rows import drinks, key, parts, row, texts

from cosalign.domain.errors import DataError
from cosalign.store.ledger import LedgerStats
from cosalign.store.storage import Storage, open_storage


def test_an_empty_ledger_misses_everything(storage: Storage) -> None:
    ledger = drinks(storage)
    assert ledger.missing([key(1), key(2)]) == [key(1), key(2)]
    assert ledger.missing([]) == []
    assert ledger.read([]).num_rows == 0
    assert ledger.stats() == LedgerStats(0, 0, 0, 0, 0, 0)
    assert ledger.verify() == []


def test_what_is_missing_is_the_set_difference_in_the_order_asked(storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(3), row(1)])
    ledger.append([row(5)])
    asked = [key(n) for n in (9, 5, 2, 1, 2, 9, 4)]
    assert ledger.missing(asked) == [key(9), key(2), key(4)]


def test_rows_are_there_for_every_reader_when_append_returns(storage: Storage) -> None:
    drinks(storage).append([row(1, "lager")])
    assert texts(drinks(open_storage(storage.uri)), [1]) == ["lager"]


def test_appending_nothing_makes_no_part(storage: Storage) -> None:
    drinks(storage).append([])
    assert storage.list("") == []


def test_row_i_of_a_read_is_key_i_and_keys_may_repeat(storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(n, f"beer {n}") for n in (1, 2, 3)])
    ledger.append([row(n, f"beer {n}") for n in (4, 5)])
    assert texts(ledger, [5, 1, 4, 1, 1, 3]) == [f"beer {n}" for n in (5, 1, 4, 1, 1, 3)]


def test_a_read_keeps_the_schema(storage: Storage) -> None:
    from cosalign.domain.schemas import RESPONSE_LEDGER

    ledger = drinks(storage)
    ledger.append([row(1)])
    assert ledger.read([key(1)]).schema.equals(RESPONSE_LEDGER)
    assert ledger.read([key(1)]).to_pylist() == [row(1)]


def test_reading_what_is_not_stored_is_refused_with_its_key(storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(1)])
    with pytest.raises(DataError, match=f"2 rows are not stored, among them {key(7).hex()}"):
        ledger.read([key(1), key(7), key(8)])


def test_of_two_parts_with_one_key_the_first_counts(storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(1, "paid first")])
    ledger.append([row(1, "paid again"), row(2)])
    assert texts(ledger, [1]) == ["paid first"]
    assert ledger.stats().rows == 3
    assert ledger.stats().keys == 2


def test_of_two_rows_with_one_key_in_a_part_the_first_counts(storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(1, "first"), row(1, "second")])
    assert texts(ledger, [1]) == ["first"]


def test_a_failure_is_read_and_asked_for_again(storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(1, "", failure="timed out"), row(2)])
    assert ledger.missing([key(1), key(2)]) == [key(1)]
    assert ledger.read([key(1)]).column("failure").to_pylist() == ["timed out"]
    assert (ledger.stats().keys, ledger.stats().failures) == (1, 1)


@pytest.mark.parametrize("failure_first", [True, False])
def test_a_success_counts_over_a_failure_before_or_after_it(
    failure_first: bool, storage: Storage
) -> None:
    ledger = drinks(storage)
    rows = [row(1, "", failure="timed out"), row(1, "stout")]
    for one in rows if failure_first else rows[::-1]:
        ledger.append([one])
    assert ledger.missing([key(1)]) == []
    assert texts(ledger, [1]) == ["stout"]
    assert (ledger.stats().keys, ledger.stats().failures) == (1, 0)


def test_of_two_failures_the_first_counts(storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(1, "", failure="first")])
    ledger.append([row(1, "", failure="second")])
    assert ledger.read([key(1)]).column("failure").to_pylist() == ["first"]


def test_erased_rows_are_not_stored(storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(1), row(2), row(3)])
    assert ledger.erase([key(1), key(3), key(9), key(1)]) == 2
    assert ledger.missing([key(n) for n in (1, 2, 3)]) == [key(1), key(3)]
    with pytest.raises(DataError, match="were they erased"):
        ledger.read([key(1)])
    assert (ledger.stats().keys, ledger.stats().rows, ledger.stats().erased) == (1, 1, 2)


def test_erasing_what_is_not_stored_does_nothing(storage: Storage) -> None:
    ledger = drinks(storage)
    assert ledger.erase([key(1)]) == 0
    assert storage.list("") == []


def test_an_erased_row_may_be_made_anew_and_erased_again(storage: Storage) -> None:
    ledger = drinks(storage)
    for turn in range(3):
        ledger.append([row(1, f"turn {turn}")])
        assert texts(ledger, [1]) == [f"turn {turn}"]
        assert ledger.stats().erased == 0
        assert ledger.erase([key(1)]) == 1
        assert ledger.missing([key(1)]) == [key(1)]


def test_erasure_reaches_every_duplicate(storage: Storage) -> None:
    ledger = drinks(storage)
    for text in ("one", "two", "three"):
        ledger.append([row(1, text), row(2)])
    assert ledger.erase([key(1)]) == 1
    assert ledger.missing([key(1)]) == [key(1)]
    assert ledger.stats().rows == 3


@pytest.mark.parametrize("torn", ["short", "empty", "foreign"])
def test_a_torn_part_is_named_with_what_to_do(torn: str, storage: Storage) -> None:
    ledger = drinks(storage)
    ledger.append([row(1)])
    ledger.append([row(2)])
    path = parts(storage)[1]
    data = {"short": storage.read_bytes(path)[:-9], "empty": b"", "foreign": b"PAR1 beer PAR1"}
    storage.write_bytes(path, data[torn])
    for attempt in (ledger.stats, ledger.compact, lambda: ledger.missing([key(1)])):
        with pytest.raises(DataError, match=rf"{path}: this part .* is torn; delete the file"):
            attempt()
    assert path in ledger.verify()
    storage.delete(path)
    assert ledger.missing([key(1), key(2)]) == [key(2)]
    assert ledger.verify() == []


def test_a_part_with_other_columns_is_named(storage: Storage) -> None:
    import pyarrow as pa

    from cosalign.domain.schemas import RESPONSE_LEDGER, VERDICT_LEDGER
    from cosalign.store.tables import table_bytes

    ledger = drinks(storage)
    ledger.append([row(1)])
    at = RESPONSE_LEDGER.get_field_index("tokens")
    wide = RESPONSE_LEDGER.set(at, pa.field("tokens", pa.int64(), nullable=False))
    folder = "ledgers/responses/parts"
    other, wider = f"{folder}/9-other.parquet", f"{folder}/9-wider.parquet"
    storage.write_bytes(other, table_bytes(VERDICT_LEDGER.empty_table(), VERDICT_LEDGER))
    storage.write_bytes(wider, table_bytes(wide.empty_table(), wide))
    assert ledger.verify() == [other, wider]


def write_rows(root: str, first: int) -> None:
    ledger = drinks(open_storage(root))
    for n in range(first, first + 20):
        ledger.append([row(n % 50, f"beer {n % 50}")])


def test_writers_do_not_wait_for_one_another(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    firsts = (0, 15, 30)
    writers = [context.Process(target=write_rows, args=(str(tmp_path), n)) for n in firsts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    ledger = drinks(open_storage(str(tmp_path)))
    assert ledger.stats().parts == ledger.stats().rows == 60
    assert texts(ledger, list(range(50))) == [f"beer {n}" for n in range(50)]


def test_two_ledgers_in_one_storage_see_only_their_own(storage: Storage) -> None:
    from cosalign.domain.schemas import VERDICT_LEDGER
    from cosalign.store.ledger import Ledger

    drinks(storage).append([row(1)])
    assert Ledger(storage, "verdicts", VERDICT_LEDGER).missing([key(1)]) == [key(1)]
