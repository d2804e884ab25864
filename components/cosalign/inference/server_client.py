"""One request to an OpenAI-compatible server: what its answers mean, and when to ask again.

::

    2xx with a JSON object                        an answer, never asked for twice
    2xx with anything else                        this row failed (``garbled_answer``)
    400, 413, 422 about one row's content         this row failed (too long, filtered)
    400, 401, 402, 403, 404, 3xx, other 4xx       the user's to fix: exit 2
    408, 409, 425, 429, 5xx, no connection,       asked again, with exponential backoff and jitter,
    time-out                                      not before the server's ``Retry-After``

Asking again ends in one of two ways. Where the server gave others good answers between two
attempts, the fault is this row's: after a few such attempts it has failed (``server_error``,
``timeout``). Where it has given nobody a good answer for ``patience_seconds``, it is gone: exit 75,
and what was answered is stored. The last rows of a batch have no others to be compared with; there
the fault is theirs if the server answered well before them and still speaks to us.

httpx rather than the openai package: what is sent are vLLM's extensions, what is read are raw
status and headers, and the retries have to share one view of the server with the window; the
package would bring a second of import and its own retries, to be switched off. A server's messages
may quote the prompt, so only codes are repeated from them.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from cosalign.domain.errors import ConfigError, EngineUnavailable
from cosalign.domain.run_config.engine import ServerSettings
from cosalign.inference.concurrency_window import ConcurrencyWindow
from cosalign.runtime.transient_failures import (
    GARBLED_ANSWER,
    NO_CONNECTION,
    SERVER_ERROR,
    TIMEOUT,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

FAULTS = 4
"""Attempts at a row that the server could not answer while it answered others."""

BACKOFF = wait_random_exponential(multiplier=0.5, max=30.0)
CONNECT_SECONDS = 10.0

_AGAIN = frozenset({408, 409, 425, 429})
_ROW_STATUS = frozenset({400, 413, 422})
_ROW_CODES = {
    "context_length_exceeded": "too_long",
    "string_above_max_length": "too_long",
    "content_filter": "content_filter",
    "content_policy_violation": "content_filter",
    "invalid_prompt": "content_filter",
}
_CODE = re.compile(r"[A-Za-z][\w.\-]{0,63}")
_TOO_LONG = re.compile(r"(maximum )?context length|prompt is too long", re.IGNORECASE)


class RowFailedError(Exception):
    """The server answers, and has no answer to this request; its text is the row's failure."""


class KeyRefusedError(ConfigError):
    """The server does not let us in."""


class _AskAgainError(Exception):
    def __init__(
        self, reason: str, status: int = 0, retry_after: float = 0.0, *, reached: bool = True
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
        self.reached = reached


@dataclass
class _Row:
    """One request on its way: when it was last tried, and how often it failed by its own fault."""

    tried: float
    faults: int = 0


@dataclass
class _Server:
    """What all requests together have seen of the server; times of the steady clock."""

    last_answer: float
    resume_at: float = 0.0
    answers: int = 0
    last_rows: bool = False


class ServerClient:
    """Requests to one server; all must run in the same event loop.

    Args:
        settings: Where the server is, and how patient to be.
        window: Told of every answer and every sign of overload.

    Raises:
        ConfigError: The variable that should hold the key is not set.
    """

    def __init__(self, settings: ServerSettings, window: ConcurrencyWindow) -> None:
        self._settings = settings
        self._window = window
        self._server = _Server(time.monotonic())
        self._http = httpx.AsyncClient(
            headers=_authorization(settings),
            timeout=httpx.Timeout(settings.timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=settings.max_concurrency),
            follow_redirects=False,
        )

    def begin(self) -> None:
        """Starts the server's patience anew, before a batch of requests."""
        self._server = _Server(time.monotonic(), self._server.resume_at)

    def last_rows(self) -> None:
        """Says that no further row of this batch will be sent."""
        self._server.last_rows = True

    async def close(self) -> None:
        """Closes all connections."""
        await self._http.aclose()

    async def get(self, path: str, *, beside: bool = False) -> dict[str, Any]:
        """A GET under the base address, or ``beside`` it; see the module's docstring."""
        base = self._settings.base_url
        return await self._asked("GET", (base.rpartition("/")[0] if beside else base) + path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A POST under the base address; see the module's docstring.

        Raises:
            RowFailedError: The server has no answer to this request.
            ConfigError: The server refuses key, model or request.
            EngineUnavailable: The server is gone.
        """
        return await self._asked("POST", self._settings.base_url + path, body)

    async def _asked(self, method: str, url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        row = _Row(time.monotonic())
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_AskAgainError),
            stop=lambda state: self._hopeless(state, row),
            wait=self._wait,
            sleep=asyncio.sleep,
            reraise=True,
        )
        try:
            return await retrying(self._once, method, url, body)
        except _AskAgainError as problem:
            if self._silent() and not self._last_rows_fault(problem):
                raise self._gone(problem) from None
            raise RowFailedError(str(problem)) from None

    async def _once(self, method: str, url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        await asyncio.sleep(max(0.0, self._server.resume_at - time.monotonic()))
        sent = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                answer = await self._http.request(method, url, json=body)
            found = self._read(answer)
        except (httpx.TimeoutException, TimeoutError) as problem:
            self._window.overloaded(sent, time.monotonic())
            reached = not isinstance(problem, httpx.ConnectTimeout)
            raise _AskAgainError(TIMEOUT, reached=reached) from None
        except httpx.TransportError as problem:
            self._window.overloaded(sent, time.monotonic())
            raise _AskAgainError(NO_CONNECTION, reached=False) from problem
        except httpx.RequestError as problem:
            # It came whole, and cannot be unpacked.
            raise RowFailedError(GARBLED_ANSWER) from problem
        except _AskAgainError as problem:
            self._overloaded(sent, problem)
            raise
        self._server.last_answer = time.monotonic()
        self._server.answers += 1
        self._window.answered(sent, self._server.last_answer)
        return found

    def _overloaded(self, sent: float, problem: _AskAgainError) -> None:
        now = time.monotonic()
        self._window.overloaded(sent, now)
        # A server that asks to be left alone is left alone by all requests, as long as it may be.
        pause = min(problem.retry_after, self._settings.patience_seconds)
        self._server.resume_at = max(self._server.resume_at, now + pause)

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        status = answer.status_code
        if answer.is_success:
            if (found := _json_object(answer)) is None:
                raise RowFailedError(GARBLED_ANSWER)
            return found
        error = _error(answer)
        if status in _AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            if error.get("code") == "insufficient_quota":
                raise ConfigError(f"{self._where}: the account's quota is used up ({status})")
            raise _AskAgainError(SERVER_ERROR, status, _retry_after(answer))
        if status in _ROW_STATUS and (reason := _row_failure(status, error)):
            raise RowFailedError(reason)
        refused = status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        raise (KeyRefusedError if refused else ConfigError)(self._refusal(status, error))

    @property
    def _where(self) -> str:
        return f"models.engine.server {self._settings.base_url}"

    def _refusal(self, status: int, error: Mapping[str, Any]) -> str:
        named = [str(error[key]) for key in ("code", "type", "param") if _is_code(error.get(key))]
        said = f"{status}: {', '.join(named)}" if named else str(status)
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            variable = self._settings.api_key_env
            advice = (
                f"check the key in ${variable}" if variable
                else "set models.engine.server.api_key_env to the variable that holds the key"
            )  # fmt: skip
            return f"{self._where} refuses us ({said}); {advice}"
        if status == HTTPStatus.NOT_FOUND:
            return (
                f"{self._where} knows no such model or path ({said}); check base_url, which ends "
                "with /v1, and the model's name"
            )
        return f"{self._where} refuses the request ({said}); is the model one that can do this?"

    def _silent(self) -> bool:
        return time.monotonic() - self._server.last_answer >= self._settings.patience_seconds

    def _hopeless(self, state: RetryCallState, row: _Row) -> bool:
        problem = state.outcome.exception() if state.outcome else None
        own = self._server.last_answer > row.tried or self._last_rows_fault(problem)
        if own and getattr(problem, "status", 0) != HTTPStatus.TOO_MANY_REQUESTS:
            row.faults += 1
        row.tried = time.monotonic()
        return self._silent() or row.faults >= FAULTS

    def _last_rows_fault(self, problem: BaseException | None) -> bool:
        server = self._server
        return server.last_rows and server.answers > 0 and getattr(problem, "reached", False)

    def _wait(self, state: RetryCallState) -> float:
        left = self._server.last_answer + self._settings.patience_seconds - time.monotonic()
        return min(BACKOFF(state), max(0.0, left))

    def _gone(self, problem: _AskAgainError) -> EngineUnavailable:
        status = f", {problem.status}" if problem.status else ""
        return EngineUnavailable(
            f"{self._where} has given no answer for {self._settings.patience_seconds:g} s "
            f"({problem}{status}); what it answered before is stored: run again when it is back"
        )


def _authorization(settings: ServerSettings) -> dict[str, str]:
    name = settings.api_key_env
    if not name:
        return {}
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"models.engine.server.api_key_env names {name}, and that variable is not set"
        )
    return {"Authorization": f"Bearer {key}"}


def _json_object(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        value = answer.json()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _error(answer: httpx.Response) -> dict[str, Any]:
    """The error object, which stands under ``error`` or, in some servers, alone."""
    body = _json_object(answer) or {}
    error = body.get("error", body)
    return error if isinstance(error, dict) else {}


def _row_failure(status: int, error: Mapping[str, Any]) -> str | None:
    code = error.get("code")
    if isinstance(code, str) and code in _ROW_CODES:
        return _ROW_CODES[code]
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or _TOO_LONG.search(
        str(error.get("message", ""))
    ):
        return "too_long"
    return None


def _is_code(value: object) -> bool:
    """Whether this is an identifier, and not a sentence that might quote a prompt."""
    return isinstance(value, str) and _CODE.fullmatch(value) is not None


def _retry_after(answer: httpx.Response) -> float:
    """Seconds the server asks us to wait; it may say so in seconds or as a date (RFC 9110)."""
    value = answer.headers.get("retry-after", "").strip()
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
