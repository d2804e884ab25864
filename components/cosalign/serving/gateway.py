"""The gateway put together: two small ASGI applications and what is looked at in the background.

The API listens on one port and holds two endpoints; health and metrics have a port of their own,
which no caller reaches. All that changes while it runs (tenants, configs, model, servers) is
refreshed by loops that never end and never raise; what each leaves when it fails is said there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cosalign.runtime.logs import get_logger
from cosalign.serving.api_keys import read_pepper
from cosalign.serving.audit import FOLDER, AuditLog
from cosalign.serving.authentication import Authenticator
from cosalign.serving.chat_endpoint import ChatEndpoint
from cosalign.serving.config_registry import ConfigRegistry
from cosalign.serving.config_sources import ConfigSource, open_config_source
from cosalign.serving.exchange import Receive, Scope, Send
from cosalign.serving.metrics import GatewayMetrics, short
from cosalign.serving.model_requests import ModelRequests
from cosalign.serving.promoted_model import ModelFollower
from cosalign.serving.rate_limits import RateLimits
from cosalign.serving.refusals import Refusal
from cosalign.serving.settings import GatewaySettings
from cosalign.serving.token_issuers import TokenChecker
from cosalign.serving.upstreams import UpstreamPool
from cosalign.store.storage import open_storage

KEEP_ALIVE_SECONDS = 4.0
"""Below the five seconds after which vLLM's server closes an idle connection."""
TENANTS_SECONDS = 10.0
TENANTS_STALE_SECONDS = 300.0
_log = get_logger(__name__)


class Gateway:
    """Everything that answers requests; an asynchronous context manager.

    Args:
        settings: The gateway's.
        source: Where configs come from, in place of what the settings name.
    """

    def __init__(self, settings: GatewaySettings, source: ConfigSource | None = None) -> None:
        self.settings = settings
        self.metrics = GatewayMetrics()
        # What may be refused comes before what has to be closed.
        pepper = read_pepper(settings.pepper_file)
        self.registry = ConfigRegistry(
            source or open_config_source(settings), settings.configs.max_stale_seconds
        )
        self.follower = ModelFollower(settings)
        self.audit = _audit(settings)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        self.authenticator = Authenticator(
            settings.tenants, pepper, TokenChecker(self._http), TENANTS_STALE_SECONDS
        )
        self.pool = UpstreamPool(settings.upstreams, self._http)
        self.models = ModelRequests(self.follower, self.pool, settings.upstreams, self._http)
        self.draining = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(refresh() for refresh, _ in self._refreshes()))
        loops = [_forever(refresh, seconds) for refresh, seconds in self._refreshes()]
        self._tasks = [asyncio.create_task(loop) for loop in (*loops, self.audit.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.audit.flush()
        await self._http.close()

    def _refreshes(self) -> list[tuple[Callable[[], Awaitable[None]], float]]:
        settings = self.settings
        return [
            (self.authenticator.refresh, TENANTS_SECONDS),
            (self.registry.refresh, settings.configs.refresh_seconds),
            (self.follower.refresh, settings.model.refresh_seconds),
            (self.pool.refresh, settings.upstreams.probe_seconds),
        ]

    def not_ready(self) -> list[str]:
        """What keeps the gateway from answering anybody; empty where nothing does."""
        checks = {
            "draining": not self.draining,
            "tenants": self.authenticator.ready,
            "configs": self.registry.ready,
            "model": self.models.active() is not None,
        }
        return [name for name, fine in checks.items() if not fine]

    def api(self) -> Starlette:
        """What callers reach."""
        chat = ChatEndpoint(
            self.settings,
            self.authenticator,
            self.registry,
            RateLimits(),
            self.models,
            self.audit,
            self.metrics,
        )
        self.metrics.in_flight.set_function(lambda: len(chat.running))
        routes = [
            Route("/v1/chat/completions", _Only(chat), methods=["POST"]),
            Route("/v1/models", self._list_models, methods=["GET"]),
            Route("/v1/models/{name}", self._one_model, methods=["GET"]),
        ]
        handlers: dict[Any, Any] = {404: _unknown_url, 405: _wrong_method}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        return app

    def admin(self) -> Starlette:
        """What the operator's machines reach."""
        routes = [
            Route("/healthz", self._health),
            Route("/readyz", self._readiness),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes)

    async def _list_models(self, request: Request) -> Response:
        return await self._known(request, {"object": "list", "data": [self._card()]})

    async def _one_model(self, request: Request) -> Response:
        if request.path_params["name"] != self.settings.model_name:
            return _refused(Refusal("model_not_found", "there is no such model here", "model"))
        return await self._known(request, self._card())

    async def _known(self, request: Request, body: dict[str, Any]) -> Response:
        try:
            await self.authenticator.caller(request.scope["headers"])
        except Refusal as refusal:
            return _refused(refusal)
        return JSONResponse(body)

    def _card(self) -> dict[str, Any]:
        name = self.settings.model_name
        return {"id": name, "object": "model", "created": 0, "owned_by": "cosalign"}

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def _readiness(self, _: Request) -> Response:
        waiting = self.not_ready()
        text = f"not ready: {', '.join(waiting)}\n" if waiting else "ready\n"
        return PlainTextResponse(text, 503 if waiting else 200)

    async def _metrics(self, _: Request) -> Response:
        metrics, model = self.metrics, self.models.active()
        metrics.config_age.set(self.registry.age_seconds)
        metrics.audit_waiting.set(self.audit.waiting)
        metrics.audit_lost.set(self.audit.lost)
        metrics.model.clear()
        if model is not None:
            metrics.model.labels(short(model.digest)).set(1)
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4")


class _Only:
    """Keeps Starlette from wrapping an ASGI application that is its own request and response."""

    def __init__(self, app: ChatEndpoint) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _audit(settings: GatewaySettings) -> AuditLog:
    address = settings.audit.address
    storage = open_storage(address or settings.storage)
    return AuditLog(storage, "rows" if address else FOLDER, settings.audit)


async def _forever(refresh: Callable[[], Awaitable[None]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await refresh()
        except Exception as problem:  # noqa: BLE001  a loop that ends would go unnoticed
            _log.error("refresh failed", error=type(problem).__name__, reason=str(problem))


def _refused(refusal: Refusal) -> Response:
    headers = {name.decode(): value.decode() for name, value in refusal.headers()}
    return Response(refusal.body(), refusal.status, headers, media_type="application/json")


async def _unknown_url(_: Request, __: Exception) -> Response:
    return _refused(
        Refusal("unknown_url", "there is /v1/chat/completions and /v1/models here, nothing else")
    )


async def _wrong_method(_: Request, __: Exception) -> Response:
    return _refused(Refusal("method_not_allowed", "this address takes another method"))
