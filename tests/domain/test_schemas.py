from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cosalign.domain import schemas
from cosalign.domain.errors import DataError
from cosalign.store.storage import open_storage
from cosalign.store.tables import read_table, write_table

ALL = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}
REQUIRED = [(name, f.name) for name, schema in ALL.items() for f in schema if not f.nullable]
NULLABLE = [(name, f.name) for name, schema in ALL.items() for f in schema if f.nullable]


def sample(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [sample(kind.value_type)]
    if pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return b"k" * 16
    if pa.types.is_string(kind):
        return "x"
    return True if pa.types.is_boolean(kind) else 1


def one_row(schema: pa.Schema, **changes: Any) -> pa.Table:
    row = {f.name: sample(f.type) for f in schema} | changes
    loose = pa.schema([f.with_nullable(True) for f in schema])
    return pa.Table.from_pylist([row], schema=loose)


def test_every_table_of_the_data_flow_has_a_schema() -> None:
    assert set(ALL) >= {
        "PROMPTS",
        "CONFIGS",
        "DRAWS",
        "RESPONSES",
        "VERDICTS",
        "PAIRS",
        "SFT_RECORDS",
        "DPO_RECORDS",
        "EVALUATION",
        "RESPONSE_LEDGER",
        "VERDICT_LEDGER",
    }


@pytest.mark.parametrize(("name", "column"), REQUIRED)
def test_a_required_column_refuses_null(name: str, column: str, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    table = one_row(ALL[name], **{column: None})
    with pytest.raises(DataError, match=f"null in a column that allows none: {column}"):
        write_table(storage, "t.parquet", table, ALL[name])
    assert storage.stat("t.parquet") is None


@pytest.mark.parametrize(("name", "column"), NULLABLE)
def test_a_nullable_column_keeps_null(name: str, column: str, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    ref = write_table(storage, "t.parquet", one_row(ALL[name], **{column: None}), ALL[name])
    assert read_table(storage, ref).column(column).to_pylist() == [None]


def test_masks_are_wide_enough_for_32_categories() -> None:
    for name, column in [
        ("PROMPTS", "risk_mask"),
        ("PROMPTS", "known_mask"),
        ("CONFIGS", "allowed_mask"),
        ("DRAWS", "allowed_mask"),
        ("VERDICTS", "risk_mask"),
        ("VERDICTS", "known_mask"),
    ]:
        assert ALL[name].field(column).type == pa.uint32(), (name, column)


def test_unknown_is_a_value_where_something_is_judged() -> None:
    assert {("VERDICTS", "addressed"), ("VERDICTS", "helpfulness")} <= set(NULLABLE)
    assert {("EVALUATION", "h"), ("EVALUATION", "s")} <= set(NULLABLE)


def test_errors_are_integers() -> None:
    assert schemas.PAIRS.field("chosen_error").type == pa.int32()
    assert schemas.PAIRS.field("rejected_error").type == pa.int32()


def test_the_taxonomy_travels_with_the_table(tmp_path: Path) -> None:
    schema = schemas.with_metadata(schemas.DRAWS, "abc")
    storage = open_storage(str(tmp_path))
    ref = write_table(storage, "t.parquet", one_row(schema), schema)
    found = read_table(storage, ref).schema.metadata
    assert found[b"cosalign.taxonomy"] == b"abc"
    assert found[b"cosalign.schema"] == schemas.SCHEMA_VERSION.encode()
