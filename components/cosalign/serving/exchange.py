"""One HTTP exchange at the level of ASGI: a body within bounds, an answer, being hung up on.

Below Starlette's request and response classes, which start a task group and copy headers per
response: at hundreds of streams at a time that is most of what a gateway does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from cosalign.serving.refusals import Refusal

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

BODY_SECONDS = 30.0
JSON_TYPE = b"application/json"
STREAM_TYPE = b"text/event-stream; charset=utf-8"
_CHARSETS = (b"", b"charset=utf-8", b'charset="utf-8"')


class HungUpError(Exception):
    """The caller has closed the connection."""


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    """The body of a request.

    Args:
        headers: The request's.
        receive: ASGI's.
        limit: Most bytes that are taken.

    Raises:
        Refusal: It is of another type, too large, or too slow.
        HungUpError: The caller went away.
    """
    named = {name: value for name, value in headers if name.startswith(b"content-")}
    _check_type(named)
    declared = named.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _body(receive, limit)
    except TimeoutError:
        raise Refusal("request_timeout", "the body did not arrive in time") from None


def _check_type(headers: dict[bytes, bytes]) -> None:
    media, _, charset = headers.get(b"content-type", b"").lower().partition(b";")
    plain = headers.get(b"content-encoding", b"identity").lower() == b"identity"
    if media.strip() != JSON_TYPE or charset.strip() not in _CHARSETS or not plain:
        raise Refusal(
            "unsupported_media_type", "send JSON in UTF-8, not compressed, as application/json"
        )


async def _body(receive: Receive, limit: int) -> bytes:
    pieces, size = [], 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise HungUpError
        piece = event.get("body", b"")
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
        if not event.get("more_body"):
            return b"".join(pieces)


def _too_large(limit: int) -> Refusal:
    return Refusal("request_too_large", f"a request may have {limit} bytes at the most")


async def hung_up(receive: Receive) -> None:
    """Returns once the caller has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def begin(send: Send, status: int, type_: bytes, headers: Headers) -> None:
    """Sends status and headers."""
    fields = [(b"content-type", type_), (b"cache-control", b"no-store"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})


async def answer(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Sends a whole JSON answer."""
    length = (b"content-length", str(len(body)).encode())
    await begin(send, status, JSON_TYPE, [length, *headers])
    await send({"type": "http.response.body", "body": body})
