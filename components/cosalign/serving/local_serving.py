"""Gateway and model servers on one machine: what ``cosalign serve`` runs.

A newly promoted model gets a server of its own while the old one answers on. When the new one says
that it has the model (its digest was checked before it was started), new requests go to it; when
the old one has answered its last, it is stopped. For that while two models are in memory. A server
that dies is started again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from cosalign.domain.errors import CosalignError, EngineUnavailable
from cosalign.domain.run_config.engine import EngineGroup
from cosalign.inference.models import resolve_model, split_pin
from cosalign.runtime.logs import get_logger
from cosalign.serving.gateway import Gateway
from cosalign.serving.model_server import HOST, ModelServer, start_model_server
from cosalign.serving.promoted_model import AnsweringModel
from cosalign.serving.server import bound, on_signal, serve
from cosalign.serving.settings import GatewaySettings

STEP_SECONDS = 0.25
AGAIN_SECONDS = 10.0
"""Between two starts of a model's server."""
_log = get_logger(__name__)


@dataclass(frozen=True)
class LocalSettings:
    """What is served here.

    Attributes:
        gateway: The gateway's settings; its upstreams are found out.
        engine: How model servers run.
        logs: Folder for what they write.
    """

    gateway: GatewaySettings
    engine: EngineGroup
    logs: Path


class LocalModels:
    """The model servers of this machine, as many as models are in use.

    Args:
        gateway: Says which model is wanted, and sends requests.
        settings: How to run servers.
    """

    def __init__(self, gateway: Gateway, settings: LocalSettings) -> None:
        self._gateway = gateway
        self._settings = settings
        self._servers: dict[str, ModelServer] = {}
        self._started: dict[str, float] = {}
        self.failures = 0

    async def run(self) -> None:
        """Starts and stops servers, for as long as the gateway lives."""
        while True:
            try:
                await self.step()
            except (CosalignError, OSError) as problem:
                _log.error("model server not started", reason=str(problem))
            await asyncio.sleep(STEP_SECONDS)

    async def step(self) -> None:
        """Does what is to be done now."""
        await self._clear_dead()
        wanted = self._gateway.follower.candidates[:1]
        for model in wanted:
            if model.digest not in self._servers and self._may_start(model.digest):
                await self._start(model)
        active = self._gateway.models.active()
        if wanted and active is wanted[0]:
            await self._stop_idle(keep=active.digest)

    async def stop(self) -> None:
        """Ends all servers."""
        await asyncio.gather(*(server.stop() for server in self._servers.values()))
        self._servers.clear()

    def log_of(self, digest: str) -> Path:
        """The file that a model's server writes to."""
        return self._settings.logs / f"model-server-{digest[:12]}.log"

    def _may_start(self, digest: str) -> bool:
        return time.monotonic() - self._started.get(digest, -AGAIN_SECONDS) >= AGAIN_SECONDS

    async def _start(self, model: AnsweringModel) -> None:
        self._started[model.digest] = time.monotonic()
        cache = Path(self._gateway.settings.cache).expanduser()
        pinned = f"{split_pin(model.uri)[0]}@sha256:{model.digest}"
        folder = await asyncio.to_thread(resolve_model, pinned, cache)
        server = start_model_server(
            folder.path, model.served_name, _free_port(), self._settings.engine,
            self.log_of(model.digest),
        )  # fmt: skip
        self._servers[model.digest] = server
        self._gateway.pool.urls = (*self._gateway.pool.urls, server.url)
        _log.info("model server started", digest=model.digest, url=server.url)

    async def _stop_idle(self, keep: str) -> None:
        for digest, server in list(self._servers.items()):
            if digest != keep and not self._gateway.pool.busy(server.url):
                self._gateway.pool.forget(server.url)
                del self._servers[digest]
                await server.stop()
                _log.info("model server stopped", digest=digest)

    async def _clear_dead(self) -> None:
        for digest, server in list(self._servers.items()):
            if not server.alive:
                self.failures += 1
                self._gateway.pool.forget(server.url)
                del self._servers[digest]
                _log.error("model server ended", digest=digest, log=str(server.log))


def _free_port() -> int:
    with bound(HOST, 0) as sock:
        port: int = sock.getsockname()[1]
        return port


def serve_locally(settings: LocalSettings, ready: Callable[[], None]) -> None:
    """Runs gateway and model servers until SIGTERM or SIGINT.

    Args:
        settings: What is served.
        ready: Called once requests are answered.

    Raises:
        EngineUnavailable: The model server ended before it had answered anything.
    """
    uvloop.run(_serve(settings, ready))


async def _serve(settings: LocalSettings, ready: Callable[[], None]) -> None:
    stopping = on_signal()
    async with Gateway(settings.gateway) as gateway:
        models = LocalModels(gateway, settings)
        keeping = asyncio.create_task(models.run())
        telling = asyncio.create_task(_tell(gateway, models, ready, stopping))
        try:
            await serve(gateway, stopping)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await models.stop()
        telling.cancel()
        for (problem,) in [await asyncio.gather(telling, return_exceptions=True)]:
            if isinstance(problem, CosalignError):
                raise problem


async def _tell(
    gateway: Gateway, models: LocalModels, ready: Callable[[], None], stopping: asyncio.Event
) -> None:
    while gateway.not_ready():
        if models.failures:
            stopping.set()
            log = models.log_of(gateway.follower.candidates[0].digest)
            raise EngineUnavailable(f"the model server did not start; {log} says why")
        await asyncio.sleep(STEP_SECONDS)
    ready()
