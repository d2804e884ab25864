"""Rows of suites from files and from datasets of the hub, as plain records."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from cosalign.domain.errors import DataError
from cosalign.domain.run_config.suites import SuiteSource
from cosalign.store.storage import read_uri

Record = dict[str, Any]


def read_records(source: SuiteSource, fields: Iterable[str]) -> list[Record]:
    """The rows of a source.

    Args:
        source: Where they are.
        fields: Columns that must be there.

    Raises:
        DataError: The source is not there, is no such file, or lacks a column.
        StorageUnavailable: The hub did not answer.
    """
    records = _hub_records(source, source.split) if source.hub else _file_records(source)
    where = f"suite {source.name}"
    if not records:
        raise DataError(f"{where}: holds no rows; correct its source")
    for number, record in enumerate(records, 1):
        for field in fields:
            if field not in record:
                raise DataError(
                    f"{where}, row {number}: has no column {field!r}; it has "
                    f"{', '.join(sorted(map(str, record)))}"
                )
    return records


def prompt_of(record: Record, source: SuiteSource, number: int) -> str:
    """The prompt of a record.

    Raises:
        DataError: It is empty or no text.
    """
    value = record[source.prompt_field]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"suite {source.name}, row {number}: {source.prompt_field} holds no text")
    return value


def _hub_records(source: SuiteSource, split: str) -> list[Record]:
    from cosalign.store.hub_datasets import load_hub_dataset

    return [dict(row) for row in load_hub_dataset(source, source.subset, split)]


def _file_records(source: SuiteSource) -> list[Record]:
    file = source.file or ""
    data = read_uri(file)
    kind = PurePosixPath(file).suffix.lower()
    if kind == ".csv":
        return _csv(data, file)
    if kind == ".parquet":
        return _parquet(data, file)
    return _jsonl(data, file)


def _csv(data: bytes, file: str) -> list[Record]:
    import csv

    try:
        return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise DataError(f"{file}: is no CSV file in UTF-8; save it as one") from None


def _parquet(data: bytes, file: str) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        records: list[Record] = pq.read_table(io.BytesIO(data)).to_pylist()
    except pa.ArrowException:
        raise DataError(f"{file}: is no Parquet file; correct the source") from None
    return records


def _jsonl(data: bytes, file: str) -> list[Record]:
    records: list[Record] = []
    # Not splitlines(): a JSON string may hold U+2028, which is no end of a line in JSONL.
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise DataError(f"{file}, row {number}: each line must be one JSON object")
        records.append(value)
    return records
