"""Judging without a model: keys, look-up, order, requests, storing and reading 10^6 verdicts.

``make bench-judge_plan``, or ``python -m benchmarks.judge_plan --responses N``.

What surrounds the engine must be small beside it and must not outgrow a pod's memory. The engine
here answers at once and the tokenizer hands out made-up ids of a prompt's usual length, so that all
time and memory is ours. How fast real text is tokenised is measured apart, with the tokenizer of
``--model``, on the first ``--tokenised`` requests.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measuring import peak_mib, publish, surroundings, timed

from cosalign.domain.run_config import EngineGroup
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.double import DoubleEngine, DoubleTokenizer
from cosalign.inference.engine import Engine, Labelling, LabelRequest, TokenIds
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.judging.engine_judge import EngineJudge
from cosalign.judging.label_protocol import Evidence, response_protocol
from cosalign.store.storage import open_storage

PROMPT_TOKENS = 900
RESPONSES_A_PROMPT = 9
MODEL = resolve_model("double:plan", Path())


class MadeUpTokenizer(DoubleTokenizer):
    """Ids of the usual number, new objects for each request as real ones are."""

    def encode_chats(self, conversations: Sequence[Sequence[tuple[str, str]]]) -> list[TokenIds]:
        """Numbers in place of tokens."""
        return [tuple(range(1000, 1000 + PROMPT_TOKENS)) for _ in conversations]


class InstantEngine(DoubleEngine):
    """Answers at once, the same for every request."""

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        """The first answer to each question."""
        for request in requests:
            answers = tuple(alphabet[0] for alphabet in request.alphabets)
            masses = tuple((0.9, *(0.01,) * (len(a) - 1)) for a in request.alphabets)
            yield Labelling(request.request_id, answers, masses)


def open_instant(model: ModelFolder, settings: EngineGroup) -> Engine:
    """In place of the engine."""
    return InstantEngine(model.digest, settings.max_model_len, MadeUpTokenizer())


def evidence(count: int) -> list[Evidence]:
    """Mild prompts, and responses of some forty words."""
    return [
        Evidence(
            f"What should a beginner know about card game {i // RESPONSES_A_PROMPT}?",
            f"Answer {i}: " + "the odds are slim and the fun is great, so play for matches. " * 4,
        )
        for i in range(count)
    ]


def judged(count: int) -> dict[str, Any]:
    """Judges so many responses twice: anew, and with all of them stored."""
    protocol = response_protocol(load_taxonomy("cosa", "1"))
    items = evidence(count)
    before = peak_mib()
    settings = EngineGroup(kind="double", max_model_len=2048, flush_rows=4096)
    with tempfile.TemporaryDirectory() as folder, EngineHost(settings) as host:
        judge = EngineJudge(host, open_storage(folder), MODEL)
        first, done = timed(lambda: judge.judge(protocol, items, "plan"))
        table = done.rows.nbytes / 2**20
        del done
        again, _ = timed(lambda: judge.judge(protocol, items, "plan"))
    return {
        "responses": count,
        "seconds": round(first, 1),
        "milliseconds_each": round(1000 * first / count, 3),
        "seconds_when_stored": round(again, 1),
        "peak_mib": round(peak_mib()),
        "evidence_mib": round(before),
        "verdicts_mib": round(table),
    }


def tokenising(count: int, model: str) -> dict[str, Any]:
    """Milliseconds a request, of real text, in batches as the judge tokenises them."""
    tokenizer = load_tokenizer(resolve_model(model, Path("~/.cache/cosalign")))
    protocol = response_protocol(load_taxonomy("cosa", "1"))
    items = evidence(count)
    size = 1024
    batches = [items[start : start + size] for start in range(0, count, size)]
    seconds, tokens = timed(
        lambda: sum(sum(map(len, protocol.all_token_ids(tokenizer, batch))) for batch in batches)
    )
    alone, _ = timed(lambda: [protocol.token_ids(tokenizer, item) for item in items[:size]])
    return {
        "milliseconds_each": round(1000 * seconds / count, 3),
        "milliseconds_each_alone": round(1000 * alone / min(size, count), 3),
        "tokens_each": round(tokens / count),
    }


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--responses", type=int, default=1_000_000)
    parser.add_argument("--tokenised", type=int, default=10_240)
    parser.add_argument("--model", default="models/smollm2")
    options = parser.parse_args()
    # First, since it is what a missing model stops.
    text = tokenising(options.tokenised, options.model)
    with patch("cosalign.inference.engine_host.open_engine", open_instant):
        sizes = [judged(count) for count in (options.responses // 10, options.responses)]
    result = {"sizes": sizes, "tokenising": text}
    packages = ("numpy", "pyarrow", "tokenizers", "transformers")
    publish({"benchmark": "judge_plan", **result, **surroundings(packages)})


if __name__ == "__main__":
    main()
