"""``POST /v1/chat/completions``: who asks, under which config, of which model, and the answer.

The order matters. Whoever is not known costs nothing but a hash; a body is read only of those who
may ask now; the config is looked up before the prompt is made, and where there is none, nothing is
asked of any model. What came of a request is counted and recorded once, whatever it was.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp

from cosalign.runtime.logs import get_logger
from cosalign.serving.answers import AnswerForm, StreamTranslator, whole_answer
from cosalign.serving.audit import AuditLog, timestamp
from cosalign.serving.authentication import Authenticator
from cosalign.serving.chat_request import ChatRequest, parse_chat_request
from cosalign.serving.config_registry import ConfigRegistry
from cosalign.serving.config_sources import ServableConfig
from cosalign.serving.exchange import (
    STREAM_TYPE,
    Headers,
    HungUpError,
    Receive,
    Scope,
    Send,
    answer,
    begin,
    hung_up,
    read_body,
)
from cosalign.serving.leak_guard import LeakGuard
from cosalign.serving.metrics import UNKNOWN, GatewayMetrics, short
from cosalign.serving.model_requests import Asked, ModelRequests, failure
from cosalign.serving.prompts import Prompt
from cosalign.serving.rate_limits import RateLimits
from cosalign.serving.refusals import Refusal
from cosalign.serving.settings import GatewaySettings
from cosalign.serving.tenants import Caller
from cosalign.serving.whole_body import TooLongError, whole_body

LONGEST_WHOLE = 32 << 20
OK, HUNG_UP = "ok", "hung_up"
GIVEN_UP = (HUNG_UP, "upstream_timeout")
"""Ends of a request of which a model server may have made much that nobody counted."""
GUESSED_TOKENS_PER_SECOND = 100.0
"""What such an answer counts for, up to its longest: a server makes some 25 to 100 for each."""
_log = get_logger(__name__)


@dataclass
class Work:
    """One request, as far as it has come; moments of the steady clock."""

    id: str = field(default_factory=lambda: secrets.token_hex(12))
    received: float = field(default_factory=time.perf_counter)
    caller: Caller | None = None
    config: ServableConfig | None = None
    model: str | None = None
    prompt: Prompt | None = None
    stream: bool = False
    choices: int = 1
    longest: int = 0
    code: str = OK
    answer_tokens: int = 0
    sent: float = 0.0
    begun: float = 0.0
    ready: float = 0.0
    passed_on: float = 0.0
    answering: bool = False

    @property
    def headers(self) -> Headers:
        """Headers of its answer."""
        return [(b"x-request-id", self.id.encode())]

    @property
    def added_seconds(self) -> float | None:
        """Time spent here: until the model was asked, and from its first piece to passing it on."""
        if not self.passed_on:
            return None
        return self.sent - self.received + self.passed_on - self.ready

    def guessed_tokens(self) -> int:
        """About how many tokens a server made of an answer that was given up."""
        made = math.ceil((time.perf_counter() - self.sent) * GUESSED_TOKENS_PER_SECOND)
        return min(made, self.longest) * self.choices


@dataclass(frozen=True)
class ChatEndpoint:
    """The endpoint, an ASGI application.

    Attributes:
        settings: The gateway's.
        authenticator: Knows callers.
        registry: Knows configs.
        limits: Counts what tenants use.
        models: Asks models.
        audit: Takes rows.
        metrics: Counts.
    """

    settings: GatewaySettings
    authenticator: Authenticator
    registry: ConfigRegistry
    limits: RateLimits
    models: ModelRequests
    audit: AuditLog
    metrics: GatewayMetrics
    running: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        work = Work()
        self.running.add(work.id)
        try:
            await self._handled(work, scope, receive, send)
        except Refusal as refusal:
            work.code = refusal.code
            await _say(refusal, work, send)
        except HungUpError:
            work.code = HUNG_UP
        except Exception as problem:  # noqa: BLE001  the caller gets an answer whatever happens
            work.code = "internal_error"
            _log.error("request failed", request=work.id, error=type(problem).__name__)
            await _say(Refusal("internal_error", "something failed here"), work, send)
        finally:
            self.running.discard(work.id)
            self._account(work)

    async def _handled(self, work: Work, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        work.caller = caller = await self.authenticator.caller(headers)
        if scope.get("query_string"):
            raise Refusal("unknown_parameter", "the address takes no parameters")
        if len(self.running) > self.settings.listen.in_flight:
            raise Refusal("overloaded", "too many requests; try again", retry_after=1)
        self.audit.admit()
        with self.limits.request(caller.tenant):
            body = await read_body(headers, receive, caller.tenant.limits.body_bytes)
            request = parse_chat_request(body, self.settings.model_name, caller.tenant.limits)
            work.stream, work.choices = bool(request.stream), request.choices
            work.longest = request.longest_answer(caller.tenant.limits.completion_tokens)
            named = caller.tenant.configs.get(caller.region)
            work.config = self.registry.find(caller.region, named)
            await _until_hung_up(self._answered(work, request, send), receive)

    async def _answered(self, work: Work, request: ChatRequest, send: Send) -> None:
        assert work.caller is not None  # noqa: S101  narrowing
        assert work.config is not None  # noqa: S101
        limits = work.caller.tenant.limits
        try:
            note = partial(self._note, work)
            async with self.models.answer(request, work.config, limits, note) as response:
                work.begun = time.perf_counter()
                if request.stream:
                    await self._streamed(work, request, response, send)
                else:
                    await self._whole(work, request, response, send)
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise failure(problem) from None

    def _note(self, work: Work, asked: Asked | None) -> None:
        """Charges for a prompt that a server is given, and for none that it left undone."""
        before = work.prompt
        if asked is None:
            work.model, work.prompt = None, None
        else:
            work.model, work.prompt, work.sent = asked.model.digest, asked.prompt, asked.sent
        if work.caller is not None:
            self.limits.spend(work.caller.tenant, _length(work.prompt) - _length(before))

    async def _whole(
        self, work: Work, request: ChatRequest, response: aiohttp.ClientResponse, send: Send
    ) -> None:
        try:
            body = await whole_body(response, LONGEST_WHOLE)
        except TooLongError:
            raise Refusal("upstream_error", "the model server's answer is too large") from None
        work.ready = time.perf_counter()
        form = self._form(work, request)
        written, work.answer_tokens = whole_answer(body, form, lambda: self._guard(work))
        work.answering = True
        await answer(send, 200, written, work.headers)
        work.passed_on = time.perf_counter()

    async def _streamed(
        self, work: Work, request: ChatRequest, response: aiohttp.ClientResponse, send: Send
    ) -> None:
        translator = StreamTranslator(
            self._form(work, request), lambda: self._guard(work), wants_usage=request.wants_usage
        )
        try:
            # What came together is passed on together.
            async for data in response.content.iter_any():
                work.ready = work.ready or time.perf_counter()
                written = translator.feed(data)
                if written:
                    await self._pass_on(work, written, send)
                if translator.ended:
                    break
            translator.close()
        finally:
            work.answer_tokens = translator.tokens or translator.pieces
        await send({"type": "http.response.body", "body": b""})

    async def _pass_on(self, work: Work, written: bytes, send: Send) -> None:
        if not work.answering:
            work.answering = True
            await begin(send, 200, STREAM_TYPE, [(b"x-accel-buffering", b"no"), *work.headers])
        await send({"type": "http.response.body", "body": written, "more_body": True})
        work.passed_on = work.passed_on or time.perf_counter()

    def _form(self, work: Work, request: ChatRequest) -> AnswerForm:
        shown = work.prompt.shown_tokens if work.prompt else 0
        fingerprint = f"fp_{short(work.model or '')}"
        return AnswerForm(work.id, self.settings.model_name, fingerprint, shown, request.choices)

    def _guard(self, work: Work) -> LeakGuard:
        config = work.config.text if work.config else ""
        return LeakGuard(config, self.settings.leak_guard_characters)

    def _account(self, work: Work) -> None:
        tenant = work.caller.tenant if work.caller else None
        config = short(work.config.digest) if work.config else UNKNOWN
        labels = (tenant.name if tenant else UNKNOWN, config)
        metrics = self.metrics
        metrics.requests.labels(*labels, work.code).inc()
        prompt_tokens = _length(work.prompt)
        if tenant is not None and work.prompt is not None:
            # Of a stream its pieces were counted.
            if work.code in GIVEN_UP and not work.stream:
                work.answer_tokens = work.answer_tokens or work.guessed_tokens()
            self.limits.spend(tenant, work.answer_tokens)
            metrics.tokens.labels(*labels, "prompt").inc(prompt_tokens)
            metrics.tokens.labels(*labels, "answer").inc(work.answer_tokens)
        if work.added_seconds is not None:
            metrics.added.labels(*labels).observe(work.added_seconds)
            metrics.first_token.observe(work.begun - work.sent)
        # Strangers are counted above and leave no rows: they could crowd out those of callers.
        if tenant is not None and work.code != "audit_unavailable":
            self.audit.record(_row(work, prompt_tokens))


def _length(prompt: Prompt | None) -> int:
    return (prompt.tokens if prompt else 0) or 0


def _row(work: Work, prompt_tokens: int) -> dict[str, Any]:
    caller, config = work.caller, work.config
    return {
        "time": timestamp(),
        "request": work.id,
        "tenant": caller.tenant.name if caller else None,
        "region": caller.region if caller else None,
        "credential": caller.credential if caller else None,
        "config": config.digest if config else None,
        "config_name": config.name if config else None,
        "model": work.model,
        "code": work.code,
        "stream": work.stream,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": work.answer_tokens,
        "seconds": round(time.perf_counter() - work.received, 4),
    }


async def _say(refusal: Refusal, work: Work, send: Send) -> None:
    """Says no: as a status, or, where the answer has begun, as the stream's last event."""
    if not work.answering:
        await answer(send, refusal.status, refusal.body(), [*work.headers, *refusal.headers()])
    elif work.stream:
        event = b"data: " + refusal.body() + b"\n\n"
        await send({"type": "http.response.body", "body": event})


async def _until_hung_up(work: Any, receive: Receive) -> None:
    """Does something for as long as the caller is there; leaves it off at once where they go."""
    doing, watching = asyncio.ensure_future(work), asyncio.ensure_future(hung_up(receive))
    try:
        await asyncio.wait({doing, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise HungUpError
        doing.result()
    finally:
        watching.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.wait({doing})
