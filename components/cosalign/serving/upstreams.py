"""The model servers: who is there, what each serves, and which one is asked.

A server says itself which model it serves: it is started with the model's digest as the name of
its model, and lists that name under ``/v1/models``. The gateway asks each server every few seconds,
and names the digest in each request. So a model is routed to wherever it runs; two models run side
by side while one replaces the other; and a server behind an old address that now serves another
model answers "no such model", never as the wrong one.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import urlparse

import aiohttp

from cosalign.runtime.logs import get_logger
from cosalign.serving.settings import UpstreamsGroup
from cosalign.store.storage import read_uri

PROBE_TIMEOUT = 2.0
PATIENCE = 3
"""Probes in a row that a busy server may leave unanswered, or that may miss a model which one of
several servers behind an address has."""
_LONGEST_LIST = 1 << 20
_log = get_logger(__name__)


@dataclass(eq=False)
class Endpoint:
    """One server.

    Attributes:
        url: Its base address.
        models: Context length of each model that it serves, by name; empty where it does not
            answer.
        in_flight: Requests that it is answering for us.
        unanswered: Probes in a row that it has not answered.
        missed: Probes in a row that did not list a model, by name.
    """

    url: str
    models: dict[str, int | None] = field(default_factory=dict)
    in_flight: int = 0
    unanswered: int = 0
    missed: dict[str, int] = field(default_factory=dict)

    def listed(self, models: dict[str, int | None], patience: int) -> None:
        """Takes what a probe found; a model goes when it was missed so often in a row."""
        before = self.models
        missed = {name: self.missed.get(name, 0) + 1 for name in before if name not in models}
        self.missed = {name: count for name, count in missed.items() if count < patience}
        self.models = {name: before[name] for name in self.missed} | models


class UpstreamPool:
    """All servers.

    Args:
        settings: Where they are.
        http: For asking them.
    """

    def __init__(self, settings: UpstreamsGroup, http: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._http = http
        self._endpoints: dict[str, Endpoint] = {}
        self.urls: tuple[str, ...] = settings.urls
        key = settings.api_key_file
        token = read_uri(key).decode().strip() if key else ""
        self.headers = {"authorization": f"Bearer {token}"} if token else {}

    @property
    def each_alone(self) -> bool:
        """Whether an endpoint is one server, and not an address of several."""
        return self._settings.every_address

    @property
    def endpoints(self) -> list[Endpoint]:
        """Those that are known."""
        return list(self._endpoints.values())

    def choose(
        self, model: str, tried: Collection[Endpoint] = (), *, unlisted: bool = False
    ) -> Endpoint | None:
        """The least busy server of a model.

        Args:
            model: The name that servers list it under.
            tried: Servers that were asked already.
            unlisted: Whether one that lists other models will do.
        """
        there = [e for e in self._endpoints.values() if e.models and e not in tried]
        able = [e for e in there if unlisted or model in e.models]
        return min(able, key=lambda endpoint: endpoint.in_flight, default=None)

    def busy(self, url: str) -> bool:
        """Whether a server is answering requests."""
        endpoint = self._endpoints.get(url)
        return endpoint is not None and endpoint.in_flight > 0

    def forget(self, url: str) -> None:
        """Sends nothing to a server any more."""
        self.urls = tuple(one for one in self.urls if one != url)
        self._endpoints.pop(url, None)

    def suspect(self, endpoint: Endpoint) -> None:
        """Notes that a server is not there, or has not the model that it was asked for.

        The next probe may clear it. Nothing is noted of an address of several servers: it was one
        of them.
        """
        if self.each_alone:
            endpoint.models, endpoint.missed = {}, {}

    async def refresh(self) -> None:
        """Asks every server what it serves."""
        urls = await self._addresses()
        known = self._endpoints
        self._endpoints = {url: known.get(url) or Endpoint(url) for url in urls}
        await asyncio.gather(*map(self._probe, self._endpoints.values()))

    async def _addresses(self) -> list[str]:
        if not self._settings.every_address:
            return list(self.urls)
        found = await asyncio.gather(*map(_resolved, self.urls))
        return sorted({url for urls in found for url in urls})

    async def _probe(self, endpoint: Endpoint) -> None:
        try:
            models = await self._models(endpoint.url)
            endpoint.unanswered = 0
        except (aiohttp.ClientError, ValueError, OSError) as problem:
            # Full of requests, perhaps, or one of several that is going: an address that answered
            # a moment ago is given more time.
            endpoint.unanswered += 1
            patient = isinstance(problem, TimeoutError) or not self.each_alone
            if patient and endpoint.unanswered < PATIENCE:
                return
            models = {}
        before = set(endpoint.models)
        # Behind one address there may be several servers, and a probe meets one of them.
        shared = models and not self.each_alone
        endpoint.listed(models, PATIENCE if shared else 1)
        if before != set(endpoint.models):
            _log.info("upstream changed", url=endpoint.url, models=sorted(endpoint.models))

    async def _models(self, url: str) -> dict[str, int | None]:
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
        # On a connection of its own, so that it may meet any of the servers behind the address.
        headers = {**self.headers, "connection": "close"}
        async with self._http.get(
            f"{url}/v1/models", headers=headers, timeout=timeout, allow_redirects=False
        ) as answer:
            if answer.status != HTTPStatus.OK:
                return {}
            return _listed(await answer.json(content_type=None))


def _listed(answer: Any) -> dict[str, int | None]:
    cards: Iterable[Any] = answer.get("data") or () if isinstance(answer, dict) else ()
    named = [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]
    return {card["id"]: _length(card.get("max_model_len")) for card in named}


def _length(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


async def _resolved(url: str) -> list[str]:
    parsed = urlparse(url)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            parsed.hostname, port, type=socket.SOCK_STREAM
        )
    except OSError:
        return []
    hosts = {str(address[0]) for *_, address in found}
    return [f"{parsed.scheme}://{f'[{h}]' if ':' in h else h}:{port}" for h in sorted(hosts)]
