"""An OpenAI-compatible server behind the engine interface: ``vllm serve``, or a hosted model.

Two ways to ask, decided by the model's address:

- With a tokenizer (``served:NAME?tokenizer=…``) prompts go out as token ids to ``/v1/completions``,
  just as they would go to an engine of our own. Labels use what vLLM adds to that interface:
  ``allowed_token_ids``, ``min_tokens``, ``ignore_eos`` and ``logprob_token_ids``, whose
  log-probabilities are exact and from before the mask, so that a verdict is the same as offline.
- Without one, messages go to ``/v1/chat/completions``, which writes text and nothing else. There
  labels cannot be had with their probabilities; such a judge has to reason (``judging.mode``).

Requests are open side by side, as many as the window allows, in an event loop of its own thread;
results are handed out as they come. Where one request shows that the rest is in vain, no new one
is sent, and those on their way are waited for: they are paid for.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio.from_thread import start_blocking_portal

from cosalign.domain.errors import ConfigError, CosalignError
from cosalign.domain.run_config import EngineGroup
from cosalign.inference.concurrency_window import ConcurrencyWindow
from cosalign.inference.engine import (
    Generation,
    GenerationRequest,
    Labelling,
    LabelRequest,
    TokenIds,
    Tokenizer,
)
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder
from cosalign.inference.served_model import parse_served
from cosalign.inference.server_client import KeyRefusedError, RowFailedError, ServerClient
from cosalign.runtime.transient_failures import GARBLED_ANSWER

NO_DEFAULTS = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Said aloud: ``vllm serve`` takes a model's own sampling defaults where a request is silent."""

LABEL_ATTEMPTS = 3
"""Answers without labels, and none with, after which a server is one that cannot give them."""

Request = TypeVar("Request", GenerationRequest, LabelRequest)
Result = TypeVar("Result", Generation, Labelling)


class ServerEngine:
    """One served model. Opening it asks the server for its models, so that mistakes show at once.

    Raises:
        ConfigError: No server is named, its key is missing, or it refuses key or model.
        EngineUnavailable: It does not answer.
    """

    def __init__(self, model: ModelFolder, settings: EngineGroup) -> None:
        server = settings.server
        if not server.base_url:
            raise ConfigError(
                f"the model {model.uri!r} is a served one; set models.engine.server.base_url to "
                "the server's address, which ends with /v1"
            )
        self._model = model
        self._served = parse_served(model.uri)
        self._server = server
        self._tokenizer = load_tokenizer(model)
        self._window = ConcurrencyWindow(server.max_concurrency, server.timeout_seconds)
        self._labelled = False
        self._unlabelled = 0
        with ExitStack() as opened:
            self._portal = opened.enter_context(start_blocking_portal())
            self._client = ServerClient(server, self._window)
            opened.callback(lambda: self._portal.call(self._client.close))
            card = self._portal.call(self._introduction)
            self._open: ExitStack | None = opened.pop_all()
        self._max_model_len = min(
            settings.max_model_len, int(card.get("max_model_len") or settings.max_model_len)
        )
        self._description = " ".join(
            ["server", *(str(card[key]) for key in ("owned_by", "version") if card.get(key))]
        )

    @property
    def model_digest(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._model.digest

    @property
    def description(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._description

    @property
    def dtype(self) -> str:
        """What the server computes in; it does not say."""
        return "served"

    @property
    def max_model_len(self) -> int:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._max_model_len

    @property
    def tokenizer(self) -> Tokenizer:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._tokenizer

    @property
    def takes_token_ids(self) -> bool:
        """Whether prompts go out as token ids, and labels can be asked."""
        return bool(self._served.tokenizer)

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Generation]:
        """See :class:`cosalign.inference.engine.Engine`.

        Raises:
            ConfigError: The server refuses key, model or settings.
            EngineUnavailable: The server went away.
        """
        ask = self._continuation if self.takes_token_ids else self._chat_answer
        return self._stream(requests, ask, _not_generated)

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        """See :class:`cosalign.inference.engine.Engine`.

        Raises:
            ConfigError: The server cannot answer in label tokens, or refuses key or model.
            EngineUnavailable: The server went away.
        """
        if not self.takes_token_ids:
            raise self._no_labels("its address names no tokenizer, so it is asked for text alone")
        return self._stream(requests, self._labelling, _not_labelled)

    def close(self) -> None:
        """See :class:`cosalign.inference.engine.Engine`."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _introduction(self) -> dict[str, Any]:
        """What the server says of the model; empty where it keeps no list of models."""
        try:
            listed = await self._client.get("/models")
        except KeyRefusedError:
            raise
        except (ConfigError, RowFailedError):
            # It keeps no list; the first request will tell.
            return {}
        cards = [card for card in listed.get("data") or [] if isinstance(card, dict)]
        own = [card for card in cards if card.get("id") == self._served.name]
        if cards and not own:
            names = ", ".join(sorted(str(card.get("id")) for card in cards)[:10])
            raise ConfigError(
                f"models.engine.server {self._server.base_url} has no model "
                f"{self._served.name!r}; it has: {names}"
            )
        card = dict(own[0]) if own else {}
        if card.get("owned_by") == "vllm":
            card["version"] = await self._version()
        return card

    async def _version(self) -> str:
        try:
            return str((await self._client.get("/version", beside=True)).get("version", ""))
        except (ConfigError, RowFailedError):
            return ""

    def _stream(
        self,
        requests: Iterable[Request],
        ask: Callable[[Request], Awaitable[Result]],
        failed: Callable[[Request, str], Result],
    ) -> Iterator[Result]:
        if self._open is None:
            raise CosalignError("the engine is closed")
        self._client.begin()

        async def asked(request: Request) -> Result:
            try:
                return await ask(request)
            except RowFailedError as problem:
                return failed(request, str(problem))

        return self._flow(iter(requests), asked)

    def _flow(
        self, waiting: Iterator[Request], asked: Callable[[Request], Awaitable[Result]]
    ) -> Iterator[Result]:
        flying: set[Future[Result]] = set()
        problem: BaseException | None = None
        try:
            while True:
                while problem is None and len(flying) < self._window.size:
                    request = next(waiting, None)
                    if request is None:
                        self._client.last_rows()
                        break
                    flying.add(self._portal.start_task_soon(asked, request))
                if not flying:
                    break
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                for future in landed:
                    if (fault := future.exception()) is not None:
                        problem = problem or fault
                    else:
                        yield future.result()
            if problem is not None:
                raise problem
        finally:
            for future in flying:
                future.cancel()

    async def _continuation(self, request: GenerationRequest) -> Generation:
        sampling = request.sampling
        self._check_length(request.token_ids, sampling.max_tokens)
        answer = await self._client.post(
            "/completions",
            {
                **self._drawn(request),
                **NO_DEFAULTS,
                "prompt": list(request.token_ids),
                "max_tokens": sampling.max_tokens,
                "return_token_ids": True,
            },
        )
        choice = _choice(answer)
        text = choice.get("text")
        tokens = choice.get("token_ids")
        count = len(tokens) if isinstance(tokens, list) else _completion_tokens(answer)
        # An end of turn at once is an answer without text; nothing at all is no answer.
        if not isinstance(text, str) or not (text or count):
            raise RowFailedError("empty_answer")
        return Generation(request.request_id, text, count, _finish_reason(choice))

    async def _chat_answer(self, request: GenerationRequest) -> Generation:
        if not request.messages:
            raise CosalignError(f"{self._served.name} takes messages, and the request has none")
        answer = await self._client.post(
            "/chat/completions",
            {
                **self._drawn(request),
                "messages": [{"role": r, "content": c} for r, c in request.messages],
                self._server.length_field: request.sampling.max_tokens,
            },
        )
        choice = _choice(answer)
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        reason = _finish_reason(choice)
        if not isinstance(text, str) or not text.strip():
            raise RowFailedError("empty_answer")
        return Generation(request.request_id, text, _completion_tokens(answer), reason)

    async def _labelling(self, request: LabelRequest) -> Labelling:
        count = len(request.alphabets)
        self._check_length(request.token_ids, count)
        menu = sorted({token for alphabet in request.alphabets for token in alphabet})
        answer = await self._client.post(
            "/completions",
            {
                **NO_DEFAULTS,
                "model": self._served.name,
                "prompt": list(request.token_ids),
                "temperature": 0.0,
                "max_tokens": count,
                "min_tokens": count,
                "ignore_eos": True,
                "allowed_token_ids": menu,
                "logprob_token_ids": menu,
                "logprobs": 1,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
            },
        )
        found = _read_labels(request, _choice(answer))
        if found is None:
            self._unlabelled += 1
            if not self._labelled and self._unlabelled >= LABEL_ATTEMPTS:
                raise self._no_labels("it ignored the limits on tokens (is it vLLM 0.32 or newer?)")
            raise RowFailedError(GARBLED_ANSWER)
        self._labelled = True
        return found

    def _drawn(self, request: GenerationRequest) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self._served.name,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        return {**body, "seed": request.seed % 2**63} if sampling.temperature > 0 else body

    def _check_length(self, token_ids: TokenIds, answer_tokens: int) -> None:
        if not token_ids or not 0 < answer_tokens <= self.max_model_len - len(token_ids):
            raise RowFailedError("too_long" if token_ids else "empty_prompt")

    def _no_labels(self, why: str) -> ConfigError:
        return ConfigError(
            f"the model {self._model.uri!r} cannot answer in label tokens: {why}; set "
            "judging.mode=reasoning to have it judge in text, or serve the judge with vLLM and "
            "name it served:NAME?tokenizer=ADDRESS"
        )


def _not_generated(request: GenerationRequest, reason: str) -> Generation:
    return Generation(request.request_id, "", 0, "error", reason)


def _not_labelled(request: LabelRequest, reason: str) -> Labelling:
    return Labelling(request.request_id, (), (), reason)


def _choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise RowFailedError(GARBLED_ANSWER)
    return choices[0]


def _finish_reason(choice: dict[str, Any]) -> str:
    reason = choice.get("finish_reason")
    if reason not in {"stop", "length"}:
        raise RowFailedError("content_filter" if reason == "content_filter" else GARBLED_ANSWER)
    return str(reason)


def _completion_tokens(answer: dict[str, Any]) -> int:
    usage = answer.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _read_labels(request: LabelRequest, choice: dict[str, Any]) -> Labelling | None:
    """The answers and their probabilities; ``None`` where the server did not give them."""
    try:
        answers = tuple(int(token) for token in choice["token_ids"])
        positions = choice["logprobs"]["top_logprobs"]
        masses = tuple(
            tuple(math.exp(position[f"token_id:{token}"]) for token in alphabet)
            for alphabet, position in zip(request.alphabets, positions, strict=True)
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return Labelling(request.request_id, answers, masses)
