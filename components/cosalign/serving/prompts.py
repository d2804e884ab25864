"""How a config and a conversation become the upstream's prompt: in the form that training used.

``tokens`` (the default): the whole conversation is rendered by the model's own chat template and
tokenised here, contents apart from control tokens, and goes out as ids to ``/v1/completions``. A
server that renders messages itself turns ``<|im_end|>`` in a user's text into the end of a turn;
token ids leave it the text that it is. The same tokenizer says how long a prompt is before anything
is paid for.

``template`` and ``system`` send messages, for servers that take no token ids. There a text that
spells one of the model's control tokens can only be refused; what is sent is counted as above, so
the tokenizer has to be known all the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cosalign.domain.errors import ModelError
from cosalign.inference.safety_template import ARGUMENT, SPACE_MARK
from cosalign.serving.refusals import Refusal

if TYPE_CHECKING:
    from cosalign.inference.hf_tokenizer import HfTokenizer

LONG_CHARACTERS = 16_000
"""Longer conversations are tokenised beside the event loop: this many take some 5 ms."""
CONFIGS_KEPT = 1024

Conversation = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Prompt:
    """A prompt as the upstream gets it.

    Attributes:
        path: The endpoint.
        fields: What is particular to it: ``prompt``, or ``messages``.
        tokens: Its length, the config's included.
        shown_tokens: The length that the caller is told: without the config.
    """

    path: str
    fields: dict[str, Any]
    tokens: int
    shown_tokens: int

    @property
    def config_tokens(self) -> int:
        """What the config adds."""
        return self.tokens - self.shown_tokens


class PromptForm(Protocol):
    """A way of sending prompts."""

    async def prompt(self, config: str, conversation: Conversation) -> Prompt:
        """The prompt of a conversation under a config's text.

        Raises:
            Refusal: The model's template cannot express it, or it may not be sent.
        """
        ...


class TokenPrompts:
    """Prompts as token ids.

    Args:
        folder: The model's tokenizer.
        digest: Its digest.

    Attributes:
        tokenizer: The tokenizer, for the event loop's thread alone.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder, self._digest = folder, digest
        self.tokenizer = _loaded(folder, digest)
        # A tokenizer is switched between trusted and plain text, so each thread has its own.
        self._beside: HfTokenizer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._config_tokens: dict[str, int] = {}

    async def prompt(self, config: str, conversation: Conversation) -> Prompt:
        """See :class:`PromptForm`."""
        try:
            added = self._added_by(config)
        except ModelError:
            raise Refusal(
                "config_unservable", "this model's template has no place for a safety config"
            ) from None
        try:
            ids = await self._ids(config, conversation)
        except ModelError:
            raise Refusal(
                "messages_not_expressible",
                "this model cannot be given messages in this order; begin with the user's and let "
                "user and assistant alternate",
                "messages",
            ) from None
        fields = {"prompt": ids}
        return Prompt("/v1/completions", fields, len(ids), len(ids) - added)

    async def _ids(self, config: str, conversation: Conversation) -> tuple[int, ...]:
        if sum(len(content) for _, content in conversation) <= LONG_CHARACTERS:
            return _encoded(self.tokenizer, config, conversation)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._ids_beside, config, conversation)

    def _ids_beside(self, config: str, conversation: Conversation) -> tuple[int, ...]:
        if self._beside is None:
            self._beside = _loaded(self._folder, self._digest)
        return _encoded(self._beside, config, conversation)

    def _added_by(self, config: str) -> int:
        """Tokens that a config adds to any conversation."""
        if config not in self._config_tokens:
            if len(self._config_tokens) >= CONFIGS_KEPT:
                self._config_tokens.clear()
            bare = [("user", "x")]
            whole = self.tokenizer.encode_chat([("system", config), *bare])
            self._config_tokens[config] = len(whole) - len(self.tokenizer.encode_chat(bare))
        return self._config_tokens[config]


def _loaded(folder: Path, digest: str) -> HfTokenizer:
    from cosalign.inference.hf_tokenizer import HfTokenizer

    return HfTokenizer(folder, digest)


def _encoded(tokenizer: HfTokenizer, config: str, conversation: Conversation) -> tuple[int, ...]:
    system = ("system", config)
    # Beside a bare conversation the tokenizer sees what both begin with, and keeps its tokens: a
    # config is tokenised once and not with each request.
    return tokenizer.encode_chats([[system, *conversation], [system, ("user", "")]])[0]


class MessagePrompts:
    """Prompts as messages.

    Args:
        counted: The same prompts as tokens, for their number.
        argument: Whether the config is the chat template's argument; else it is a system message.
    """

    def __init__(self, counted: TokenPrompts, *, argument: bool) -> None:
        self._counted = counted
        self._argument = argument
        self._controls = spelled(counted.tokenizer.controls)

    async def prompt(self, config: str, conversation: Conversation) -> Prompt:
        """See :class:`PromptForm`."""
        if self._controls.search(config):
            raise Refusal("config_unservable", "the safety config spells a control token")
        for i, (_, content) in enumerate(conversation):
            if self._controls.search(content):
                raise Refusal(
                    "control_token",
                    f"messages[{i}].content spells a control token; write it otherwise",
                    f"messages[{i}].content",
                )
        counted = await self._counted.prompt(config, conversation)
        messages = [{"role": role, "content": content} for role, content in conversation]
        fields: dict[str, Any] = {"messages": messages}
        if self._argument:
            fields["chat_template_kwargs"] = {ARGUMENT: config}
        else:
            fields["messages"] = [{"role": "system", "content": config}, *messages]
        return replace(counted, path="/v1/chat/completions", fields=fields)


def spelled(controls: frozenset[str]) -> re.Pattern[str]:
    """A pattern of control tokens as a text would spell them."""
    forms = {form for text in controls for form in (text, text.replace(SPACE_MARK, " "))}
    named = sorted((form for form in forms if form.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, named)) or r"(?!)")
