"""Runs the gateway's two applications under uvicorn, and ends them without breaking off an answer.

On SIGTERM the gateway first says that it is not ready and goes on taking requests, until whatever
routes to it has noticed; then it takes no more, and ends when the last answer has.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvicorn
import uvloop

from cosalign.domain.errors import ConfigError
from cosalign.runtime.logs import get_logger
from cosalign.serving.bounded_head import BoundedHead
from cosalign.serving.gateway import Gateway

LONGEST_END_SECONDS = 600
BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
"""Above the minute after which load balancers give up an idle connection: theirs ends first."""
_log = get_logger(__name__)


async def serve(gateway: Gateway, stopping: asyncio.Event) -> None:
    """Serves until it is told to stop.

    Args:
        gateway: Entered already.
        stopping: Set when it shall end.

    Raises:
        ConfigError: A port is taken.
    """
    listen = gateway.settings.listen
    sockets = [bound(listen.host, port) for port in (listen.port, listen.admin_port)]
    servers = [_server(gateway.api()), _server(gateway.admin())]
    running = [
        asyncio.create_task(server.serve(sockets=[sock]))
        for server, sock in zip(servers, sockets, strict=True)
    ]
    api, admin = (sock.getsockname()[1] for sock in sockets)
    _log.info("gateway listens", host=listen.host, port=api, admin_port=admin)
    asked = asyncio.create_task(stopping.wait())
    await asyncio.wait([asked, *running], return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    gateway.draining = True
    _log.info("gateway drains", seconds=listen.drain_seconds)
    await asyncio.sleep(listen.drain_seconds)
    # The API first, so that health is answered for as long as answers are given.
    for server, task in zip(servers, running, strict=True):
        server.should_exit = True
        await task


def _server(app: Any) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=BoundedHead,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LONGEST_END_SECONDS,
    )
    return _Server(config)


class _Server(uvicorn.Server):
    """Leaves signals to the gateway, whose two servers share them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none."""
        yield


def bound(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: The port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as problem:
        sock.close()
        raise ConfigError(f"port {port} of {host} cannot be had: {problem.strerror}") from None
    return sock


def on_signal() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


def run(gateway_of: Callable[[], AbstractAsyncContextManager[Gateway]]) -> None:
    """Runs a gateway in an event loop of its own, until it is stopped.

    Args:
        gateway_of: Makes the gateway, inside the loop.
    """

    async def main() -> None:
        async with gateway_of() as gateway:
            # What was loaded by now stays; looked through with each collection it would make
            # requests wait for tens of milliseconds.
            gc.collect()
            gc.freeze()
            await serve(gateway, on_signal())

    uvloop.run(main())
