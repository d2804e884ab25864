"""The figures of every step of a stage, as a file in storage: ``history.jsonl``.

One JSON object a line: a step's figures, a measurement on the development split (names that begin
with ``eval_``), or a checkpoint. The trainer's state holds the figures too, in each checkpoint, so
that a resumed stage has those of the steps before; the file is written anew with each checkpoint
and at the end. It holds times, and so differs between equal runs; nothing is computed from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cosalign.domain.errors import DataError

if TYPE_CHECKING:
    from cosalign.store.storage import Storage

CHECKPOINT = "checkpoint"
"""The field of a line that says at which step a checkpoint was made."""

_NOT_OF_STEPS = ("train_runtime", "train_loss", "total_flos")

History = list[dict[str, Any]]


class StageHistory:
    """The history of one stage; rank 0 writes it.

    Args:
        storage: Where it lies.
        path: The file.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self.path = path
        self._saved = sorted(
            {e[CHECKPOINT] for e in read_history(storage, path) if CHECKPOINT in e}
        )

    def saved(self, step: int) -> None:
        """A checkpoint was made after a step."""
        self._saved = sorted({*self._saved, step})

    def write(self, entries: Sequence[dict[str, Any]]) -> None:
        """Writes the file anew.

        Args:
            entries: The trainer's ``log_history``.
        """
        lines = [_finite(e) for e in entries if not any(name in e for name in _NOT_OF_STEPS)]
        lines += [{"step": step, CHECKPOINT: step} for step in self._saved]
        text = "".join(f"{json.dumps(line, sort_keys=True, allow_nan=False)}\n" for line in lines)
        self._storage.write_bytes(self.path, text.encode())


def read_history(storage: Storage, path: str) -> History:
    """The lines of a history; none where there is no such file."""
    if storage.stat(path) is None:
        return []
    try:
        return [json.loads(line) for line in storage.read_bytes(path).splitlines()]
    except ValueError as problem:
        raise DataError(f"{storage.uri_of(path)}: not a stage's history ({problem})") from None


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    """Without figures that are not finite: they are no JSON, and a skipped step says so itself."""
    return {
        name: value
        for name, value in entry.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
