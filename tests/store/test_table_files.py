"""Tables too large to hold: bytes that depend on rows alone, and files that are verified."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosalign.domain.errors import DataError
from cosalign.store import table_files
from cosalign.store.storage import Storage, open_storage
from cosalign.store.table_files import TableSink, reference_to, verified_file
from cosalign.store.tables import read_table

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("error", pa.int32(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
    ]
)
ROWS = 230


def rows() -> pa.Table:
    return pa.table(
        {
            "id": pa.array([i * i for i in range(ROWS)]),
            "name": pa.array([f"beer {i % 9}" for i in range(ROWS)]),
            "error": pa.array(list(range(ROWS)), pa.int32()),
            "weight": pa.array([i / 7 for i in range(ROWS)], pa.float32()),
        }
    )


def written(path: Path, sizes: list[int]) -> bytes:
    sink, at = TableSink(lambda: path, SCHEMA), 0
    for size in sizes:
        sink.write(rows().slice(at, size))
        at += size
    sink.write(rows().slice(at))
    sink.close()
    return path.read_bytes()


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 120), max_size=8))
def test_the_bytes_do_not_depend_on_how_rows_arrive(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("sink")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_files, "ROW_GROUP", 50)
        once = written(folder / "once", [])
        assert written(folder / "pieces", sizes) == once
    found = pq.read_table(folder / "once")
    assert found.equals(rows().cast(SCHEMA))
    groups = pq.ParquetFile(folder / "once").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [50] * 4 + [30]


def test_a_table_without_rows_is_a_table(tmp_path: Path) -> None:
    sink = TableSink(lambda: tmp_path / "t.parquet", SCHEMA)
    sink.close()
    assert pq.read_table(tmp_path / "t.parquet").schema.equals(SCHEMA)


def test_nothing_is_opened_before_there_is_something_to_write(tmp_path: Path) -> None:
    TableSink(lambda: tmp_path / "t.parquet", SCHEMA).write(rows())
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_is_a_table_with_a_reference(storage: Storage) -> None:
    with storage.new_file("deep/t.parquet") as file:
        sink = TableSink(lambda: file, SCHEMA)
        sink.write(rows())
        sink.close()
        assert storage.stat("deep/t.parquet") is None
    ref = reference_to(storage, "deep/t.parquet", ROWS)
    assert read_table(storage, ref).equals(rows().cast(SCHEMA))
    with verified_file(storage, ref) as path:
        assert pq.read_table(path).num_rows == ROWS


def test_a_torn_file_is_refused(storage: Storage) -> None:
    with storage.new_file("t.parquet") as file:
        file.write_bytes(b"beer")
    ref = reference_to(storage, "t.parquet", 1)
    storage.write_bytes("t.parquet", b"bee")
    with pytest.raises(DataError, match="torn or altered"), verified_file(storage, ref):
        pass


def test_a_new_file_that_is_given_up_leaves_nothing(storage: Storage) -> None:
    storage.write_bytes("t", b"old")
    with pytest.raises(DataError, match="given up"):
        give_up(storage)
    assert storage.read_bytes("t") == b"old"
    assert [stat.path for stat in storage.list("")] == ["t"]


def give_up(storage: Storage) -> None:
    with storage.new_file("t") as file:
        file.write_bytes(b"new")
        raise DataError("given up")


def test_a_missing_object_is_no_file(storage: Storage) -> None:
    with pytest.raises(DataError, match="no such"), storage.as_file("nowhere"):
        pass
    with pytest.raises(DataError, match="no such"):
        storage.open("nowhere")


def test_a_reader_seeks(storage: Storage) -> None:
    data = bytes(range(256)) * 5000
    storage.write_bytes("t", data)
    with storage.open("t") as file:
        assert file.seek(-8, 2) == len(data) - 8
        assert file.read() == data[-8:]
        file.seek(1000)
        assert file.read(300) == data[1000:1300]
        file.seek(300_000)
        assert file.read(600_000) == data[300_000:900_000]


def test_a_local_file_is_not_copied(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_bytes("t", b"beer")
    with storage.as_file("t") as file:
        assert file == tmp_path / "t"


def test_hashes_are_left_as_they_are_and_all_else_is_compressed(tmp_path: Path) -> None:
    lists = pa.list_(pa.list_(pa.float32()))
    schema = pa.schema(
        [pa.field("id", pa.int64()), pa.field("p", lists), pa.field("x", pa.int64())]
    )
    table = pa.table({"id": [5] * 999, "p": [[[0.5] * 9]] * 999, "x": [7] * 999}, schema=schema)
    found = {}
    for name, plain in (("all", []), ("some", ["x"])):
        path = tmp_path / name
        sink = TableSink(partial(Path, path), schema, "zstd", plain=plain)
        sink.write(table)
        sink.close()
        assert pq.read_table(path).equals(table)
        group = pq.ParquetFile(path).metadata.row_group(0)
        found[name] = [group.column(i).compression for i in range(3)]
        assert [group.column(i).is_stats_set for i in (0, 2)] == [True, name == "all"]
    assert found["all"] == ["ZSTD"] * 3
    assert (found["some"][0], found["some"][2]) == ("ZSTD", "UNCOMPRESSED")
