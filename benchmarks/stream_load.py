"""Many callers of a chat API at once, from one process: as little per piece as Python allows.

A client library would cost more per piece than the gateway that is measured. So requests are bytes
made beforehand, and an answer is looked at for three things: when its first piece came, when it was
complete, and whether it is, piece by piece and to its end, the one that was asked for.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

END_OF_CHUNKS = b"\r\n0\r\n\r\n"
"""With the line before it: headers may end in a zero too."""
END_OF_STREAM = b"data: [DONE]\n\n"
_ERROR = re.compile(rb'data: *\{ *"error"')
_TEXT = re.compile(rb'"(?:content|text)": *"((?:[^"\\]|\\.)+)"')
"""What a piece or a whole answer says; the first piece of a stream says nothing but the role."""


@dataclass(frozen=True)
class Call:
    """A request as bytes, and its answer.

    Attributes:
        request: The bytes.
        pieces: What the answer says, one text for a whole one; ``None`` where a real model answers,
            which says what it likes.
        stream: Whether it is a stream.
    """

    request: bytes
    pieces: list[bytes] | None
    stream: bool

    def answered_by(self, answer: bytes) -> bool:
        """Whether an answer of status 200 is the one that was asked for, all of it."""
        if self.stream and (
            not answer.endswith(END_OF_STREAM + END_OF_CHUNKS) or _ERROR.search(answer)
        ):
            return False
        said = _TEXT.findall(answer)
        return bool(said) if self.pieces is None else said == self.pieces


@dataclass
class Seen:
    """What the callers saw; times in seconds."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    refused: int = 0
    wrong: int = 0
    broken: int = 0

    @property
    def dropped(self) -> int:
        """Requests without their answer."""
        return self.refused + self.wrong + self.broken


class _Caller(asyncio.Protocol):
    """One connection, which asks again as soon as it was answered."""

    def __init__(self, calls: Iterator[Call], seen: Seen, until: Callable[[], bool]) -> None:
        self._calls = calls
        self._seen = seen
        self._until = until
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._answer = bytearray()
        self._call: Call | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no common class.
        self._transport = cast("asyncio.WriteTransport", transport)
        self._ask()

    def _ask(self) -> None:
        self._call = None if self._until() else next(self._calls, None)
        if self._call is None:
            self._transport.close()
            return
        self._answer.clear()
        self._first = 0.0
        self._sent = time.perf_counter()
        self._transport.write(self._call.request)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        answer += data
        if not self._first and (b"data: " in data or b'"id"' in data or b'"model"' in data):
            self._first = time.perf_counter()
        if answer.endswith(END_OF_CHUNKS) or _complete(answer):
            self._check(bytes(answer), time.perf_counter())
            self._ask()

    def _check(self, answer: bytes, came: float) -> None:
        if self._call is None:
            return
        if not answer.startswith(b"HTTP/1.1 200"):
            self._seen.refused += 1
        elif not self._call.answered_by(answer):
            self._seen.wrong += 1
        else:
            self._seen.first.append(self._first - self._sent)
            self._seen.whole.append(came - self._sent)

    def connection_lost(self, _: Exception | None) -> None:
        if self._call is not None:
            self._seen.broken += 1
        if not self.done.done():
            self.done.set_result(None)


def _complete(answer: bytearray) -> bool:
    """Whether an answer with a length has all of it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    place = head.lower().find(b"content-length: ")
    if place < 0:
        return False
    length = head[place + 16 :].split(b"\r\n", 1)[0]
    return len(body) >= int(length)


async def load(
    port: int, callers: int, calls: Iterator[Call], until: Callable[[], bool], ramp: float
) -> Seen:
    """Keeps so many callers asking.

    Args:
        port: On this machine.
        callers: How many at once.
        calls: What they ask, in turn; the load ends when there is no more.
        until: Whether no further request shall be made.
        ramp: Seconds over which callers begin, so that their pieces do not come all at once.
    """
    loop, seen = asyncio.get_running_loop(), Seen()
    waiting = []
    for _ in range(callers):
        protocol = _Caller(calls, seen, until)
        await loop.create_connection(lambda p=protocol: p, "127.0.0.1", port)  # type: ignore[misc]
        waiting.append(protocol.done)
        await asyncio.sleep(ramp / callers)
    await asyncio.gather(*waiting)
    return seen


def http_post(path: str, body: bytes, headers: str = "") -> bytes:
    """A request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
