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
    """

    url: str
    models: dict[str, int | None] = field(default_factory=dict)
    in_flight: int = 0


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
    def endpoints(self) -> list[Endpoint]:
        """Those that are known."""
        return list(self._endpoints.values())

    def choose(self, model: str, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The least busy server of a model.

        Args:
            model: The name that servers list it under.
            tried: Servers that were asked already.
        """
        able = [e for e in self._endpoints.values() if model in e.models and e not in tried]
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
        """Notes that a server did not do what it said; the next probe may clear it."""
        endpoint.models = {}

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
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
        models: dict[str, int | None] = {}
        try:
            url = f"{endpoint.url}/v1/models"
            async with self._http.get(
                url, headers=self.headers, timeout=timeout, allow_redirects=False
            ) as answer:
                if answer.status == HTTPStatus.OK:
                    models = _listed(await answer.json(content_type=None))
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
            models = {}
        if models.keys() != endpoint.models.keys():
            _log.info("upstream changed", url=endpoint.url, models=sorted(models))
        endpoint.models = models


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
