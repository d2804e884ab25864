"""From files to ``pairs.parquet`` in storage: what the step and the plain command share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pyarrow as pa

from cosalign.pairing.pair_files import Emit, PairInputs, pair_files
from cosalign.pairing.settings import PairingSettings
from cosalign.store.storage import Storage
from cosalign.store.table_files import TableSink


def pair_sink(file: Callable[[], Path], schema: pa.Schema) -> TableSink:
    """What writes a pairs table: ids of responses are hashes, if they are numbers at all."""
    ids = ("chosen_id", "rejected_id")
    return TableSink(
        file, schema, plain=[n for n in ids if pa.types.is_integer(schema.field(n).type)]
    )


def write_pairs(
    inputs: PairInputs,
    settings: PairingSettings,
    storage: Storage,
    path: str,
    metadata: Mapping[bytes, bytes] | None = None,
    earlier: Iterable[pa.Table] = (),
) -> Counter[str]:
    """Pairs files and writes the table, which appears when it is whole.

    Args:
        inputs: The files.
        settings: What decides the pairs.
        storage: Where the table is written.
        path: Its path there.
        metadata: Of the table's schema.
        earlier: Rows that are written before these pairs.

    Returns:
        Counts that explain the pairs; those of earlier rows are not among them.
    """
    sinks: list[TableSink] = []
    with ExitStack() as stack:

        def opened(schema: pa.Schema) -> Emit:
            file = partial(stack.enter_context, storage.new_file(path))
            sinks.append(pair_sink(file, schema.with_metadata(metadata)))
            for table in earlier:
                sinks[0].write(table)
            return sinks[0].write

        counts = pair_files(inputs, settings, opened)
        sinks[0].close()
    return counts
