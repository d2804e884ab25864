"""Pairs tables of any size: streams chunks of prompts through the arithmetic, in order.

Chunks are computed by a few threads (the array library computes without the interpreter's lock)
and taken in the order of prompts, so that neither their number nor their size shows in the result.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from cosalign.domain.errors import DataError
from cosalign.pairing.chunk_columns import Chunk
from cosalign.pairing.chunk_pairs import ChunkPairs, pair_chunk
from cosalign.pairing.follows_prompts import COLUMNS as FOLLOWS_COLUMNS
from cosalign.pairing.follows_prompts import with_prompts
from cosalign.pairing.freed_memory import keep_freed_memory
from cosalign.pairing.identifiers import id_type
from cosalign.pairing.prompt_order import TableFile, in_prompt_order
from cosalign.pairing.prompt_streams import SortedRows, prompt_chunks
from cosalign.pairing.quotas import filtered, quotas
from cosalign.pairing.selection import PAIR_COLUMNS, count_pairs, output_table, select_in_chunk
from cosalign.pairing.settings import PairingSettings, Selection

Emit = Callable[[pa.Table], object]

_FEWEST_ROWS, _MOST_ROWS = 1 << 10, 1 << 15
_PAIRS_A_CHUNK = 1 << 17
"""Small, so that a chunk's columns stay in the processor's cache."""
_IDS = ("prompt_id", "response_id", "config_id")
_VERDICTS = ("prompt_id", "response_id", "risk_mask", "addressed")
_DRAWS = ("prompt_id", "config_id", "allowed_mask")
_LENGTHS = ("prompt_id", "response_id", "tokens")


@dataclass(frozen=True)
class PairInputs:
    """Parquet files to pair.

    Attributes:
        verdicts: prompt_id, response_id, risk_mask, addressed; maybe known_mask.
        draws: prompt_id, config_id, allowed_mask; maybe mode.
        follows: response_id, config_id, follows; maybe prompt_id. Needed for free-form draws.
        lengths: prompt_id, response_id, tokens. Needed by options about length.
    """

    verdicts: Path
    draws: Path
    follows: Path | None = None
    lengths: Path | None = None


@dataclass
class ChunkSize:
    """Rows of the next chunk, so that its pairs fit in memory whatever the data are like."""

    rows: int = 1 << 15

    def learn(self, chunk_rows: int, pairs: int) -> None:
        """Adapts to what a chunk made."""
        wanted = _PAIRS_A_CHUNK * chunk_rows // max(1, pairs)
        self.rows = min(_MOST_ROWS, max(_FEWEST_ROWS, wanted))


def pair_files(
    inputs: PairInputs,
    settings: PairingSettings,
    emit: Callable[[pa.Schema], Emit],
    size: ChunkSize | None = None,
) -> Counter[str]:
    """Pairs files.

    Args:
        inputs: The files.
        settings: What decides the pairs.
        emit: Given the schema of the pairs, gives what takes them, table by table, in the order of
            (prompt, config). Called when all columns have been found and are of the right type.
        size: Rows of the first chunk.

    Returns:
        Counts that explain the pairs.

    Raises:
        DataError: A file is not readable, a column is missing or of a wrong type, a value is
            impossible, or an id stands twice.
    """
    keep_freed_memory()
    with TemporaryDirectory(prefix="cosalign-pairing-") as folder:
        scratch = Path(folder)
        files = _files(inputs, settings.selection, scratch)
        take = emit(pairs_schema(files["verdicts"], files["draws"], settings.selection))
        streams = [SortedRows(in_prompt_order(f, scratch), f.schema()) for f in files.values()]
        size = size or ChunkSize()
        chunks = prompt_chunks(streams, lambda: size.rows)
        named = (Chunk(**dict(zip(files, tables, strict=True))) for tables in chunks)
        return pair_chunks(named, settings, take, size, scratch)


def pair_chunks(
    chunks: Iterator[Chunk],
    settings: PairingSettings,
    take: Emit,
    size: ChunkSize,
    scratch: Path,
) -> Counter[str]:
    """Pairs chunks, selects among the pairs and gives out what stays; see :func:`pair_files`."""
    counts: Counter[str] = Counter()
    selected = _selected(chunks, settings, size, counts)
    if settings.selection.looks_ahead:
        selected = _weighed(selected, settings.selection, scratch, counts)
    with ThreadPoolExecutor(1) as writer:
        written: Future[object] | None = None
        for table in selected:
            counts.update(count_pairs(table))
            if written is not None:
                written.result()
            written = writer.submit(take, output_table(table, settings.selection))
        if written is not None:
            written.result()
    counts["draws_without_pair"] = counts["draws"] - counts.pop("draws_paired", 0)
    return counts


def pairs_schema(verdicts: TableFile, draws: TableFile, selection: Selection) -> pa.Schema:
    """Columns of the pairs table; ids keep the type they came with."""
    response, source = verdicts.schema().field("response_id"), draws.schema()
    kinds = {
        "prompt_id": id_type("prompt_id", source.field("prompt_id").type),
        "config_id": id_type("config_id", source.field("config_id").type),
        "chosen_id": id_type("response_id", response.type),
        "rejected_id": id_type("response_id", response.type),
        "chosen_error": pa.int32(),
        "rejected_error": pa.int32(),
    }
    fields = [pa.field(name, kinds[name], nullable=False) for name in PAIR_COLUMNS]
    if selection.contrast:
        kind = pa.dictionary(pa.int8(), pa.string())
        fields.append(pa.field("contrast", kind, nullable=False))
    if selection.margin_cap is not None:
        fields.append(pa.field("weight", pa.float32(), nullable=False))
    return pa.schema(fields)


def _selected(
    chunks: Iterator[Chunk], settings: PairingSettings, size: ChunkSize, counts: Counter[str]
) -> Iterator[pa.Table]:
    def work(chunk: Chunk) -> tuple[int, int, ChunkPairs]:
        made = pair_chunk(chunk, settings)
        return (
            chunk.verdicts.num_rows,
            made.table.num_rows,
            select_in_chunk(made, settings.selection),
        )

    for rows, pairs, made in _in_order(work, chunks):
        if rows:
            size.learn(rows, pairs)
        counts.update(made.counts)
        yield made.table


def _in_order(
    work: Callable[[Chunk], tuple[int, int, ChunkPairs]], chunks: Iterable[Chunk]
) -> Iterator[tuple[int, int, ChunkPairs]]:
    """Results in the order of chunks, with as many at work as there are cores."""
    workers = len(os.sched_getaffinity(0))
    running: deque[Future[tuple[int, int, ChunkPairs]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for chunk in chunks:
            running.append(pool.submit(work, chunk))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _weighed(
    tables: Iterator[pa.Table], selection: Selection, scratch: Path, counts: Counter[str]
) -> Iterator[pa.Table]:
    """What caps per config and balance leave; see ``quotas.py``."""
    spool = scratch / "pairs.arrow"
    before = after = 0
    _spool(tables, spool)
    for table in filtered(_spooled(spool), quotas(partial(_spooled, spool), selection)):
        after += table.num_rows
        yield table
    before = sum(table.num_rows for table in _spooled(spool))
    counts["pairs_over_quota"] += before - after


def _spool(tables: Iterator[pa.Table], spool: Path) -> None:
    writer: pa.ipc.RecordBatchStreamWriter | None = None
    for table in tables:
        plain = _plain(table)
        writer = writer or pa.ipc.new_stream(str(spool), plain.schema)
        # One batch a chunk, since counts are taken of whole prompts.
        writer.write_table(plain.combine_chunks(), max_chunksize=max(1, plain.num_rows))
    if writer is not None:
        writer.close()


def _plain(table: pa.Table) -> pa.Table:
    """Without dictionaries: a stream cannot hold one that changes from chunk to chunk."""
    if "mode" not in table.column_names:
        return table
    at = table.column_names.index("mode")
    return table.set_column(at, "mode", table["mode"].cast(pa.string()))


def _spooled(spool: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(spool)) as source:
        for batch in pa.ipc.open_stream(source):
            yield pa.table(batch)


def _files(inputs: PairInputs, selection: Selection, scratch: Path) -> dict[str, TableFile]:
    verdicts = _file(inputs.verdicts, "verdicts", _VERDICTS, ("known_mask",))
    needed = (*_DRAWS, "mode") if "mode" in selection.balance else _DRAWS
    files = {"verdicts": verdicts, "draws": _file(inputs.draws, "draws", needed, ("mode",))}
    if inputs.follows is not None:
        files["follows"] = _file(inputs.follows, "follows", FOLLOWS_COLUMNS, ("prompt_id",))
    if selection.needs_lengths:
        if inputs.lengths is None:
            raise DataError("options about length need the responses' lengths; give --lengths FILE")
        files["lengths"] = _file(inputs.lengths, "lengths", _LENGTHS)
    _check_ids(list(files.values()))
    if "follows" in files and "prompt_id" not in files["follows"].columns:
        files["follows"] = with_prompts(files["follows"], verdicts, scratch)
    return files


def _file(path: Path, what: str, needed: Sequence[str], possible: Sequence[str] = ()) -> TableFile:
    names = TableFile(path, (), path.name).all_columns()
    for name in needed:
        if name not in names:
            raise DataError(f"the {what} table has no column {name!r}; it has {', '.join(names)}")
    optional = [name for name in possible if name in names and name not in needed]
    return TableFile(path, (*needed, *optional), path.name)


def _check_ids(files: Sequence[TableFile]) -> None:
    for name in _IDS:
        kinds = {id_type(name, f.schema().field(name).type) for f in files if name in f.columns}
        if len(kinds) > 1:
            raise DataError(f"{name} is a string in one table and an integer in another")
