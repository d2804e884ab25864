"""From the upstream's answers to those of the chat completions API.

Like requests, answers are written anew from what is allowed in them: text, why it ended, how many
tokens. So an upstream's own model name, its counts of the whole prompt (which would tell the
config's length), prompt log-probabilities and whatever it adds next year stay inside.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cosalign.serving.leak_guard import LeakGuard
from cosalign.serving.refusals import Refusal

DONE = b"data: [DONE]\n\n"
_REASONS = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
_FILTERED = "content_filter"
_LONGEST_EVENT = 1 << 20

Guards = Callable[[], LeakGuard]

_PIECE = re.compile(
    rb'\{"id":"[\w-]+","object":"text_completion","created":\d+,"model":"[\w-]+",'
    rb'"choices":\[\{"index":(\d+),"text":("(?:[^"\\\x00-\x1f]|\\.)*"),'
    rb'"logprobs":null,"finish_reason":null(?:,"[a-z_]+":null)*\}\](?:,"usage":null)?\}'
)
"""A piece of text as vLLM writes it. Its JSON string is passed on as it is, which spares half of
what reading and writing it costs; whatever has another form is read as JSON.
"""


@dataclass(frozen=True)
class AnswerForm:
    """What all pieces of one answer say alike.

    Attributes:
        id: The request's id.
        model: The one model name.
        fingerprint: Of the model behind it.
        shown_tokens: The prompt's length as the caller is told.
        choices: How many answers were asked for.
        created: Seconds since 1970.
    """

    id: str
    model: str
    fingerprint: str
    shown_tokens: int
    choices: int
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        """The fields that open every object."""
        return {
            "id": f"chatcmpl-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def usage(self, completion_tokens: int) -> dict[str, int]:
        """Counts of tokens, as if there were no config."""
        return {
            "prompt_tokens": self.shown_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": self.shown_tokens + completion_tokens,
        }


def garbled() -> Refusal:
    """What is said where the upstream's answer is none."""
    return Refusal("upstream_error", "the model server's answer could not be read; try again")


def _text_of(choice: dict[str, Any]) -> str:
    """A choice's text, whichever endpoint it comes from, whole or a piece."""
    said = choice.get("text")
    if said is None:
        said = (choice.get("delta") or choice.get("message") or {}).get("content")
    return said if isinstance(said, str) else ""


def _completion_tokens(usage: Any) -> int:
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def whole_answer(body: bytes, form: AnswerForm, guards: Guards) -> tuple[bytes, int]:
    """A whole answer, and its tokens.

    Args:
        body: The upstream's.
        form: What the answer says of itself.
        guards: Makes a guard for each choice.

    Raises:
        Refusal: The upstream's is no answer.
    """
    try:
        found = json.loads(body)
        choices = sorted(found["choices"], key=lambda choice: choice["index"])
        tokens = _completion_tokens(found.get("usage"))
        if [choice["index"] for choice in choices] != list(range(form.choices)):
            raise garbled()
        written = [_whole_choice(choice, guards()) for choice in choices]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise garbled() from None
    answer = {
        **form.head("chat.completion"),
        "choices": written,
        "usage": form.usage(tokens),
    }
    return json.dumps(answer).encode(), tokens


def _whole_choice(choice: dict[str, Any], guard: LeakGuard) -> dict[str, Any]:
    text, reason = _text_of(choice), _REASONS.get(choice.get("finish_reason") or "", "stop")
    if guard.leaks(text):
        text, reason = "", _FILTERED
    return {
        "index": choice["index"],
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": None,
        "finish_reason": reason,
    }


class StreamTranslator:
    """A stream of answers, event by event.

    Args:
        form: What each piece says of itself.
        guards: Makes a guard for each choice.
        wants_usage: Whether the caller asked for the count of tokens.

    Attributes:
        tokens: Tokens of the answers, as the upstream counted them at its end.
        pieces: Pieces of text that went through.
        ended: Whether nothing more is to come.
    """

    def __init__(self, form: AnswerForm, guards: Guards, *, wants_usage: bool) -> None:
        self._form = form
        self._guards = [guards() for _ in range(form.choices)]
        self._open = set(range(form.choices))
        self._started = False
        self._rest = b""
        self._wants_usage = wants_usage
        # Written once: a piece of text is then two joins and no object.
        head = json.dumps(form.head("chat.completion.chunk"))[:-1]
        self._head = f'data: {head}, "choices": '
        self._tail = ', "usage": null}\n\n' if wants_usage else "}\n\n"
        self.tokens = 0
        self.pieces = 0
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """What the caller gets for some more bytes of the upstream's.

        Raises:
            Refusal: The upstream reports an error, or what it sends is no answer.
        """
        events = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        self._rest = events.pop()
        if len(self._rest) > _LONGEST_EVENT:
            raise garbled()
        data_events = (event[5:].strip() for event in events if event.startswith(b"data:"))
        return "".join(map(self._event, data_events)).encode()

    def close(self) -> None:
        """Checks that the upstream said all it had to say.

        Raises:
            Refusal: It ended in the middle of an answer.
        """
        if not self.ended:
            raise Refusal("upstream_error", "the model server broke off; try again")

    def _event(self, event: bytes) -> str:
        if self.ended:
            return ""
        if event == b"[DONE]":
            if self._open:
                self.close()
            return self._end()
        try:
            if piece := _PIECE.fullmatch(event):
                quoted = piece[2].decode()
                return self._text(int(piece[1]), json.loads(quoted), quoted)
            chunk = json.loads(event)
            usage, choices = chunk.get("usage"), chunk.get("choices")
        except (ValueError, AttributeError):
            raise garbled() from None
        if "error" in chunk or choices is None:
            raise Refusal("upstream_error", "the model server broke off; try again")
        if usage:
            self.tokens = _completion_tokens(usage)
        return "".join(map(self._choice, choices))

    def _choice(self, choice: dict[str, Any]) -> str:
        index, text, reason = choice.get("index"), _text_of(choice), choice.get("finish_reason")
        if index not in self._open:
            return ""
        written = self._text(index, text, json.dumps(text)) if text else self._opening()
        if reason is not None and index in self._open:
            written += self._last(index, _REASONS.get(reason, "stop"))
        return written

    def _text(self, index: int, text: str, quoted: str) -> str:
        """A piece of text, given plain and as JSON's string."""
        if index not in self._open:
            return ""
        written = self._opening()
        self.pieces += 1
        if self._guards[index].leaks(text):
            return written + self._last(index, _FILTERED)
        return written + self._piece(index, f'{{"content": {quoted}}}', "null")

    def _opening(self) -> str:
        if self._started:
            return ""
        self._started = True
        role = '{"role": "assistant", "content": "", "refusal": null}'
        return "".join(self._piece(i, role, "null") for i in range(self._form.choices))

    def _last(self, index: int, reason: str) -> str:
        self._open.discard(index)
        written = self._piece(index, "{}", f'"{reason}"')
        # The guard may close the last open answer: the upstream's own end is then not waited for.
        if reason == _FILTERED and not self._open:
            written += self._end()
        return written

    def _piece(self, index: int, delta: str, reason: str) -> str:
        choice = (
            f'[{{"index": {index}, "delta": {delta}, "logprobs": null, "finish_reason": {reason}}}]'
        )
        return self._head + choice + self._tail

    def _end(self) -> str:
        self.ended = True
        if not self._wants_usage:
            return DONE.decode()
        usage = json.dumps(self._form.usage(self.tokens or self.pieces))
        return f'{self._head}[], "usage": {usage}}}\n\n' + DONE.decode()
