"""Law 3 in one function: pay for what a ledger does not hold, store it as it comes, read the rest.

Generation and judging differ in what a row is, not in how it survives a kill, so both go through
here. What was flushed is never asked for again; what was not is at most one batch, or what came in
half a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cosalign.runtime.logs import get_logger
from cosalign.runtime.progress import Progress
from cosalign.runtime.transient_failures import note_transient_failures
from cosalign.store.ledger import Ledger

Row = Mapping[str, Any]
FLUSH_SECONDS = 30.0
"""Rows are stored after so long, however few they are: a kill costs no more than that."""
Payer = Callable[[list[int]], Iterator[Row]]
"""Given the positions (in the asked keys) still to pay, yields ledger rows in any order."""


@dataclass(frozen=True)
class PaidWork:
    """The rows asked for, row i for key i, and how many had to be made for them.

    A row that could not be made is there too, with its ``failure`` set.
    """

    rows: pa.Table
    made: int


def complete(
    ledger: Ledger,
    keys: Sequence[bytes],
    pay: Payer,
    *,
    work: str,
    flush_rows: int,
    pays: bool = True,
) -> PaidWork:
    """Makes the rows that are missing and reads all.

    Args:
        ledger: Where rows are kept.
        keys: What is asked for; a key may stand more than once and is paid once.
        pay: Makes the missing rows. It is not called when nothing is missing, so that an engine
            need not even start.
        work: What the work is called in logs.
        flush_rows: Rows stored at a time; fewer where they come slowly (:data:`FLUSH_SECONDS`).
        pays: Where ``False``, nothing is made: others have paid, rows that could not be made keep
            their ``failure``, and a row that nobody has stored is an error.

    Raises:
        DataError: Nothing is to be made, and a row is not stored.
    """
    log = get_logger(__name__)
    positions = {key: i for i, key in reversed(list(enumerate(keys)))}
    missing = ledger.missing(keys) if pays else []
    log.info("plan", work=work, asked=len(positions), stored=len(positions) - len(missing),
             to_pay=len(missing))  # fmt: skip
    if missing:
        with Progress(log, work, len(missing)) as progress:
            made = pay([positions[key] for key in missing])
            _store(ledger, made, flush_rows, progress)
    rows = ledger.read(keys)
    failed = rows.num_rows - rows.column("failure").null_count
    if failed:
        log.warning("not_made", work=work, rows=failed)
        note_transient_failures(rows)
    return PaidWork(rows, len(missing))


def _store(ledger: Ledger, rows: Iterator[Row], flush_rows: int, progress: Progress) -> None:
    batch: list[Row] = []
    flushed = time.monotonic()
    try:
        for row in rows:
            batch.append(row)
            if len(batch) >= flush_rows or time.monotonic() - flushed >= FLUSH_SECONDS:
                ledger.append(batch)
                progress.advance(len(batch))
                batch, flushed = [], time.monotonic()
    finally:
        # Also when the engine fails: what it has answered so far was paid for.
        ledger.append(batch)
        progress.advance(len(batch))
