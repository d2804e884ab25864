"""Rows that could not be made for a reason that passes, as a step counts them.

A server that was overloaded, or broke off, has no answer to a row today and may have one tomorrow.
A step finishes without such rows, counted as unknown (law 4). Its result says how many there are,
and stands only until the step is run again: then they are asked for once more, and nothing else is.
Rows that would fail again (too long, no verdict in the text) do not make a step run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pyarrow as pa
import pyarrow.compute as pc

ROWS_TO_RETRY = "rows_to_retry"
"""The count of such rows in a manifest; absent where there are none."""

TIMEOUT = "timeout"
NO_CONNECTION = "no_connection"
SERVER_ERROR = "server_error"
GARBLED_ANSWER = "garbled_answer"
TRANSIENT = frozenset({TIMEOUT, NO_CONNECTION, SERVER_ERROR, GARBLED_ANSWER})

_KEYS: ContextVar[set[bytes] | None] = ContextVar("keys_to_retry", default=None)


@contextmanager
def transient_failures() -> Iterator[set[bytes]]:
    """Gathers the keys of such rows that are met in the block."""
    keys: set[bytes] = set()
    token = _KEYS.set(keys)
    try:
        yield keys
    finally:
        _KEYS.reset(token)


def note_transient_failures(rows: pa.Table) -> None:
    """Notes such rows of a ledger.

    Args:
        rows: Rows with ``key`` and ``failure``.
    """
    keys = _KEYS.get()
    if keys is not None:
        passing = pc.is_in(rows.column("failure"), pa.array(sorted(TRANSIENT)))
        keys.update(rows.column("key").filter(passing).to_pylist())
