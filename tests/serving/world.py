"""A gateway as its users meet it: real servers on real ports, a real tokenizer, two tenants.

The model server is the package's stand-in, which says what it was asked; everything else is what
runs in production, in an event loop on a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import yaml

from cosalign.inference.hf_tokenizer import HfTokenizer
from cosalign.inference.models import ModelFolder
from cosalign.serving.api_keys import NewKey, new_key
from cosalign.serving.double import StandInServer
from cosalign.serving.gateway import Gateway
from cosalign.serving.server import serve
from cosalign.serving.settings import GatewaySettings

PEPPER = b"p" * 32
POLICIES = {
    "ie": "Speak freely of beer and of the history of pubs. Decline to speak of gambling odds.",
    "no": "This is a school. Decline to speak of beer. The history of swords is welcome here.",
}
WAIT_SECONDS = 30.0


def config_document(name: str, region: str, text: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": name},
        "spec": {
            "taxonomy": {"name": "cosa", "version": "1"},
            "region": region,
            "text": text,
            **spec,
        },
    }


def eventually(condition: Callable[[], Any], what: str = "", seconds: float = WAIT_SECONDS) -> Any:
    """Waits for something that happens in the background."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError(what or "what was waited for did not happen")


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """Runs an ASGI application on a thread; gives its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(512)
        config = uvicorn.Config(
            app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        eventually(lambda: server.started, "the server did not start")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class World:
    """Files of an installation, and what tests change in them."""

    folder: Path
    model: ModelFolder
    upstream: StandInServer
    upstream_url: str
    keys: dict[str, NewKey] = field(default_factory=dict)
    tenants: list[dict[str, Any]] = field(default_factory=list)
    issuers: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def configs(self) -> Path:
        return self.folder / "configs"

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    def tenant(self, name: str, regions: list[str], **fields: Any) -> NewKey:
        key = self.keys.setdefault(name, new_key(PEPPER))
        entry: dict[str, Any] = {"id": key.id, "hash": key.hash}
        if len(regions) > 1:
            entry["region"] = regions[0]
        unlimited = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}
        sizes = {"prompt_tokens": 4000, "completion_tokens": 1000}
        limits = {**unlimited, **sizes, **fields.pop("limits", {})}
        self.tenants = [one for one in self.tenants if one["name"] != name]
        self.tenants.append(
            {"name": name, "regions": regions, "keys": [entry], "limits": limits, **fields}
        )
        self.write_tenants()
        return key

    def write_tenants(self) -> None:
        content = {"tenants": self.tenants, "issuers": self.issuers}
        (self.folder / "tenants.yaml").write_text(yaml.safe_dump(content))

    def config(self, name: str, region: str, text: str, **spec: Any) -> None:
        self.configs.mkdir(exist_ok=True)
        document = yaml.safe_dump(config_document(name, region, text, **spec))
        draft = self.folder / "draft"
        draft.write_text(document)
        draft.rename(self.configs / f"{name}.yaml")

    def gateway_settings(self) -> GatewaySettings:
        plain: dict[str, Any] = {
            "storage": str(self.storage),
            "tenants": str(self.folder / "tenants.yaml"),
            "pepper_file": str(self.folder / "pepper"),
            "cache": str(self.folder / "cache"),
            "listen": {"port": free_port(), "admin_port": free_port(), "drain_seconds": 0.0},
            "configs": {
                "kind": "files",
                "addresses": [str(self.configs)],
                "refresh_seconds": 0.05,
            },
            "model": {"uri": str(self.model.path), "refresh_seconds": 0.05},
            "upstreams": {"urls": [self.upstream_url], "probe_seconds": 0.1},
            "audit": {"seconds": 0.05},
        }
        for name, value in self.settings.items():
            plain[name] = {**plain[name], **value} if isinstance(value, dict) else value
        return GatewaySettings.model_validate_json(json.dumps(plain))

    @contextlib.contextmanager
    def gateway(self) -> Iterator[Running]:
        """Runs the gateway on a thread."""
        settings, ready = self.gateway_settings(), threading.Event()
        box: dict[str, Any] = {}

        async def main() -> None:
            stopping = asyncio.Event()
            async with Gateway(settings) as gateway:
                loop = asyncio.get_running_loop()
                box["stop"] = lambda: loop.call_soon_threadsafe(stopping.set)
                box["gateway"] = gateway
                ready.set()
                await serve(gateway, stopping)

        thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
        thread.start()
        assert ready.wait(WAIT_SECONDS)
        found = Running(self, settings, box["gateway"], box["stop"], thread)
        eventually(found.listens, "the gateway does not listen")
        try:
            yield found
        finally:
            if thread.is_alive():
                found.stop()
            thread.join(timeout=20)

    def ids(self, region_text: str, *messages: tuple[str, str]) -> tuple[int, ...]:
        """The tokens that training would have made of a conversation under a config."""
        tokenizer = HfTokenizer(self.model.path, self.model.tokenizer_digest)
        return tokenizer.encode_chat([("system", region_text), *messages])


@dataclass
class Running:
    """A gateway that answers."""

    world: World
    settings: GatewaySettings
    gateway: Gateway
    stop: Callable[[], None]
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.listen.port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.settings.listen.admin_port}"

    def listens(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.admin}/healthz").status_code == 200
        return False

    def ready(self) -> bool:
        return httpx.get(f"{self.admin}/readyz").status_code == 200

    def ask(self, tenant: str, content: str = "Tell me of pubs.", **fields: Any) -> httpx.Response:
        """A chat completion; ``fields`` are put over the body's."""
        body = {
            "model": "cosalign",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 4,
            "seed": 7,
        }
        body |= fields
        return self.post(tenant, json={k: v for k, v in body.items() if v is not ...})

    def post(
        self, tenant: str, path: str = "/v1/chat/completions", **options: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.world.keys[tenant].key}"}
        headers |= options.pop("headers", {})
        return httpx.post(f"{self.url}{path}", headers=headers, timeout=WAIT_SECONDS, **options)

    def code(self, answer: httpx.Response) -> tuple[int, str]:
        return answer.status_code, answer.json()["error"]["code"]


@contextlib.contextmanager
def world(folder: Path, model: ModelFolder) -> Iterator[World]:
    """An installation of two tenants in two regions, and its model server."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pepper").write_bytes(PEPPER)
    upstream = StandInServer({model.digest: 8192})
    with running(upstream) as url:
        made = World(folder, model, upstream, url)
        for name, region in (("pub", "ie"), ("school", "no")):
            made.config(f"{name}-{region}", region, POLICIES[region])
            made.tenant(name, [region])
        yield made
