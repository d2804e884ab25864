"""A stand-in for a model server: the real interface, answers that say what they answer.

Tests and the benchmark put it where vLLM would be. Its answer begins with the request's seed and a
digest of the prompt that it was given, so that an answer that went to the wrong caller, or was
asked under the wrong config, shows; then come as many pieces as were asked for, at a pace, each
with the seed, so that a piece that went astray shows too.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cosalign.serving.exchange import HungUpError, Receive, Scope, Send, answer, begin, hung_up

Body = dict[str, Any]


def prompt_digest(prompt: Any) -> str:
    """What the stand-in calls a prompt: token ids, or messages."""
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]


def told(body: Body) -> list[str]:
    """The pieces of the stand-in's answer to a request."""
    prompt = body.get("prompt") or [body["messages"], body.get("chat_template_kwargs")]
    seed = body.get("seed")
    first = f"{seed}:{prompt_digest(prompt)}"
    return [first, *(f" {seed}.{i}" for i in range(1, body["max_tokens"]))]


@dataclass
class StandInServer:
    """The server, an ASGI application.

    Attributes:
        models: Context length of each model that it serves, by name.
        pace: Seconds between two pieces.
        tell: The pieces of an answer.
        fault: Called with each request; a status in place of the answer, ``drop`` to break off
            after the first piece, ``hang`` to say nothing.
        asked: Requests that came.
        open: Requests that are being answered.
        hung_up: Requests whose caller went away.
    """

    models: dict[str, int] = field(default_factory=dict)
    pace: float = 0.0
    tell: Callable[[Body], list[str]] = told
    fault: Callable[[Body], int | str | None] = lambda _: None
    asked: list[Body] = field(default_factory=list)
    keep: bool = True
    open: int = 0
    hung_up: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["path"] == "/v1/models":
            cards = [{"id": n, "max_model_len": length} for n, length in self.models.items()]
            await answer(send, 200, json.dumps({"data": cards}).encode(), [])
            return
        pieces = b""
        while True:
            event = await receive()
            pieces += event.get("body", b"")
            if not event.get("more_body"):
                break
        body: Body = json.loads(pieces)
        if self.keep:
            self.asked.append(body)
        self.open += 1
        try:
            await self._answered(body, scope["path"], receive, send)
        except HungUpError:
            self.hung_up += 1
        finally:
            self.open -= 1

    async def _answered(self, body: Body, path: str, receive: Receive, send: Send) -> None:
        fault = self.fault(body)
        if body["model"] not in self.models:
            fault = 404
        if isinstance(fault, int):
            # A real server's message may quote the prompt; so does this one.
            said = {"error": {"message": json.dumps(body), "code": fault}}
            await answer(send, fault, json.dumps(said).encode(), [])
            return
        watch = asyncio.ensure_future(hung_up(receive))
        try:
            if fault == "hang":
                await watch
                raise HungUpError
            chat = path.endswith("/chat/completions")
            if body.get("stream"):
                await self._streamed(body, chat, fault, watch, send)
            else:
                await self._whole(body, chat, watch, send)
        finally:
            watch.cancel()

    async def _whole(self, body: Body, chat: bool, watch: Any, send: Send) -> None:
        pieces = self.tell(body)
        await self._wait(self.pace * len(pieces), watch)
        text = "".join(pieces)
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choices = [
            {"index": i, **said, "finish_reason": "stop", "prompt_logprobs": [1.5]}
            for i in range(body.get("n", 1))
        ]
        found = {"model": body["model"], "choices": choices, "usage": _usage(body, pieces)}
        await answer(send, 200, json.dumps(found).encode(), [])

    async def _streamed(self, body: Body, chat: bool, fault: Any, watch: Any, send: Send) -> None:
        await begin(send, 200, b"text/event-stream", [])
        pieces = self.tell(body)
        for number, piece in enumerate(pieces):
            await self._wait(self.pace, watch)
            last = number == len(pieces) - 1
            for index in range(body.get("n", 1)):
                await _event(send, _chunk(body, index, piece, chat, "stop" if last else None))
            if fault == "drop":
                # Ends in the middle, as a server that dies does.
                await send({"type": "http.response.body", "body": b""})
                return
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = _usage(body, pieces)
            await _event(send, {"model": body["model"], "choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _wait(self, seconds: float, watch: Any) -> None:
        if seconds:
            await asyncio.sleep(seconds)
        if watch.done():
            raise HungUpError


def _usage(body: Body, pieces: list[str]) -> Body:
    prompt, answered = len(body.get("prompt") or "") or 1000, len(pieces) * body.get("n", 1)
    return {"prompt_tokens": prompt, "completion_tokens": answered}


def _chunk(body: Body, index: int, piece: str, chat: bool, reason: str | None) -> Body:
    said: Body = {"delta": {"content": piece}} if chat else {"text": piece}
    ended = {"logprobs": None, "finish_reason": reason, "stop_reason": None}
    choice = {"index": index, **said, **ended}
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {"id": "cmpl-1", "object": kind, "created": 1, "model": body["model"],
            "choices": [choice]}  # fmt: skip


async def _event(send: Send, value: Body) -> None:
    # Without spaces, as vLLM writes it.
    body = b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})
