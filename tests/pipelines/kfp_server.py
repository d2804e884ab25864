"""Kubeflow Pipelines' REST API on this machine, as far as a client that submits runs sees it.

Every request is held against upstream's own definition: its path, its query parameters, and each
body against its schema with unknown fields refused. What breaks it is kept in ``violations``.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

from jsonschema import Draft4Validator

API = json.loads((Path(__file__).parent / "kfp_api/kfp_api.swagger.json").read_text("utf-8"))
Body = dict[str, Any]


@dataclass
class FakeKubeflow:
    """What the server holds; ``states`` are given out one after the other, the last for ever.

    ``looks`` are the statuses that looks at a run are answered with first; ``task_states`` are the
    states of its tasks, by name.
    """

    pipelines: list[Body] = field(default_factory=list)
    versions: list[Body] = field(default_factory=list)
    experiments: list[Body] = field(default_factory=list)
    runs: list[Body] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=lambda: ["SUCCEEDED"])
    looks: list[int] = field(default_factory=list)
    task_states: list[tuple[str, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    message: str = ""
    url: str = ""

    def state(self) -> str:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@contextmanager
def kfp_server(host: str = "127.0.0.1") -> Iterator[FakeKubeflow]:
    """Serves on a free port of an address."""
    fake = FakeKubeflow()

    class Handler(_Handler):
        kubeflow = fake

    server = ThreadingHTTPServer((host, 0), Handler)
    fake.url = f"http://{host}:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    kubeflow: FakeKubeflow

    def do_GET(self) -> None:
        self._answer("get", None)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer("post", data)

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def _answer(self, method: str, data: bytes | None) -> None:
        url, fake = urlparse(self.path), self.kubeflow
        fake.requests.append(f"{method.upper()} {url.path}")
        fake.tokens.add(self.headers.get("Authorization", ""))
        if fake.answers and not url.path.endswith("healthz"):
            self._send(fake.answers.pop(0), {"error": "told to"})
            return
        body = self._checked(method, url.path, parse_qs(url.query), data)
        route = f"{method} {url.path.removeprefix('/apis/v2beta1')}"
        self._send(*self._routed(route, parse_qs(url.query), body))

    def _routed(self, route: str, query: dict[str, list[str]], body: Any) -> tuple[int, Body]:
        fake = self.kubeflow
        answers: dict[str, Callable[[], Body]] = {
            "get /healthz": lambda: {"multi_user": False},
            "get /pipelines": lambda: {"pipelines": _filtered(fake.pipelines, query)},
            "post /pipelines": lambda: _stored(fake.pipelines, {**body, "pipeline_id": "p1"}),
            "get /pipelines/p1/versions": lambda: {
                "pipeline_versions": _filtered(fake.versions, query)
            },
            "post /pipelines/upload_version": lambda: self._version(query, body),
            "get /experiments": lambda: {"experiments": _filtered(fake.experiments, query)},
            "post /experiments": lambda: _stored(fake.experiments, {**body, "experiment_id": "e1"}),
            "post /runs": lambda: self._started(body),
            "get /runs": lambda: {"runs": _filtered(fake.runs, query)},
        }
        if route.startswith("post /runs/") and route.endswith(":terminate"):
            fake.terminated.append(route.removeprefix("post /runs/").removesuffix(":terminate"))
            return 200, {}
        if route.startswith("get /runs/"):
            if fake.looks and (status := fake.looks.pop(0)) != HTTPStatus.OK:
                return status, {"error": "told to"}
            run = self._run(route.rpartition("/")[2])
            return (404, {"error": "no such run"}) if run is None else (200, run)
        if route not in answers:
            return 404, {"error": f"no route {route}"}
        return 200, answers[route]()

    def _version(self, query: dict[str, list[str]], package: str) -> Body:
        self.kubeflow.packages.append(package)
        made = {
            "pipeline_id": query["pipelineid"][0],
            "display_name": query["name"][0],
            "pipeline_version_id": f"v{len(self.kubeflow.versions) + 1}",
        }
        return _stored(self.kubeflow.versions, made)

    def _started(self, body: Body) -> Body:
        runs = self.kubeflow.runs
        own = {"run_id": f"r{len(runs) + 1}", "created_at": f"2026-05-01T12:00:{len(runs):02}Z"}
        return _stored(runs, {**body, **own})

    def _run(self, run_id: str) -> Body | None:
        run = next((run for run in self.kubeflow.runs if run["run_id"] == run_id), None)
        if run is None:
            return None
        state = self.kubeflow.state()
        error = {"error": {"code": 13, "message": self.kubeflow.message}}
        tasks = [{"display_name": name, "state": s} for name, s in self.kubeflow.task_states]
        return {
            **run,
            "state": state,
            "run_details": {"task_details": tasks},
            **(error if self.kubeflow.message else {}),
        }

    def _checked(
        self, method: str, path: str, query: dict[str, list[str]], data: bytes | None
    ) -> Any:
        operation = _operation(method, path)
        if operation is None:
            self.kubeflow.violations.append(f"{method} {path} is no operation of the API")
            return {}
        known = {p["name"] for p in operation.get("parameters", []) if p["in"] == "query"}
        wrong = [f"{path}: no query parameter {name!r}" for name in query.keys() - known]
        self.kubeflow.violations += wrong
        if not data:
            return None
        if "multipart/form-data" in operation.get("consumes", []):
            return _uploaded(self.headers.get("Content-Type", ""), data)
        body = json.loads(data)
        (schema,) = [p["schema"] for p in operation["parameters"] if p["in"] == "body"]
        problems = Draft4Validator(_closed(schema)).iter_errors(body)
        self.kubeflow.violations += [f"{path}: {p.json_path}: {p.message}" for p in problems]
        return body

    def _send(self, status: int, body: Body) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _operation(method: str, path: str) -> Body | None:
    # Literal paths first: /pipelines/upload_version is no pipeline's id.
    for template in sorted(API["paths"], key=lambda t: t.count("{")):
        pattern = re.sub(r"\\\{[^/]*?\\\}", "[^/:]+", re.escape(template))
        if re.fullmatch(pattern, path) and method in API["paths"][template]:
            found: Body = API["paths"][template][method]
            return found
    return None


def _closed(schema: Body) -> Body:
    """A body's schema with unknown fields refused wherever the definition lists fields."""
    definitions = {
        name: {**d, "additionalProperties": d.get("additionalProperties", False)}
        if "properties" in d
        else d
        for name, d in API["definitions"].items()
    }
    return {**schema, "definitions": definitions}


def _filtered(items: list[Body], query: dict[str, list[str]]) -> list[Body]:
    """Items that a filter lets through; kfp's client filters by ``name`` and by display name."""
    wanted = [p for text in query.get("filter", []) for p in json.loads(text)["predicates"]]
    names = [p.get("stringValue", p.get("string_value")) for p in wanted]
    return [item for item in items if all(item["display_name"] == name for name in names)]


def _stored(items: list[Body], item: Body) -> Body:
    items.append(item)
    return item


def _uploaded(content_type: str, data: bytes) -> str:
    message = BytesParser().parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + data
    )
    (part,) = [part for part in message.walk() if not part.is_multipart()]
    package = part.get_payload(decode=True)
    assert isinstance(package, bytes)
    return package.decode()
