"""An OpenAI-compatible server for tests: it answers as the engine double would, and counts.

It is a real HTTP server (starlette under uvicorn, in a thread of its own), so that what stands
between an engine and its server is tested for real. Its faults are a list that a test fills: each
request takes the next one, and ``None`` means a good answer. What it has answered well is kept in
``answered``, by the content of the request: a content that stands there twice was paid for twice.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cosalign.inference.double import DoubleEngine, DoubleTokenizer
from cosalign.inference.engine import GenerationRequest, LabelRequest, Sampling

MODEL = "double"
CONTEXT = 16384
Body = dict[str, Any]
Fault = Callable[[Body], Response | None] | str | None
"""What makes a response in place of the answer, if it does; ``hang``; ``drop`` (the connection)."""


def status(code: int, headers: dict[str, str] | None = None, /, **error: str) -> Fault:
    """A fault: this status and error object."""
    return lambda _: JSONResponse({"error": error}, code, headers)


def raw(text: str, headers: dict[str, str] | None = None) -> Fault:
    """A fault: status 200 and this for a body."""
    return lambda _: PlainTextResponse(text, headers=headers)


@dataclass
class OpenAiServer:
    """The server's memory, which tests read and write while it runs."""

    url: str
    engine: DoubleEngine
    key: str = ""
    delay: float = 0.0
    token_level: bool = True
    lists_models: bool = True
    faults: list[Fault] = field(default_factory=list)
    always: Fault = None
    asked: list[Body] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    die_after: int | None = None
    capacity: int | None = None
    refused: int = 0
    stop: Callable[[], None] = lambda: None
    _open: int = 0

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._open > 0

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"code": "invalid_api_key"}}, 401)
        if not self.lists_models:
            return JSONResponse({"detail": "Not Found"}, 404)
        card = {"id": MODEL, "owned_by": "test", "max_model_len": CONTEXT}
        return JSONResponse({"data": [card]})

    async def _completions(self, request: Request) -> Response:
        return await self._served(request, self._completion)

    async def _chat(self, request: Request) -> Response:
        return await self._served(request, self._chat_completion)

    async def _served(self, request: Request, answer: Callable[[Body], Body]) -> Response:
        body = json.loads(await request.body())
        self.asked.append(body)
        self._open += 1
        try:
            if self.capacity is not None and self._open > self.capacity:
                self.refused += 1
                return JSONResponse({"error": {"code": "rate_limit_exceeded"}}, 429)
            await asyncio.sleep(self.delay)
            fault = self.faults.pop(0) if self.faults else self.always
            if self.die_after is not None and sum(self.answered.values()) >= self.die_after:
                self.stop()
                fault = "drop"
            if fault == "hang":
                await asyncio.sleep(3600)
            if fault == "drop":
                request.scope["transport"].abort()
                return Response()
            if callable(fault) and (response := fault(body)) is not None:
                return response
            found = answer(body)
        finally:
            self._open -= 1
        self.answered[json.dumps(body.get("prompt") or body["messages"])] += 1
        return JSONResponse(found)

    def _completion(self, body: Body) -> Body:
        ids = tuple(body["prompt"])
        if "allowed_token_ids" in body and self.token_level:
            return _completed(self._labels(ids, body))
        made = self._made(ids, body, body["max_tokens"])
        choice: Body = {"text": made.text, "finish_reason": made.finish_reason}
        if self.token_level:
            choice["token_ids"] = [1] * made.tokens
        return _completed(choice, made.tokens)

    def _labels(self, ids: tuple[int, ...], body: Body) -> Body:
        """Every question over the whole menu; the double's tests know its masses by that."""
        menu = tuple(body["allowed_token_ids"])
        asked = LabelRequest("", ids, (menu,) * body["max_tokens"])
        (found,) = self.engine.label([asked])
        return {
            "text": "",
            "token_ids": list(found.answers),
            "finish_reason": "length",
            "logprobs": {
                "top_logprobs": [
                    {f"token_id:{t}": math.log(m) for t, m in zip(menu, mass, strict=True)}
                    for mass in found.masses
                ]
            },
        }

    def _chat_completion(self, body: Body) -> Body:
        messages = [(m["role"], m["content"]) for m in body["messages"]]
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        made = self._made(DoubleTokenizer().encode_chat(messages), body, limit)
        message = {"role": "assistant", "content": made.text}
        return _completed({"message": message, "finish_reason": made.finish_reason}, made.tokens)

    def _made(self, ids: tuple[int, ...], body: Body, limit: int) -> Any:
        sampling = Sampling(limit, body["temperature"], body.get("top_p", 1.0))
        (made,) = self.engine.generate([GenerationRequest("", ids, sampling, body.get("seed", 0))])
        return made


def _completed(choice: Body, tokens: int = 0) -> Body:
    return {"choices": [{"index": 0, **choice}], "usage": {"completion_tokens": tokens}}


def _expose_transport(app: Any) -> Any:
    """Hands each request its transport, so that a fault can break the connection."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["transport"] = send.__self__.transport
        await app(scope, receive, send)

    return wrapped


@contextmanager
def openai_server(digest: str = "0" * 64) -> Iterator[OpenAiServer]:
    """Runs a server whose model is the double of that digest."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(512)
        port = listening.getsockname()[1]
        state = OpenAiServer(f"http://127.0.0.1:{port}/v1", DoubleEngine(digest, CONTEXT))
        config = uvicorn.Config(
            _expose_transport(state.app()), log_level="critical", lifespan="off", http="h11",
            timeout_graceful_shutdown=1, loop="asyncio",
        )  # fmt: skip
        server = uvicorn.Server(config)

        def stop() -> None:
            state.always = "drop"
            server.should_exit = server.force_exit = True

        state.stop = stop
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield state
        finally:
            stop()
            thread.join(timeout=10)
