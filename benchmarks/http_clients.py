"""What reading streams costs with aiohttp and with httpx: CPU of a process that does nothing else.

The gateway's own reason for its choice of a client (docs/design/serving.md); a part of
``benchmarks.gateway``.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
from collections.abc import Awaitable, Callable, Iterator

import uvloop

Post = Callable[[bytes], Awaitable[int]]


async def _many(post: Post, bodies: Iterator[bytes], requests: int, at_once: int) -> int:
    """Bytes read of so many requests."""
    remaining = itertools.islice(bodies, requests)

    async def caller() -> int:
        return sum([await post(body) for body in remaining])

    return sum(await asyncio.gather(*(caller() for _ in range(at_once))))


async def _aiohttp(url: str, bodies: Iterator[bytes], requests: int, at_once: int) -> int:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def post(body: bytes) -> int:
            async with session.post(url, data=body) as answer:
                return sum([len(piece) async for piece in answer.content.iter_any()])

        return await _many(post, bodies, requests, at_once)


async def _httpx(url: str, bodies: Iterator[bytes], requests: int, at_once: int) -> int:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False) as client:

        async def post(body: bytes) -> int:
            async with client.stream("POST", url, content=body) as answer:
                return sum([len(piece) async for piece in answer.aiter_raw()])

        return await _many(post, bodies, requests, at_once)


def cpu_ms_a_request(
    url: str, bodies: Callable[[], Iterator[bytes]], requests: int, at_once: int
) -> dict[str, float]:
    """CPU of each client, in milliseconds a request.

    Args:
        url: Where requests go.
        bodies: Makes them.
        requests: How many.
        at_once: How many at a time.

    Raises:
        SystemExit: The two did not read the same.
    """
    figures, read = {}, set()
    for name, client in (("aiohttp", _aiohttp), ("httpx", _httpx)):
        uvloop.run(client(url, bodies(), at_once, at_once))
        before = _cpu()
        read.add(uvloop.run(client(url, bodies(), requests, at_once)))
        figures[name] = round((_cpu() - before) / requests * 1e3, 3)
    if len(read) != 1:
        raise SystemExit(f"the clients read {sorted(read)} bytes of the same answers")
    return figures


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
