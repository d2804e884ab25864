"""Tables too large to hold: read as verified files, written as their rows come.

Row groups have the same size however the rows arrive, and each is written as one piece, so that
two writers of the same rows make the same file.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cosalign.domain.errors import DataError
from cosalign.domain.schema_upgrades import current_version, is_upgraded, version_of
from cosalign.store.storage import Storage
from cosalign.store.tables import TableRef, check_digest

ROW_GROUP = 1 << 17


class TableSink:
    """A Parquet file in the making.

    Numbers are stored without a dictionary and all columns under LZ4: writing is the largest part
    of making a table of ids, and this takes less than half the time of the defaults
    (``docs/design/pairing.md``).

    Args:
        file: Gives the file to write; asked when there is something to write, so that rows refused
            before leave no trace.
        schema: Its columns; types of the rows written must be these.
        compression: Zstandard suits text, LZ4 numbers.
        plain: Columns that are hashes: to compress them, or to keep their bounds, is lost time.
        row_group: Rows of a row group; all that is held at once.

    Attributes:
        rows: Rows taken so far.
        seconds: Time spent encoding and writing.
    """

    def __init__(
        self,
        file: Callable[[], Path],
        schema: pa.Schema,
        compression: str = "lz4",
        plain: Sequence[str] = (),
        row_group: int | None = None,
    ) -> None:
        self.rows = 0
        self.seconds = 0.0
        self._file = file
        self._compression = compression
        self._plain = tuple(plain)
        self._row_group = row_group or ROW_GROUP
        self._schema = schema
        self._held: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Takes rows; whole row groups are written."""
        self._held.append(table.select(self._schema.names).cast(self._schema))
        before = self.rows
        self.rows += table.num_rows
        if before // self._row_group < self.rows // self._row_group:
            rows = pa.concat_tables(self._held)
            whole = rows.num_rows - rows.num_rows % self._row_group
            for at in range(0, whole, self._row_group):
                self._write_group(rows.slice(at, self._row_group))
            self._held = [rows.slice(whole)]

    def close(self) -> None:
        """Writes what is held and ends the file."""
        rest = pa.concat_tables([self._schema.empty_table(), *self._held])
        if rest.num_rows or self._writer is None:
            self._write_group(rest)
        if self._writer is not None:
            self._writer.close()

    def _write_group(self, rows: pa.Table) -> None:
        started = time.perf_counter()
        if self._writer is None:
            self._writer = self._opened()
        self._writer.write_table(rows.combine_chunks(), row_group_size=self._row_group)
        self.seconds += time.perf_counter() - started

    def _opened(self) -> pq.ParquetWriter:
        split = "BYTE_STREAM_SPLIT"
        fixed = {pa.int64(): "PLAIN", pa.int32(): split, pa.float32(): split}
        encodings = {f.name: fixed[f.type] for f in self._schema if f.type in fixed}
        names = self._schema.names
        codecs = {n: "none" if n in self._plain else self._compression for n in names}
        return pq.ParquetWriter(
            self._file(),
            self._schema,
            # By name only where it has to be: what lies within a list has another name.
            compression=codecs if self._plain else self._compression,
            use_dictionary=[f.name for f in self._schema if _repeats(f.type)],
            column_encoding=encodings or None,
            write_statistics=[n for n in names if n not in self._plain] if self._plain else True,
        )


def _repeats(kind: pa.DataType) -> bool:
    """Whether values are worth a dictionary: names and repeated ids, not numbers, keys or lists."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain))


@contextmanager
def verified_file(storage: Storage, ref: TableRef) -> Iterator[Path]:
    """A local file with a table's content, for as long as the block lasts.

    Raises:
        DataError: The file is missing, torn, or another one than the manifest names.
    """
    with storage.as_file(ref.path) as path:
        check_digest(storage, ref, _digest(path))
        _require_current(path, storage.uri_of(ref.path))
        yield path


def _require_current(path: Path, source: str) -> None:
    """Refuses a table of a newer version, and one of an older that would have to be upgraded."""
    try:
        schema = pq.ParquetFile(path).schema_arrow
    except (pa.ArrowInvalid, OSError):
        return  # Whoever reads it says so, by what it is to them.
    version = version_of(schema, source)
    if is_upgraded("table", Path(source).stem, version):
        raise DataError(
            f"{source}: was written under schema version {version}, and is read as a file only "
            f"under version {current_version()}; run the step that made it again"
        )


def reference_to(storage: Storage, path: str, rows: int) -> TableRef:
    """The reference of a table that was written as a file."""
    with storage.as_file(path) as file:
        return TableRef(path=path, rows=rows, sha256=_digest(file))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
