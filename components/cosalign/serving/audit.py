"""Audit rows: which config and which model each answer was given under, and no text of it.

Rows wait in memory and are written together as one JSON Lines object every few seconds, by a
thread, so that no request waits for storage. A crash loses the rows of those seconds. Where storage
takes nothing, rows are held up to a bound; beyond it the oldest are let go and counted, or, where
the settings say so, requests are refused until rows can be written again.

Objects are only ever created, each attempt under a name of its own: that needs no more than the
right to create. Of an attempt that failed nobody knows whether it arrived, so that a row may stand
in two objects; its request id says so.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

from cosalign.runtime.logs import get_logger
from cosalign.serving.refusals import Refusal
from cosalign.serving.settings import AuditGroup
from cosalign.store.storage import GenerationMismatch, Storage

FOLDER = "audit/serving"
_ROWS_A_FILE = 20_000
_log = get_logger(__name__)


class AuditLog:
    """The rows of one gateway process.

    Args:
        storage: Where they go.
        folder: Below its root.
        settings: How often, how many.
    """

    def __init__(self, storage: Storage, folder: str, settings: AuditGroup) -> None:
        self._storage = storage
        self._folder = folder
        self._settings = settings
        self._rows: deque[dict[str, Any]] = deque()
        self._being_stored = 0
        self._writing = asyncio.Lock()
        # A process of its own name: replicas never write one object.
        self._process = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        self._attempts = 0
        self.lost = 0

    @property
    def waiting(self) -> int:
        """Rows that are not stored yet."""
        return len(self._rows) + self._being_stored

    @property
    def _full(self) -> bool:
        return self.waiting >= self._settings.held_rows

    def admit(self) -> None:
        """Refuses a request that could not be recorded.

        Raises:
            Refusal: Rows are required, and no more can be held.
        """
        if self._settings.required and self._full:
            raise Refusal(
                "audit_unavailable", "requests cannot be recorded now; try again", retry_after=10
            )

    def record(self, row: dict[str, Any]) -> None:
        """Takes a row; it is stored within seconds.

        Where rows are required none is let go: no more come than requests were admitted.
        """
        if not self._settings.required and self._full and self._rows:
            self._rows.popleft()
            self.lost += 1
        self._rows.append(row)

    async def run(self) -> None:
        """Stores rows for as long as the gateway lives."""
        while True:
            await asyncio.sleep(self._settings.seconds)
            # A write that has begun is not broken off where the gateway ends: its rows are nowhere
            # else. The last flush waits for it.
            await asyncio.shield(self.flush())

    async def flush(self) -> None:
        """Stores what waits; what cannot be stored goes on waiting."""
        async with self._writing:
            while self._rows:
                rows = [self._rows.popleft() for _ in range(min(_ROWS_A_FILE, len(self._rows)))]
                self._being_stored = len(rows)
                stored = await self._stored(rows)
                self._being_stored = 0
                if not stored:
                    self._rows.extendleft(reversed(rows))
                    return

    async def _stored(self, rows: list[dict[str, Any]]) -> bool:
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        path = f"{self._folder}/{day}/{self._process}-{self._attempts:06d}.jsonl"
        self._attempts += 1
        try:
            data = await asyncio.to_thread(_lines, rows)
            await asyncio.to_thread(self._storage.write_bytes, path, data, if_generation=0)
        except GenerationMismatch:
            # The client tries again by itself: the first time had arrived.
            return True
        except Exception as problem:  # noqa: BLE001  rows wait whatever the storage raises
            kind = type(problem).__name__
            _log.error("audit rows not stored", waiting=len(rows), error=kind, reason=str(problem))
            return False
        return True


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()


def timestamp() -> str:
    """Now, ISO 8601 in UTC to the millisecond."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
