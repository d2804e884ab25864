"""Asking a model server: which one, for how long, and what its failures mean to the caller.

A request that could not be handed over, or that a server sends back at once because it is full or
no longer serves the model, is given to another server. Once an answer has begun it is that server's
to finish.

aiohttp rather than httpx: with 200 streams at a time over one connection pool httpx took several
times the CPU a request and a piece (docs/design/serving.md), and a gateway is little else. An
upstream's own messages may quote the prompt, so none is passed on.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from secrets import randbelow
from typing import Any

import aiohttp

from cosalign.serving.chat_request import ChatRequest
from cosalign.serving.config_sources import ServableConfig
from cosalign.serving.promoted_model import AnsweringModel, ModelFollower
from cosalign.serving.prompts import Prompt
from cosalign.serving.refusals import Refusal
from cosalign.serving.settings import UpstreamsGroup
from cosalign.serving.tenants import Limits
from cosalign.serving.upstreams import Endpoint, UpstreamPool

ATTEMPTS = 4
"""Servers that are asked before a request is given up."""
TURNS = 24
"""Times that another server is asked at once: it has another model, or, behind an address of
several, one of them is going. Each costs a millisecond; behind one address half of them meet the
server of the model that they ask for, so that one request in a million is not answered at all."""
LISTED_TURNS = 4
"""Turns in which a model that no server lists is asked for only where none is listed."""
RETRY_SECONDS = 5.0
_ELSEWHERE = frozenset({429, 502, 503})
_REJECTED = frozenset({400, 413, 422})


class Unanswered(Enum):
    """Why a server did not answer: it could not, or another one may at once."""

    FULL = auto()
    BY_ANOTHER = auto()


@dataclass(frozen=True)
class Asked:
    """What a server was given to do.

    Attributes:
        model: Who is asked.
        prompt: What it is asked with.
        sent: When, of the steady clock.
    """

    model: AnsweringModel
    prompt: Prompt
    sent: float


Note = Callable[[Asked | None], None]
"""Told what a server was given, before it is; ``None`` once that server has left it undone."""


class ModelRequests:
    """Sends requests to whichever server has the promoted model.

    Args:
        follower: Says which model that is.
        pool: Knows the servers.
        settings: Time-outs.
        http: The connections.
    """

    def __init__(
        self,
        follower: ModelFollower,
        pool: UpstreamPool,
        settings: UpstreamsGroup,
        http: aiohttp.ClientSession,
    ) -> None:
        self._follower = follower
        self._pool = pool
        self._http = http
        # A whole answer is silence until it is there.
        total, connect = settings.total_seconds, settings.connect_seconds
        self._of_whole = aiohttp.ClientTimeout(total=total, sock_connect=connect)
        self._of_stream = aiohttp.ClientTimeout(
            total=total, sock_connect=connect, sock_read=settings.idle_seconds
        )

    def active(self) -> AnsweringModel | None:
        """The model that new requests go to; ``None`` where no server has one."""
        found = self._route([], 0)
        return found[0] if found else None

    @asynccontextmanager
    async def answer(
        self, request: ChatRequest, config: ServableConfig, limits: Limits, note: Note
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Asks the model, and gives the server's response, of status 200, once it has begun.

        Args:
            request: What the caller wants.
            config: The config that applies.
            limits: The tenant's.
            note: Told of each server that is asked.

        Raises:
            Refusal: The prompt is too long, no server could take it, or one refuses it.
        """
        tried: list[Endpoint] = []
        failures = turns = 0
        while failures < ATTEMPTS and turns < TURNS:
            model, endpoint = self._next(tried, turns)
            prompt = await model.prompts.prompt(config.text, request.conversation)
            check_length(prompt, limits, endpoint.models.get(model.served_name))
            body = upstream_body(model.served_name, prompt, request, limits)
            endpoint.in_flight += 1
            note(Asked(model, prompt, time.perf_counter()))
            try:
                timeout = self._of_stream if request.stream else self._of_whole
                response = await self._sent(endpoint, prompt.path, body, timeout)
                if isinstance(response, aiohttp.ClientResponse):
                    try:
                        yield response
                        return
                    finally:
                        # Closed unless read to its end: a server notices, and stops generating.
                        response.release() if response.content.at_eof() else response.close()
            finally:
                endpoint.in_flight -= 1
            note(None)
            tried.append(endpoint)
            failures += response is Unanswered.FULL
            turns += response is Unanswered.BY_ANOTHER
        raise _nobody("overloaded", "are busy")

    def _next(self, tried: list[Endpoint], turn: int) -> tuple[AnsweringModel, Endpoint]:
        # When all were asked, all are asked again: a connection that was idle may only have ended.
        found = self._route(tried, turn) or self._route([], turn)
        if found is None and not self._pool.each_alone:
            # What an address of several lists may be older than its servers.
            found = self._route([], turn, unlisted=True)
        if found is not None:
            return found
        raise _nobody(*(("overloaded", "are busy") if tried else ("model_unavailable", "are gone")))

    def _route(
        self, tried: list[Endpoint], turn: int, *, unlisted: bool = False
    ) -> tuple[AnsweringModel, Endpoint] | None:
        candidates = self._follower.candidates
        shared = not self._pool.each_alone
        if shared and turn and randbelow(2):
            # Behind one address requests meet servers of the promoted model and of the one before
            # in an order of the balancer's. Any fixed order of asking can be in step with it and
            # miss each time; a coin meets half of any.
            candidates = candidates[::-1]
        unlisted = unlisted or (shared and turn >= LISTED_TURNS)
        for model in candidates:
            endpoint = self._pool.choose(model.served_name, tried, unlisted=unlisted)
            if endpoint is not None:
                return model, endpoint
        return None

    async def _sent(
        self, endpoint: Endpoint, path: str, body: bytes, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse | Unanswered:
        """The response, once it has begun, or why another server should be asked."""
        try:
            response = await self._http.post(
                endpoint.url + path,
                data=body,
                headers={"content-type": "application/json", **self._pool.headers},
                timeout=timeout,
                allow_redirects=False,
            )
        except aiohttp.ConnectionTimeoutError:
            self._pool.suspect(endpoint)
            return Unanswered.FULL
        except aiohttp.ClientConnectorError:
            self._pool.suspect(endpoint)
            return self._gone()
        except aiohttp.ServerDisconnectedError:
            # It closed a connection that we held open, or died; its probe tells which.
            return self._gone()
        except TimeoutError:
            raise _timed_out() from None
        except aiohttp.ClientError:
            raise _broken() from None
        if response.status == HTTPStatus.OK:
            return response
        response.close()
        if response.status == HTTPStatus.NOT_FOUND:
            self._pool.suspect(endpoint)
            return Unanswered.BY_ANOTHER
        if response.status in _ELSEWHERE:
            return Unanswered.FULL
        raise _refused(response.status)

    def _gone(self) -> Unanswered:
        # Behind an address of several, the next connection meets another.
        return Unanswered.FULL if self._pool.each_alone else Unanswered.BY_ANOTHER


def check_length(prompt: Prompt, limits: Limits, context: int | None) -> None:
    """Refuses a prompt that is too long.

    The bound that callers meet is the tenant's, a number that says nothing of the config. Whether
    the config leaves room for that much is checked with each prompt, so that no request finds out
    by trying how long it is.

    Raises:
        Refusal: It is longer than the tenant may ask, or the config leaves no room.
    """
    room = limits.prompt_tokens + limits.completion_tokens + prompt.config_tokens
    if context is not None and room > context:
        raise Refusal(
            "config_unservable",
            "this tenant's limits and its safety config do not fit this model together",
        )
    if prompt.shown_tokens > limits.prompt_tokens:
        raise Refusal(
            "prompt_too_long",
            f"the messages have {prompt.shown_tokens} tokens; {limits.prompt_tokens} are taken",
            "messages",
        )


def upstream_body(model: str, prompt: Prompt, request: ChatRequest, limits: Limits) -> bytes:
    """The request to the upstream; every field of it is written here."""
    fields: dict[str, Any] = {
        "model": model,
        **prompt.fields,
        "max_tokens": request.longest_answer(limits.completion_tokens),
        **request.sampling(),
    }
    if request.stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(fields, separators=(",", ":")).encode()


def _nobody(code: str, what: str) -> Refusal:
    message = f"the model's servers {what}; try again in a moment"
    return Refusal(code, message, retry_after=RETRY_SECONDS)


def _timed_out() -> Refusal:
    return Refusal("upstream_timeout", "the model server did not answer in time; try again")


def _broken() -> Refusal:
    return Refusal("upstream_error", "the model server broke off; try again")


def _refused(status: int) -> Refusal:
    if status in _REJECTED:
        return Refusal("upstream_rejected", "the model server does not take these parameters")
    return Refusal("upstream_error", f"the model server answers {status}")


def failure(problem: Exception) -> Refusal:
    """What a failure in the middle of an answer means to the caller."""
    return _timed_out() if isinstance(problem, TimeoutError) else _broken()
