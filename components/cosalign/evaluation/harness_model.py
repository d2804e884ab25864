"""Our engines as a model of lm-evaluation-harness, so that nothing is started or paid for twice.

The harness brings models of its own; with them every task would start an engine beside the one that
runs, and a killed run would begin again. Here its requests become requests of the step's engine,
and go through the ledgers.

Two things are done differently from its own models. Text is encoded as plain text, so that a
document that spells a control token holds none. And stop sequences end an answer after it was
written: the ledger then holds one answer for any of them. The harness's chat templates are not
used either: the history travels through it as JSON and is encoded here as any other conversation.

Imports lm-evaluation-harness: import it inside functions (extra ``evaluation-general``).
"""

from __future__ import annotations

import json
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from cosalign.inference.continuations import (
    Continuation,
    score_continuations,
    write_continuations,
)
from cosalign.inference.engine import Messages, Sampling, TokenIds
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import Wanted, generate_responses
from cosalign.inference.hf_tokenizer import document_start, load_tokenizer
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage

DEFAULT_TOKENS = 256
"""Length limit of an answer where a task names none, as in the harness's own models."""

CHAT_MARK = "cosalign chat "
"""What a context begins with that is a conversation, as JSON."""


class HarnessModel(LM):  # type: ignore[misc]  # the harness ships no types
    """One model; see the module's docstring.

    Attributes:
        unanswered: Task and document number of documents of which the engine left a request
            unanswered. The harness knows no missing answers and scores what it is given in their
            place; such a score says nothing (law 4).
    """

    def __init__(self, host: EngineHost, storage: Storage, model: ModelFolder) -> None:
        super().__init__()
        self._host = host
        self._storage = storage
        self._model = model
        self.unanswered: set[tuple[str, int]] = set()
        self._tokenizer = load_tokenizer(model)
        self._start = document_start(self._tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """Identity of the tokenizer, for the harness's own records."""
        return self._model.tokenizer_digest

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The history as it is, to be encoded here; what an answer begins with stays last."""
        turns = [[turn["role"], turn["content"]] for turn in chat_history]
        return CHAT_MARK + json.dumps([turns, add_generation_prompt], ensure_ascii=False)

    def chat_template(self, chat_template: bool | str = False) -> str:  # noqa: ARG002
        """Nothing: the tokenizer's own template is applied here."""
        return ""

    def loglikelihood(
        self,
        requests: list[Any],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one."""
        scored, failed = self._scored([self._pair(*request.args) for request in requests])
        self._note(requests, failed)
        return scored

    def loglikelihood_rolling(
        self,
        requests: list[Any],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[float]:
        """Log-probability of each whole text, in windows that do not overlap."""
        windows = [self._windows(request.args[0]) for request in requests]
        scored, failed = self._scored([window for own in windows for window in own])
        ends = list(accumulate(map(len, windows), initial=0))
        self._note(requests, [any(failed[a:b]) for a, b in pairwise(ends)])
        return [sum(score for score, _ in scored[a:b]) for a, b in pairwise(ends)]

    def generate_until(
        self,
        requests: list[Any],
        disable_tqdm: bool = False,  # noqa: ARG002
    ) -> list[str]:
        """What follows each context, as far as the first of its stop sequences."""
        work = f"general_answers_{self._model.digest[:12]}"
        sampling = [_sampling(request.args[1]) for request in requests]
        chats = [_chat(request.args[0])[0] for request in requests]
        if chats and chats[0]:
            wanted = [Wanted(*pair) for pair in zip(chats, sampling, strict=True)]
            _, done = generate_responses(self._host, self._storage, self._model, wanted, work)
        else:
            texts = [self._start + self._tokenizer.encode_plain(r.args[0]) for r in requests]
            fitting = [
                _cut_before(text, self._room + 1 - one.max_tokens)
                for text, one in zip(texts, sampling, strict=True)
            ]
            plain = list(zip(fitting, sampling, strict=True))
            done = write_continuations(self._host, self._storage, self._model, plain, work)
        self._note(requests, _failed(done.rows))
        written = done.rows.column("text").to_pylist()
        return [_cut(text, r.args[1]) for text, r in zip(written, requests, strict=True)]

    def _pair(self, context: str, continuation: str) -> Continuation:
        turns, prefix = _chat(context)
        if turns:
            asked = self._tokenizer.encode_chat(turns)
            return Continuation(asked, self._tokenizer.encode_plain(prefix + continuation))
        # A space at the context's end belongs to the word behind it.
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        before = self._start + self._tokenizer.encode_plain(bare)
        whole = self._start + self._tokenizer.encode_plain(bare + continuation)
        if not before:
            return Continuation(whole[:1], whole[1:])
        return Continuation(before, whole[len(before) :])

    def _windows(self, text: str) -> list[Continuation]:
        ids = list(self._tokenizer.encode_plain(text))
        first = self._start[0] if self._start else ids[0]
        rolled = get_rolling_token_windows(
            token_list=ids if self._start else ids[1:],
            prefix_token=first,
            max_seq_len=self._room,
            context_len=1,
        )
        pairs = map(make_disjoint_window, rolled)
        return [Continuation(tuple(context), tuple(following)) for context, following in pairs]

    @property
    def _room(self) -> int:
        """Tokens that a continuation and its context may have; one is left to generate."""
        return self._host.settings.max_model_len - 1

    def _scored(self, wanted: list[Continuation]) -> tuple[list[tuple[float, bool]], list[bool]]:
        """Log-probability and greediness of each, and which of them have none."""
        fitting = [self._fitted(item) for item in wanted]
        work = f"general_scores_{self._model.digest[:12]}"
        done = score_continuations(self._host, self._storage, self._model, fitting, work)
        failed = _failed(done.rows)
        columns = (done.rows.column(n).to_pylist() for n in ("log_prob", "greedy"))
        scored = [
            (float("-inf") if missing else log_prob, greedy)
            for log_prob, greedy, missing in zip(*columns, failed, strict=True)
        ]
        return scored, failed

    def _note(self, requests: list[Any], failed: list[bool]) -> None:
        for request, missing in zip(requests, failed, strict=True):
            if missing:
                self.unanswered.add((request.task_name, request.doc_id))

    def _fitted(self, item: Continuation) -> Continuation:
        """A context too long is cut at its beginning, as in the harness's own models."""
        context = _cut_before(item.context, self._room - len(item.following))
        return Continuation(context, item.following)


def _cut_before(context: TokenIds, room: int) -> TokenIds:
    return context[-max(1, room) :]


def _failed(rows: pa.Table) -> list[bool]:
    missing: list[bool] = rows.column("failure").is_valid().to_pylist()
    return missing


def _chat(context: str) -> tuple[Messages, str]:
    """The turns of a conversation and what its answer begins with; no turns for plain text."""
    if not context.startswith(CHAT_MARK):
        return (), ""
    # Tasks may write behind a history: that is what the answer begins with, too.
    (turns, asks), end = json.JSONDecoder().raw_decode(context, len(CHAT_MARK))
    messages, prefix = tuple((role, content) for role, content in turns), context[end:]
    if not asks and messages and messages[-1][0] == "assistant":
        return messages[:-1], messages[-1][1] + prefix
    return messages, prefix


def _sampling(settings: dict[str, Any]) -> Sampling:
    length = int(settings.get("max_gen_toks") or DEFAULT_TOKENS)
    temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample") else 0.0
    return Sampling(length, temperature)


def _cut(text: str, settings: dict[str, Any]) -> str:
    stops = settings.get("until") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop, maxsplit=1)[0] if stop else text
    return text
