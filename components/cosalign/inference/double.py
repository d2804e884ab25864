"""A deterministic stand-in for an engine: the real interface, no torch, no model.

Tests of planning, ledgers and resumption need answers that are cheap, that vary from prompt to
prompt, and that are the same in every process. So every answer is drawn from a hash of the request
itself. What the double cannot show: anything about language.

It is named ``double:NAME`` where a model's address is asked for; another NAME is another model,
with other answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from cosalign.domain.fingerprint import Json, fingerprint, seed_of
from cosalign.inference.engine import (
    Generation,
    GenerationRequest,
    Labelling,
    LabelRequest,
    Scored,
    ScoreRequest,
    TokenIds,
    Tokenizer,
)

DOUBLE_SCHEME = "double:"
VERSION = "1"

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LABELS = (" Y", " N", " A", " B", " C", " D", " E", " F")
FIRST_BYTE = len(SPECIAL) + len(LABELS)

_TEXT = """
the a garden kettle is warm and slow under quiet lamp some bread rises before noon old harbour boats
carry salt while children count steps along river paths because rain may fall on copper roofs when
evening music begins near an open window
"""
WORDS = tuple(_TEXT.split())

LENGTH_SHARE = 0.25
UNSURE_SHARE = 0.05


def double_digest(uri: str) -> str:
    """Identity of the double named ``uri`` (``double:NAME``), 64 hex digits."""
    return fingerprint("double model", [VERSION, uri])


def double_tokenizer_digest() -> str:
    """Identity of the one tokenizer that all doubles share, 64 hex digits."""
    return fingerprint("double tokenizer", [VERSION, list(SPECIAL), list(LABELS)])


class DoubleTokenizer:
    """UTF-8 bytes, three control tokens, and one token each for the labels `` Y`` to `` F``."""

    @property
    def digest(self) -> str:
        """See :class:`cosalign.inference.engine.Tokenizer`."""
        return double_tokenizer_digest()

    def encode_plain(self, text: str) -> TokenIds:
        """Bytes; control tokens spelt out stay ordinary characters."""
        return self._encode(text, LABELS)

    def encode_trusted(self, text: str) -> TokenIds:
        """Bytes, control tokens and labels."""
        return self._encode(text, (*SPECIAL, *LABELS))

    def encode_chat(self, messages: Iterable[tuple[str, str]]) -> TokenIds:
        """ChatML."""
        ids: list[int] = []
        for role, content in messages:
            ids += self.encode_trusted(f"<|im_start|>{role}\n")
            ids += self.encode_plain(content)
            ids += self.encode_trusted("<|im_end|>\n")
        return (*ids, *self.encode_trusted("<|im_start|>assistant\n"))

    def encode_chats(self, conversations: Sequence[Sequence[tuple[str, str]]]) -> list[TokenIds]:
        """ChatML."""
        return [self.encode_chat(messages) for messages in conversations]

    def _encode(self, text: str, known: tuple[str, ...]) -> TokenIds:
        vocabulary = (*SPECIAL, *LABELS)
        ids: list[int] = []
        position = 0
        while position < len(text):
            token = _token_at(text, position, known)
            if token:
                ids.append(vocabulary.index(token))
                position += len(token)
            else:
                data = text[position].encode("utf-8", "surrogatepass")
                ids += [FIRST_BYTE + byte for byte in data]
                position += 1
        return tuple(ids)


def _token_at(text: str, position: int, known: tuple[str, ...]) -> str:
    if text[position] not in " <":
        return ""
    for token in known:
        end = position + len(token)
        # A label is a whole word: " Y" in " Yes" is not one.
        if text.startswith(token, position) and not (
            token in LABELS and text[end : end + 1].isalnum()
        ):
            return token
    return ""


class DoubleEngine:
    """An engine whose answers are a function of the request and the model's digest.

    Attributes:
        requests: Generation and label requests answered so far; tests count calls with it.
    """

    def __init__(
        self, digest: str, max_model_len: int = 2048, tokenizer: Tokenizer | None = None
    ) -> None:
        self._digest = digest
        self._max_model_len = max_model_len
        self._tokenizer: Tokenizer = tokenizer or DoubleTokenizer()
        self._closed = False
        self.requests = 0

    @property
    def model_digest(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._digest

    @property
    def description(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return f"double {VERSION}"

    @property
    def dtype(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return "float64"

    @property
    def max_model_len(self) -> int:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._max_model_len

    @property
    def tokenizer(self) -> Tokenizer:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._tokenizer

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Generation]:
        """See :class:`cosalign.inference.engine.Engine`."""
        for request in requests:
            self._count()
            yield self._continuation(request)

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        """See :class:`cosalign.inference.engine.Engine`."""
        for request in requests:
            self._count()
            yield self._labelling(request)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored]:
        """See :class:`cosalign.inference.engine.ScoresContinuations`."""
        for request in requests:
            self._count()
            yield self._scored(request)

    def close(self) -> None:
        """See :class:`cosalign.inference.engine.Engine`."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _count(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")
        self.requests += 1

    def _fits(self, token_ids: TokenIds, answer_tokens: int) -> bool:
        return bool(token_ids) and len(token_ids) + answer_tokens <= self._max_model_len

    def _continuation(self, request: GenerationRequest) -> Generation:
        sampling = request.sampling
        if not self._fits(request.token_ids, sampling.max_tokens):
            return Generation(request.request_id, "", 0, "error")
        # As with a real engine, a greedy draw does not depend on its seed.
        seed = request.seed if sampling.temperature > 0 else 0
        drawn = [sampling.temperature, sampling.top_p, sampling.max_tokens, seed]
        identity: Json = [self._digest, list(request.token_ids), drawn]
        random = np.random.default_rng(seed_of("double generation", identity))
        cut = random.random() < LENGTH_SHARE
        length = int(random.integers(3, 40))
        count = sampling.max_tokens if cut else min(length, sampling.max_tokens)
        words = random.choice(WORDS, size=count)
        reason = "length" if cut or length >= sampling.max_tokens else "stop"
        return Generation(request.request_id, " ".join(words), count, reason)

    def _scored(self, request: ScoreRequest) -> Scored:
        if not self._fits(request.token_ids, 1):
            return Scored(request.request_id, None, greedy=False)
        identity: Json = [self._digest, list(request.token_ids), request.context]
        random = np.random.default_rng(seed_of("double score", identity))
        length = len(request.token_ids) - request.context
        return Scored(
            request.request_id,
            -length * float(random.uniform(0.1, 3)),
            bool(random.random() < LENGTH_SHARE),
        )

    def _labelling(self, request: LabelRequest) -> Labelling:
        if not self._fits(request.token_ids, len(request.alphabets)):
            return Labelling(request.request_id, (), ())
        identity: Json = [self._digest, list(request.token_ids)]
        random = np.random.default_rng(seed_of("double labels", identity))
        masses = tuple(_masses(random, len(alphabet)) for alphabet in request.alphabets)
        answers = tuple(
            alphabet[int(np.argmax(mass))]
            for alphabet, mass in zip(request.alphabets, masses, strict=True)
        )
        return Labelling(request.request_id, answers, masses)


def _masses(random: np.random.Generator, size: int) -> tuple[float, ...]:
    """Probabilities of ``size`` answers; their sum is below 1, at times far below."""
    inside = 0.001 if random.random() < UNSURE_SHARE else random.uniform(0.6, 0.99)
    shares = random.dirichlet(np.full(size, 0.6))
    return tuple(float(share * inside) for share in shares)
