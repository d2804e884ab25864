"""A Kubernetes API server for tests: TrainJobs by their real CRD, pods, logs, watches, and faults.

A real HTTP server in a thread, so that what stands between a step and its cluster is tested for
real. What Trainer and its jobs would do, a test does: it sets conditions and adds pods, in a script
that runs when a job is created.
"""

from __future__ import annotations

import asyncio
import copy
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.training.trainjob_schema import train_job_problems, with_defaults

from cosalign.runtime.kubernetes_api import Cluster

Object = dict[str, Any]
NAMESPACE = "region-tests"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def refusal(code: int, reason: str, message: str = "", name: str = "") -> Response:
    """A ``Status`` object as the API server sends it."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    status |= {"reason": reason, "message": message or reason}
    return JSONResponse({**status, **({"details": {"name": name}} if name else {})}, code)


@dataclass
class ClusterDouble:
    """The server's memory, which tests read and write while it runs.

    Attributes:
        cluster: How to reach it.
        jobs: TrainJobs by name.
        pods: Pods by name.
        logs: Lines of each pod's log, with their time stamps.
        script: Runs in a thread of its own whenever a job is created, with the job's name.
        faults: The next plain requests take one each: a status, ``drop``, or ``late`` (does what
            is asked, and breaks the connection before the answer).
        watch_faults: The next watches take one each: ``drop``, ``torn``, ``gone`` (an event that
            says so), ``410`` (the status), ``end``.
        asked: Method and path of each request that had a good token.
        tokens: Tokens that are good.
    """

    cluster: Cluster
    jobs: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    script: Callable[[str], None] = lambda _: None
    faults: list[int | str] = field(default_factory=list)
    watch_faults: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    created: list[Object] = field(default_factory=list)
    tokens: set[str] = field(default_factory=lambda: {"token"})
    deletes: bool = True
    forbidden: bool = False
    logs_forbidden: bool = False
    installed: bool = True
    _version: int = 100
    _events: list[tuple[int, str, Object]] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def condition(self, name: str, kind: str, status: str = "True", reason: str = "") -> None:
        """Sets a job's condition, as Trainer does."""
        with self._lock:
            job = self.jobs[name]
            entry = {"type": kind, "status": status, "reason": reason or kind, "message": "told"}
            entry["lastTransitionTime"] = "2026-11-01T00:00:00Z"
            others = [c for c in job.get("status", {}).get("conditions", []) if c["type"] != kind]
            job["status"] = {"conditions": [*others, entry]}
            assert train_job_problems(_without_server_fields(job)) == []
            self._event("MODIFIED", job)

    def pod(
        self, job: str, phase: str, log: tuple[str, ...] = (), node: int = 0, **status: Any
    ) -> None:
        """Adds or changes the one pod of one of a job's nodes."""
        name = f"{job}-node-0-{node}"
        self.pods[name] = {
            "metadata": {"name": name, "labels": {"jobset.sigs.k8s.io/jobset-name": job}},
            "status": {"phase": phase, **status},
        }
        self.logs.setdefault(name, []).extend(log)

    def remove(self, name: str) -> None:
        """Deletes a job, as anybody may."""
        with self._lock:
            self._event("DELETED", self.jobs.pop(name))

    def wait(self) -> None:
        """Returns once all scripts have ended."""
        for thread in self._threads:
            thread.join(30)

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route(JOBS, self._guarded(self._create), methods=["POST"]),
                Route(JOBS, self._watch, methods=["GET"]),
                Route(f"{JOBS}/{{name}}", self._guarded(self._get), methods=["GET"]),
                Route(f"{JOBS}/{{name}}", self._guarded(self._delete), methods=["DELETE"]),
                Route(PODS, self._guarded(self._pods), methods=["GET"]),
                Route(f"{PODS}/{{name}}", self._guarded(self._pod), methods=["GET"]),
                Route(f"{PODS}/{{name}}/log", self._log, methods=["GET"]),
            ]
        )

    def _guarded(self, handler: Callable[[Request, Object], Response]) -> Any:
        async def guarded(request: Request) -> Response:
            body = json.loads(await request.body() or b"{}")
            if not self._lets_in(request):
                return refusal(401, "Unauthorized")
            self.asked.append(f"{request.method} {request.url.path}")
            if self.forbidden:
                return refusal(403, "Forbidden", "trainjobs is forbidden: User cannot create")
            if not self.installed and "trainjobs" in request.url.path:
                return PlainTextResponse("404 page not found", 404)
            fault = self.faults.pop(0) if self.faults else None
            if fault == "drop":
                request.scope["transport"].abort()
                return Response()
            if isinstance(fault, int):
                return refusal(fault, "InternalError")
            with self._lock:
                answer = handler(request, body)
            if fault == "late":
                request.scope["transport"].abort()
            return answer

        return guarded

    def _lets_in(self, request: Request) -> bool:
        return request.headers.get("authorization", "").removeprefix("Bearer ") in self.tokens

    def _create(self, _request: Request, body: Object) -> Response:
        name = body["metadata"]["name"]
        if name in self.jobs:
            return refusal(409, "AlreadyExists", name=name)
        if problems := train_job_problems(body):
            return refusal(422, "Invalid", "; ".join(problems), name)
        job = with_defaults(copy.deepcopy(body))
        self._version += 1
        job["metadata"]["uid"] = f"uid-{self._version}"
        self.jobs[name] = job
        self.created.append(copy.deepcopy(job))
        self._event("ADDED", job)
        thread = threading.Thread(target=self.script, args=(name,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return JSONResponse(job, 201)

    def _get(self, request: Request, _body: Object) -> Response:
        name = request.path_params["name"]
        if name not in self.jobs:
            return refusal(404, "NotFound", name=name)
        return JSONResponse(self.jobs[name])

    def _delete(self, request: Request, body: Object) -> Response:
        name = request.path_params["name"]
        if name not in self.jobs:
            return refusal(404, "NotFound", name=name)
        assert body["propagationPolicy"] == "Background"
        if body["preconditions"]["uid"] != self.jobs[name]["metadata"]["uid"]:
            return refusal(409, "Conflict", name=name)
        if self.deletes:
            self.remove(name)
        return JSONResponse({"kind": "Status", "status": "Success"})

    def _pods(self, request: Request, _body: Object) -> Response:
        key, _, value = request.query_params["labelSelector"].partition("=")
        found = [pod for pod in self.pods.values() if pod["metadata"]["labels"].get(key) == value]
        return JSONResponse({"kind": "PodList", "items": found})

    def _pod(self, request: Request, _body: Object) -> Response:
        name = request.path_params["name"]
        if name not in self.pods:
            return refusal(404, "NotFound", name=name or "-")
        return JSONResponse(self.pods[name])

    def _event(self, kind: str, job: Object) -> None:
        self._version += 1
        job["metadata"]["resourceVersion"] = str(self._version)
        self._events.append((self._version, kind, copy.deepcopy(job)))

    async def _watch(self, request: Request) -> Response:
        query = request.query_params
        assert query["watch"] == "true"
        name = query["fieldSelector"].removeprefix("metadata.name=")
        fault = self.watch_faults.pop(0) if self.watch_faults else None
        if fault == "410":
            return refusal(410, "Expired")
        if fault == "drop":
            request.scope["transport"].abort()
        return StreamingResponse(
            self._changes(name, int(query["resourceVersion"]), int(query["timeoutSeconds"]), fault)
        )

    async def _changes(
        self, name: str, seen: int, seconds: int, fault: str | None
    ) -> AsyncIterator[str]:
        if fault == "gone":
            error = json.loads(bytes(refusal(410, "Expired").body))
            yield f"{json.dumps({'type': 'ERROR', 'object': error})}\n"
            return
        if fault == "torn":
            yield '{"type": "MODIF'
            return
        yield f"{json.dumps({'type': 'BOOKMARK', 'object': {'metadata': {}}})}\n"
        end = time.monotonic() + (0 if fault == "end" else seconds)
        while time.monotonic() < end:
            with self._lock:
                fresh = [event for event in self._events if event[0] > seen]
            for version, kind, job in fresh:
                seen = version
                if job["metadata"]["name"] == name:
                    yield f"{json.dumps({'type': kind, 'object': job})}\n"
            await asyncio.sleep(0.01)

    async def _log(self, request: Request) -> Response:
        if self.logs_forbidden:
            return refusal(403, "Forbidden", "pods is forbidden: cannot get resource pods/log")
        name, since = request.path_params["name"], request.query_params.get("sinceTime", "")
        assert request.query_params["timestamps"] == "true"
        lines = [line for line in self.logs[name] if line >= since.removesuffix("Z")]
        # It breaks off after two lines, as logs do when they are rotated.
        return PlainTextResponse("".join(f"{line}\n" for line in lines[:2]))


def _without_server_fields(job: Object) -> Object:
    return {name: job[name] for name in ("apiVersion", "kind", "metadata", "spec", "status")}


def _expose_transport(app: Any) -> Any:
    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["transport"] = send.__self__.transport
        await app(scope, receive, send)

    return wrapped


@contextmanager
def cluster_double(folder: Path) -> Iterator[ClusterDouble]:
    """Runs a server; the token lies in ``folder``."""
    token = folder / "token"
    token.write_text("token\n")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        state = ClusterDouble(Cluster(url, NAMESPACE, token, None))
        config = uvicorn.Config(
            _expose_transport(state.app()), log_level="critical", lifespan="off", http="h11",
            timeout_graceful_shutdown=1, loop="asyncio",
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield state
        finally:
            server.should_exit = server.force_exit = True
            thread.join(timeout=10)
