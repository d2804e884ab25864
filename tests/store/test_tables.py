from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import content_sha256
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import TableRef, parquet_table, read_table, table_bytes, write_table

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("mask", pa.uint32(), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("note", pa.string(), nullable=True),
    ]
)


def drinks(count: int) -> pa.Table:
    rows = [
        {"id": f"{i:032x}", "mask": i % 256, "scores": [i / 3, 0.5], "note": "beer " * (i % 9)}
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_a_table_comes_back_as_it_was(storage: Storage) -> None:
    ref = write_table(storage, "t/drinks.parquet", drinks(100), SCHEMA)
    assert (ref.path, ref.rows) == ("t/drinks.parquet", 100)
    assert ref.sha256 == content_sha256(storage.read_bytes(ref.path))
    assert read_table(storage, ref).equals(drinks(100))
    assert read_table(storage, ref).schema.equals(SCHEMA)


def test_an_empty_table_keeps_its_columns(storage: Storage) -> None:
    ref = write_table(storage, "t", drinks(0), SCHEMA)
    assert ref.rows == 0
    assert read_table(storage, ref).schema.equals(SCHEMA)


def test_the_same_rows_are_the_same_bytes_in_another_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from tests.store.test_tables import *;"
        "print(content_sha256(table_bytes(drinks(5000), SCHEMA)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[2])],
        env={**os.environ, "PYTHONHASHSEED": "9"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == content_sha256(table_bytes(drinks(5000), SCHEMA))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4000))
def test_the_same_rows_are_the_same_bytes_however_they_are_chunked(size: int) -> None:
    whole = drinks(4000)
    chunks = pa.concat_tables([whole.slice(i, size) for i in range(0, 4000, size)])
    assert table_bytes(chunks, SCHEMA) == table_bytes(whole, SCHEMA)


def test_other_rows_or_another_order_are_other_bytes() -> None:
    whole = drinks(10)
    assert table_bytes(whole.take(list(range(9, -1, -1))), SCHEMA) != table_bytes(whole, SCHEMA)
    assert table_bytes(drinks(9), SCHEMA) != table_bytes(whole, SCHEMA)


def test_columns_are_put_in_the_schemas_order_and_width() -> None:
    mixed = drinks(3).select(["note", "scores", "mask", "id"])
    wide = mixed.set_column(2, "mask", mixed.column("mask").cast(pa.int64()))
    assert table_bytes(wide, SCHEMA) == table_bytes(drinks(3), SCHEMA)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (drinks(2).drop_columns(["mask"]), "do not fit .*mask"),
        (drinks(2).set_column(1, "mask", pa.array([-1, 2])), "do not fit"),
        (drinks(2).set_column(1, "mask", pa.array(["beer", "wine"])), "do not fit"),
        (drinks(2).set_column(1, "mask", pa.array([2**32, 1])), "do not fit"),
        (drinks(2).set_column(0, "id", pa.array(["a", None])), "allows none: id"),
    ],
)
def test_rows_that_do_not_fit_are_refused(table: pa.Table, message: str, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    with pytest.raises(DataError, match=message):
        write_table(storage, "t", table, SCHEMA)
    assert storage.list("") == []


def test_a_torn_table_is_named(storage: Storage) -> None:
    ref = write_table(storage, "t/drinks.parquet", drinks(100), SCHEMA)
    whole = storage.read_bytes(ref.path)
    for torn in (whole[:-10], whole[:50], b"", whole[:99] + b"?" + whole[100:]):
        storage.write_bytes(ref.path, torn)
        with pytest.raises(DataError, match=r"t/drinks\.parquet: torn or altered .*delete it"):
            read_table(storage, ref)


def test_a_missing_table_is_named(storage: Storage) -> None:
    with pytest.raises(DataError, match="gone.parquet: no such"):
        read_table(storage, TableRef(path="t/gone.parquet", rows=1, sha256="0" * 64))


@pytest.mark.parametrize("data", [b"", b"beer", table_bytes(drinks(9), SCHEMA)[:-5]])
def test_bytes_that_are_no_table_are_named(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^drinks: not a readable Parquet file \(.+\)$"):
        parquet_table(data, "drinks")
