"""Parquet tables with digests: deterministic bytes out, verified bytes in.

The same rows give the same bytes (one writer version, no times, no random names), so that "the
tables are byte-identical" is a statement about digests. A table is verified against its digest when
it is read, so a torn or foreign file is named and never half-believed.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.validation import StrictModel

if TYPE_CHECKING:
    import pyarrow as pa

    from cosalign.store.storage import Storage

ROW_GROUP = 1 << 20


class TableRef(StrictModel):
    """Where a table lies, how many rows it has, and the SHA-256 of its bytes."""

    path: str
    rows: int
    sha256: str


def table_bytes(table: pa.Table, schema: pa.Schema) -> bytes:
    """A table as Parquet.

    Raises:
        DataError: A column is missing, of another type, or null where null is not allowed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        cast = pa.table({f.name: table.column(f.name).cast(f.type) for f in schema}, schema=schema)
    except (KeyError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
        raise DataError(f"rows do not fit their table's schema: {problem}") from None
    nulls = [f.name for f in schema if not f.nullable and cast.column(f.name).null_count]
    if nulls:
        raise DataError(f"null in a column that allows none: {', '.join(nulls)}")
    sink = pa.BufferOutputStream()
    pq.write_table(cast, sink, compression="zstd", row_group_size=ROW_GROUP)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def write_table(storage: Storage, path: str, table: pa.Table, schema: pa.Schema) -> TableRef:
    """Writes a table and gives its reference."""
    data = table_bytes(table, schema)
    storage.write_bytes(path, data)
    return TableRef(path=path, rows=table.num_rows, sha256=content_sha256(data))


def read_table(storage: Storage, ref: TableRef) -> pa.Table:
    """Reads a table and checks it against its reference.

    Raises:
        DataError: The file is missing, torn, another one than the manifest names, or written by a
            newer release.
    """
    from cosalign.domain.schema_upgrades import upgraded, version_of

    data = storage.read_bytes(ref.path)
    check_digest(storage, ref, content_sha256(data))
    table = parquet_table(data, storage.uri_of(ref.path))
    version = version_of(table.schema, storage.uri_of(ref.path))
    return upgraded("table", PurePosixPath(ref.path).stem, table, version)


def check_digest(storage: Storage, ref: TableRef, digest: str) -> None:
    """Refuses a table whose content is not the one that its reference names.

    Raises:
        DataError: It is torn, or another one.
    """
    if digest != ref.sha256:
        raise DataError(
            f"{storage.uri_of(ref.path)}: torn or altered (digest {digest[:12]}, its manifest says "
            f"{ref.sha256[:12]}); delete it and its manifest, and run again"
        )


def parquet_table(data: bytes, source: str) -> pa.Table:
    """Parses Parquet bytes; ``source`` names them in messages."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not read_table: its threaded scan may abort a process that ends soon after.
        return pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowInvalid, OSError) as problem:
        first = str(problem).splitlines()[0]
        raise DataError(f"{source}: not a readable Parquet file ({first})") from None
