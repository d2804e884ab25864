"""A Kubernetes API server that holds SafetyConfigs and events, on this machine.

A real HTTP server, so that what stands between reconcile and a cluster is tested for real: pages,
versions, conflicts. A status is held against the schema of the chart's CRD.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml
from jsonschema import Draft7Validator

from cosalign.runtime.kubernetes_api import Cluster

Object = dict[str, Any]
CRD = Path(__file__).parents[2] / "charts/cosalign/crds/safetyconfigs.cosalign.dev.yaml"
_CONFIGS = re.compile(r"/apis/cosalign.dev/v1alpha1/namespaces/([^/]+)/safetyconfigs")
_CONFIG = re.compile(rf"{_CONFIGS.pattern}/([^/]+)(/status)?")
_EVENTS = re.compile(r"/api/v1/namespaces/([^/]+)/events")


def _schema() -> Object:
    version = yaml.safe_load(CRD.read_text("utf-8"))["spec"]["versions"][0]
    schema: Object = version["schema"]["openAPIV3Schema"]
    return schema


@dataclass
class ConfigServer:
    """What the server holds.

    Attributes:
        cluster: How to reach it.
        configs: By namespace and name.
        events: By name.
        before_patch: Is called before each change of a status, with namespace and name.
        patches: How many statuses were changed.
        problems: What was wrong with statuses that were sent.
    """

    cluster: Cluster
    configs: dict[tuple[str, str], Object] = field(default_factory=dict)
    events: dict[str, Object] = field(default_factory=dict)
    before_patch: Callable[[str, str], None] = lambda *_: None
    patches: int = 0
    problems: list[str] = field(default_factory=list)
    _version: int = 100
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def apply(self, document: Object, namespace: str = "regions") -> None:
        """Creates or changes a config, as ``kubectl apply`` does."""
        with self._lock:
            name = document["metadata"]["name"]
            known = self.configs.get((namespace, name))
            generation = 1 if known is None else known["metadata"]["generation"]
            changed = known is not None and known["spec"] != document["spec"]
            self.configs[namespace, name] = {
                **copy.deepcopy(document),
                "metadata": {
                    **document["metadata"], "namespace": namespace, "uid": f"uid-{name}",
                    "generation": generation + changed, "managedFields": [{"manager": "kubectl"}],
                },
                **({"status": known["status"]} if known and "status" in known else {}),
            }  # fmt: skip
            self.touch(namespace, name)

    def touch(self, namespace: str, name: str) -> None:
        """Makes a new version of an object."""
        with self._lock:
            self._version += 1
            self.configs[namespace, name]["metadata"]["resourceVersion"] = str(self._version)

    def status(self, name: str, namespace: str = "regions") -> Object:
        found: Object = self.configs[namespace, name].get("status", {})
        return found

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        """Status and reason of a condition."""
        conditions = self.status(name)["conditions"]
        (found,) = [c for c in conditions if c["type"] == kind]
        return found["status"], found["reason"]

    def listed(self, namespace: str, query: dict[str, list[str]]) -> Object:
        with self._lock:
            items = [copy.deepcopy(c) for (space, _), c in sorted(self.configs.items())
                     if space == namespace]  # fmt: skip
        start = int(query.get("continue", ["0"])[0])
        limit = int(query["limit"][0])
        # Items of a list carry neither version nor kind.
        page = [{k: v for k, v in item.items() if k not in ("apiVersion", "kind")}
                for item in items[start : start + limit]]  # fmt: skip
        more = {"continue": str(start + limit)} if start + limit < len(items) else {}
        return {"kind": "SafetyConfigList", "metadata": more, "items": page}

    def patched(self, namespace: str, name: str, change: Object) -> tuple[int, Object]:
        self.before_patch(namespace, name)
        with self._lock:
            found = self.configs[namespace, name]
            if change["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
                return 409, _refusal(409, "Conflict", name)
            status = _merged(found.get("status", {}), change["status"])
            checked = {**found, "status": status}
            errors = Draft7Validator(_schema()).iter_errors(checked)
            self.problems += [f"{name}: {e.json_path}: {e.message}" for e in errors]
            found["status"] = status
            self.patches += 1
            self.touch(namespace, name)
            return 200, copy.deepcopy(found)

    def created(self, event: Object) -> tuple[int, Object]:
        with self._lock:
            name = event["metadata"]["name"]
            if name in self.events:
                return 409, _refusal(409, "AlreadyExists", name)
            self.events[name] = event
            return 201, event


def _merged(there: Any, change: Any) -> Any:
    """JSON merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    found = dict(there) if isinstance(there, dict) else {}
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _merged(found.get(key), value)
    return found


def _refusal(code: int, reason: str, name: str) -> Object:
    return {"kind": "Status", "code": code, "reason": reason, "message": reason,
            "details": {"name": name}}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    state: ConfigServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if found := _CONFIGS.fullmatch(url.path):
            self._send(200, self.state.listed(found[1], parse_qs(url.query)))
        elif found := _CONFIG.fullmatch(url.path):
            config = self.state.configs.get((found[1], found[2]))
            missing = _refusal(404, "NotFound", found[2])
            self._send(*((404, missing) if config is None else (200, config)))

    def do_PATCH(self) -> None:
        found = _CONFIG.fullmatch(self.path)
        assert found is not None
        assert found[3] == "/status"
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        body = self._body()
        if (found[1], found[2]) not in self.state.configs:
            self._send(404, _refusal(404, "NotFound", found[2]))
            return
        self._send(*self.state.patched(found[1], found[2], body))

    def do_POST(self) -> None:
        assert _EVENTS.fullmatch(self.path)
        self._send(*self.state.created(self._body()))

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def _body(self) -> Object:
        found: Object = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def _send(self, status: int, body: Object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def config_server(folder: Path) -> Iterator[ConfigServer]:
    """Runs a server; its token lies in ``folder``."""
    (folder / "token").write_text("token")
    state = ConfigServer(Cluster("", "regions", folder / "token", None))

    class Handler(_Handler):
        pass

    Handler.state = state
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    state.cluster = Cluster(url, "regions", folder / "token", None)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
