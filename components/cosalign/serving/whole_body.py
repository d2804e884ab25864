"""A response's body read to its end, within a bound.

aiohttp's ``read(n)`` gives what has come so far: the whole of a short body mostly, and of a long
one its first piece.
"""

from __future__ import annotations

import aiohttp


class TooLongError(Exception):
    """A body is longer than its bound."""


async def whole_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """All of a response's body.

    Args:
        response: Its headers have come.
        limit: Most bytes that are taken.

    Raises:
        TooLongError: There are more.
    """
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > limit:
            raise TooLongError
        pieces.append(piece)
    return b"".join(pieces)
