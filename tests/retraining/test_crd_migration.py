"""Objects stored under an older version of the kind are written once more, and then it is said."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.errors import ConfigError
from cosalign.retraining.crd_migration import migrate_configs, stored_configs
from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/safetyconfigs.cosalign.dev"
OBJECTS = re.compile(r"/apis/cosalign.dev/v1/(?:namespaces/([^/]+)/)?safetyconfigs(?:/([^/?]+))?")


@dataclass
class Server:
    """An API server whose kind has versions v1alpha1 and v1, and objects of both.

    Attributes:
        url: Where it is.
        known: Whether the kind is installed.
        stored: The CRD's status.
        objects: The stored version by namespace and name.
        taken: Objects that somebody else takes away before they are written.
        left: Answers until it breaks every connection; ``None`` for never.
    """

    url: str = ""
    known: bool = True
    stored: list[str] = field(default_factory=lambda: ["v1alpha1", "v1"])
    objects: dict[tuple[str, str], str] = field(default_factory=dict)
    taken: set[tuple[str, str]] = field(default_factory=set)
    conflicts: set[tuple[str, str]] = field(default_factory=set)
    writes: int = 0
    dies_at: int | None = None

    def crd(self) -> tuple[int, Any]:
        versions = [{"name": "v1alpha1", "storage": False}, {"name": "v1", "storage": True}]
        plain = {"metadata": {"resourceVersion": "7"}, "spec": {"versions": versions},
                 "status": {"storedVersions": self.stored}}  # fmt: skip
        return (200, plain) if self.known else (404, refusal(404, "NotFound"))

    def listed(self) -> tuple[int, Any]:
        items = [{"metadata": {"namespace": space, "name": name, "resourceVersion": "1"}}
                 for space, name in sorted(self.objects)]  # fmt: skip
        return 200, {"metadata": {}, "items": items}

    def written(self, space: str, name: str) -> tuple[int, Any]:
        self.writes += 1
        if self.dies_at is not None and self.writes >= self.dies_at:
            return 403, refusal(403, "Forbidden")
        if (space, name) in self.taken:
            return 404, refusal(404, "NotFound")
        self.objects[space, name] = "v1"
        # Whoever came first wrote it too, in today's version.
        return (409, refusal(409, "Conflict")) if (space, name) in self.conflicts else (200, {})


def refusal(code: int, reason: str) -> Any:
    details = {"name": "it"}  # a 404 without it means that the kind is not known
    return {"kind": "Status", "code": code, "reason": reason, "message": reason, "details": details}


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(objects={("de", "shop"): "v1alpha1", ("fr", "bank"): "v1"})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self._send(*(state.crd() if path == CRD else state.listed()))

        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == f"{CRD}/status":
                state.stored = body["status"]["storedVersions"]
                self._send(200, {})
                return
            found = OBJECTS.fullmatch(self.path)
            assert found is not None
            self._send(*state.written(found[1], found[2]))

        def log_message(self, *args: object) -> None:
            """Says nothing."""

        def _send(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def api(server: Server, tmp_path: Path) -> Iterator[KubernetesApi]:
    with KubernetesApi(Cluster(server.url, "de", tmp_path / "token", None)) as found:
        yield found


def test_every_object_is_written_and_then_the_list_is_short(
    server: Server, api: KubernetesApi
) -> None:
    found = stored_configs(api)
    assert (found.storage, found.stored, found.old) == ("v1", ("v1alpha1", "v1"), True)
    assert migrate_configs(api, found) == 2
    assert set(server.objects.values()) == {"v1"}
    assert server.stored == ["v1"]
    assert not stored_configs(api).old


def test_what_others_wrote_or_took_away_meanwhile_is_fine(
    server: Server, api: KubernetesApi
) -> None:
    server.conflicts, server.taken = {("de", "shop")}, {("fr", "bank")}
    migrate_configs(api, stored_configs(api))
    assert server.stored == ["v1"]


def test_who_stops_half_way_leaves_the_list_and_starts_again(
    server: Server, api: KubernetesApi
) -> None:
    server.dies_at = 2
    with pytest.raises(ConfigError):
        migrate_configs(api, stored_configs(api))
    assert server.stored == ["v1alpha1", "v1"]
    server.dies_at = None
    migrate_configs(api, stored_configs(api))
    assert (set(server.objects.values()), server.stored) == ({"v1"}, ["v1"])


def test_a_cluster_without_the_kind_is_told(server: Server, api: KubernetesApi) -> None:
    server.known = False
    with pytest.raises(ConfigError, match="install the chart"):
        stored_configs(api)
