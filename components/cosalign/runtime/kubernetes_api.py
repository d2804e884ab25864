"""The few requests that a pod makes to its own cluster, over the REST API.

httpx rather than the kubernetes package: what is needed is eight verbs on five kinds, and that
package brings pins of its own (urllib3, and kfp holds it below 31) into an image that has no other
use for it. Types of custom objects come from their projects' own packages. Three things that
clients get wrong are taken care of: tokens are rotated under a running process, so the file is read
for each request; a watch ends at any time, without an error; and what was created may have been
created by an earlier attempt whose answer was lost.

::

    401 (twice), 403         ConfigError: the service account lacks a right
    404 of a kind            ConfigError: the kind is not installed
    400, 422                 ConfigError: the object is refused, with the server's reason
    429, 5xx, no answer      asked again with backoff, TransientError after ``patience``
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cosalign.domain.errors import ConfigError, TransientError

if TYPE_CHECKING:
    import httpx

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its token, its namespace and the cluster's certificate authority."""
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
PATIENCE_SECONDS = 600.0
PAGE = 500
"""Objects of one answer to a list."""

Object = dict[str, Any]


class AlreadyExistsError(Exception):
    """Another object has the name."""


class ConflictError(Exception):
    """The object is not as it was when it was read."""


class NoSuchObjectError(Exception):
    """There is no object of that name, or no longer."""


class WatchExpiredError(Exception):
    """The server has forgotten the version that the watch started from (410)."""


@dataclass(frozen=True)
class Cluster:
    """How the API server is reached.

    Attributes:
        url: Its address.
        namespace: The own pod's namespace.
        token: File of the service account's token; none is sent where it is missing.
        authority: File of the certificate authority; the system's own where null.
    """

    url: str
    namespace: str
    token: Path
    authority: Path | None

    @classmethod
    def own(cls, account: Path = ACCOUNT) -> Self:
        """The cluster that this process runs in.

        Raises:
            ConfigError: It runs in none, or its pod has no service account token.
        """
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{n}", "") for n in ("HOST", "PORT"))
        namespace = account / "namespace"
        if not host or not namespace.is_file():
            raise ConfigError(
                "this process is in no pod with a service account, so it cannot ask Kubernetes for "
                "anything; run the step in the cluster, with automountServiceAccountToken on"
            )
        address = f"[{host}]" if ":" in host else host
        return cls(
            f"https://{address}:{port or 443}",
            namespace.read_text("utf-8").strip(),
            account / "token",
            account / "ca.crt",
        )


class KubernetesApi:
    """Requests to an API server; a context manager, safe to use from several threads.

    Args:
        cluster: Where it is.
        patience: Seconds without a good answer before it counts as gone.
    """

    def __init__(self, cluster: Cluster, patience: float = PATIENCE_SECONDS) -> None:
        import ssl

        import httpx

        authority = cluster.authority
        self.namespace = cluster.namespace
        self._cluster = cluster
        self._patience = patience
        self._http = httpx.Client(
            base_url=cluster.url,
            verify=ssl.create_default_context(cafile=str(authority)) if authority else True,
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            # A cluster's own address goes through no proxy.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: str) -> Object:
        """An object, or a list of them.

        Raises:
            NoSuchObjectError: There is none.
        """
        found: Object = self._answer("GET", path, params=query).json()
        return found

    def create(self, path: str, item: Object) -> Object:
        """Creates an object.

        Raises:
            AlreadyExistsError: One of its name is there; perhaps it is this one, created by an
                attempt whose answer was lost.
        """
        made: Object = self._answer("POST", path, json=item).json()
        return made

    def list_all(self, path: str) -> list[Object]:
        """All objects of a kind, in pages, so that a thousand of them fit an answer.

        Args:
            path: Of the kind, with its namespace.
        """
        found: list[Object] = []
        token = ""
        while True:
            more = {"continue": token} if token else {}
            page = self.get(path, limit=str(PAGE), **more)
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def patch(self, path: str, change: Object) -> Object:
        """Merges a change into an object, or into its status where the path ends so.

        Args:
            path: The object's.
            change: What to change; with ``metadata.resourceVersion`` only of that version.

        Raises:
            ConflictError: The object is of another version.
            NoSuchObjectError: There is none.
        """
        headers = {"Content-Type": "application/merge-patch+json"}
        body = json.dumps(change).encode()
        try:
            made: Object = self._answer("PATCH", path, content=body, headers=headers).json()
        except AlreadyExistsError as problem:
            raise ConflictError(str(problem)) from None
        return made

    def delete(self, path: str, uid: str) -> None:
        """Deletes an object and, in the background, what it owns; another one of its name stays."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        try:
            self._answer("DELETE", path, json=options)
        except (NoSuchObjectError, AlreadyExistsError):
            return

    def watch(self, path: str, name: str, version: str, seconds: int) -> Iterator[Object]:
        """Changes of one object as they come, until the server or the network ends the watch.

        Args:
            path: Of the kind, with its namespace.
            name: The object's.
            version: The ``resourceVersion`` to go on from.
            seconds: When the server shall end it.

        Raises:
            WatchExpiredError: Changes since then are no longer known: get the object, start anew.
        """
        import httpx

        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
            "allowWatchBookmarks": "true",
        }
        try:
            with self._opened(path, query, seconds + READ_SECONDS) as lines:
                for line in lines:
                    event: Object = json.loads(line)
                    if event["type"] == "ERROR":
                        raise WatchExpiredError(str(event["object"].get("code")))
                    yield event
        except (httpx.TransportError, ValueError, KeyError):
            # A connection that broke, in the middle of a line perhaps: the caller looks anew.
            return

    def log_lines(self, path: str, **query: str) -> Iterator[str]:
        """The lines of a container's log as they come, until it or the connection ends.

        Raises:
            ConfigError: The service account may not read logs.
        """
        import httpx

        try:
            with self._opened(path, {"follow": "true", **query}, None) as lines:
                yield from lines
        except httpx.TransportError:
            return

    @contextmanager
    def _opened(
        self, path: str, query: dict[str, str], read_seconds: float | None
    ) -> Iterator[Iterator[str]]:
        import httpx

        timeout = httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
        headers = self._authorization()
        with self._http.stream(
            "GET", path, params=query, headers=headers, timeout=timeout
        ) as answer:
            if answer.status_code == HTTPStatus.GONE:
                raise WatchExpiredError("410")
            if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                answer.read()
                raise _refusal(answer, f"GET {path}")
            # What else is wrong with it, the next plain request will say.
            yield answer.iter_lines() if answer.is_success else iter(())

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            stop_after_delay,
            wait_random_exponential,
        )

        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=wait_random_exponential(multiplier=0.2, max=20.0),
            stop=stop_after_delay(self._patience),
            reraise=True,
        )
        send: Callable[[], httpx.Response] = lambda: self._sent(method, path, options)  # noqa: E731
        return retrying(send)

    def _sent(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        import httpx

        given = options.get("headers", {})
        rest = {key: value for key, value in options.items() if key != "headers"}

        def send() -> httpx.Response:
            return self._http.request(
                method, path, headers={**given, **self._authorization()}, **rest
            )

        try:
            answer = send()
            if answer.status_code == HTTPStatus.UNAUTHORIZED:
                # The token was replaced between reading and sending it.
                answer = send()
        except httpx.TransportError as problem:
            raise TransientError(
                f"the Kubernetes API server does not answer ({type(problem).__name__}); try again "
                "later"
            ) from problem
        if answer.is_success:
            return answer
        raise _refusal(answer, f"{method} {path}")

    def _authorization(self) -> dict[str, str]:
        try:
            return {"Authorization": f"Bearer {self._cluster.token.read_text('utf-8').strip()}"}
        except OSError:
            return {}


def _refusal(answer: httpx.Response, asked: str) -> Exception:
    code, status = answer.status_code, _status(answer)
    message = str(status.get("message") or answer.reason_phrase)
    if code == HTTPStatus.CONFLICT:
        return AlreadyExistsError(message)
    if code == HTTPStatus.NOT_FOUND and status.get("details", {}).get("name"):
        return NoSuchObjectError(message)
    if code == HTTPStatus.NOT_FOUND:
        return ConfigError(
            f"Kubernetes knows no such kind ({asked}); install what defines it (Kubeflow Trainer "
            "for TrainJobs), or correct the namespace"
        )
    if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return ConfigError(
            f"Kubernetes refuses this pod's service account: {message}. Bind it to the role that "
            "the chart makes for it"
        )
    if code == HTTPStatus.TOO_MANY_REQUESTS or answer.is_server_error:
        return TransientError(f"the Kubernetes API server answers {code}; try again later")
    return ConfigError(f"Kubernetes refuses {asked}: {message}")


def _status(answer: httpx.Response) -> Object:
    try:
        status = answer.json()
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}
