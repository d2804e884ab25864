"""Reads a Parquet file in the order of prompts, whatever its size and order, in bounded memory.

A file whose prompts ascend already is read as it stands. Any other is cut into ranges of prompts:
rows are scattered over one scratch file a range, and each range is sorted when its turn comes. The
ranges are guessed from a sample; they decide how evenly memory is used and nothing else, so the
order of rows that come out is a function of content. (A partition by hash would be a little
cheaper and would leave the pairs in an order that nobody can use.)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cosalign.domain.errors import DataError
from cosalign.pairing.identifiers import as_ids, in_order

BATCH_ROWS = 1 << 17
RANGE_ROWS = 1 << 21
"""Rows of a range that are held and sorted at once."""
_REPEATED = ("mode",)
"""Columns of few distinct strings, which are read as they are stored."""
_SAMPLES = 64
"""Prompts looked at in each batch to guess the ranges."""


@dataclass(frozen=True)
class TableFile:
    """A Parquet file and those of its columns that are read; ``name`` stands for it in messages."""

    path: Path
    columns: tuple[str, ...]
    name: str

    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        whole = self._open().schema_arrow
        return pa.schema([whole.field(name) for name in self.columns])

    def all_columns(self) -> list[str]:
        """Names of all columns of the file, read or not."""
        names: list[str] = self._open().schema_arrow.names
        return names

    def rows(self) -> int:
        """How many rows there are."""
        count: int = self._open().metadata.num_rows
        return count

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows as they stand."""
        wanted = list(columns or self.columns)
        try:
            for batch in self._open().iter_batches(BATCH_ROWS, columns=wanted):
                yield pa.table(batch).select(wanted)
        except (pa.ArrowInvalid, OSError) as problem:
            raise _unreadable(self.name, problem) from None

    def _open(self) -> pq.ParquetFile:
        repeated = [name for name in _REPEATED if name in self.columns]
        try:
            # Pages are read as they are needed: row groups may be of any size. No memory map: its
            # pages would count as ours.
            return pq.ParquetFile(
                self.path, pre_buffer=False, buffer_size=1 << 20, read_dictionary=repeated
            )
        except (pa.ArrowInvalid, OSError) as problem:
            raise _unreadable(self.name, problem) from None


def in_prompt_order(file: TableFile, scratch: Path) -> Iterator[pa.Table]:
    """The file's rows as tables whose prompts ascend.

    Args:
        file: The file.
        scratch: An existing folder for scratch files.

    Raises:
        DataError: A prompt id is missing or of another type than string or integer.
    """
    sample = _sample_if_unordered(file)
    return file.batches() if sample is None else _sorted_ranges(file, sample, scratch)


def _sample_if_unordered(file: TableFile) -> pa.Array | None:
    """Some prompts of a file whose prompts do not ascend; ``None`` where they do."""
    ordered, last, samples = True, None, []
    for batch in file.batches(["prompt_id"]):
        ids = as_ids("prompt_id", batch["prompt_id"])
        if not len(ids):
            continue
        first = ids[0].as_py()
        ordered = ordered and (last is None or last <= first) and in_order(ids)
        last = ids[-1].as_py()
        samples.append(ids.take(pa.array(np.linspace(0, len(ids) - 1, _SAMPLES).astype(np.int64))))
    return None if ordered else pa.concat_arrays(samples)


def _sorted_ranges(file: TableFile, sample: pa.Array, scratch: Path) -> Iterator[pa.Table]:
    count = -(-file.rows() // RANGE_ROWS)
    ordered = sample.take(pc.array_sort_indices(sample))
    bounds = [ordered[len(ordered) * i // count].as_py() for i in range(1, count)]
    paths = [scratch / f"{file.name}-{i}.arrow" for i in range(count)]
    _scatter(file, bounds, paths)
    for path in paths:
        with pa.OSFile(str(path)) as source:
            rows = pa.ipc.open_stream(source).read_all()
        path.unlink()
        yield from _slices(rows.sort_by("prompt_id"))


def _slices(rows: pa.Table) -> Iterator[pa.Table]:
    for at in range(0, rows.num_rows, BATCH_ROWS):
        yield rows.slice(at, BATCH_ROWS)


def _scatter(file: TableFile, bounds: Sequence[str | int], paths: Sequence[Path]) -> None:
    with ExitStack() as stack:
        sinks = [stack.enter_context(pa.ipc.new_stream(str(path), file.schema())) for path in paths]
        for batch in file.batches():
            rows = batch.sort_by("prompt_id")
            cuts = [0, *(_first_not_below(rows["prompt_id"], b) for b in bounds), rows.num_rows]
            for sink, start, end in zip(sinks, cuts, cuts[1:], strict=False):
                sink.write_table(rows.slice(start, end - start))


def _first_not_below(prompts: pa.ChunkedArray, bound: str | int) -> int:
    return bisect_right(range(len(prompts)), bound, key=lambda i: prompts[i].as_py())


def _unreadable(name: str, problem: Exception) -> DataError:
    if isinstance(problem, FileNotFoundError):
        return DataError(f"{name}: no such file; was it moved, or the step before not run?")
    return DataError(f"{name}: not a readable Parquet file ({str(problem).splitlines()[0]})")
