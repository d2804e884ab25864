"""Scoring over a served judge is SIGKILLed twice on its way through 600 responses.

The server counts what it answered well, by content; the ledger, what was stored. What the server
was asked twice is exactly what it had answered and the killed process had not stored yet, which is
bounded: never a stored verdict.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.graph_world import Graph, kill_stage
from tests.openai_server import OpenAiServer, openai_server

PROMPTS, RESPONSES_EACH = 75, 8
FLUSH, WINDOW = 32, 16
WORDS = (  # noqa: SIM905  a list would stand one word a line
    "beer cheddar sword lottery dice tattoo firework drum poker whisky archery duel casino joke "
    "costume bonfire dance cider raffle helmet chess goat market harbour parade lantern violin "
    "kettle orchard postcard saddle teapot umbrella wagon yarn barrel candle ferry garden hammer"
).split()
PROFILE = f"""
models:
  base: double:base
  judge: served:double@1?tokenizer=double:x
  engine:
    kind: double
    max_model_len: 16384
    flush_rows: {FLUSH}
    server: {{base_url: "%s", max_concurrency: {WINDOW}, timeout_seconds: 30, patience_seconds: 60}}
prompts:
  files: [%s]
  labels_field: risks
  min_tokens: 1
  max_tokens: 400
  held_out_share: 0.0
  min_per_label_set: 1
configs: {{files: [%s]}}
synthesis:
  generators:
    - {{name: base, plain: {RESPONSES_EACH}, superset: 0, not_superset: 0, max_tokens: 12}}
"""


def write_prompts(path: Path) -> Path:
    """Prompts of twelve words each, no two alike."""
    drawn = random.Random(0)  # noqa: S311
    rows = [{"prompt": " ".join(drawn.sample(WORDS, 12)), "risks": []} for _ in range(PROMPTS)]
    lines = map(json.dumps, rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def graph_over(tmp_path: Path) -> Callable[[OpenAiServer, str], Graph]:
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    configs = Path(__file__).parents[2] / "manifests" / "safety-configs"

    def made(server: OpenAiServer, name: str) -> Graph:
        profile = tmp_path / f"{name}.yaml"
        profile.write_text(PROFILE % (server.url, prompts, configs), encoding="utf-8")
        return Graph(str(tmp_path / name), profile, tmp_path / f"{name}-work")

    return made


def answers(server: OpenAiServer) -> int:
    """How many the server has given, once nobody waits for one any more."""
    count = -1
    while server.busy or count != sum(server.answered.values()):
        count = sum(server.answered.values())
        time.sleep(0.3)
    return count


def kill_after(graph: Graph, server: OpenAiServer, more: int) -> int:
    """Kills scoring when so many more verdicts were given; gives how many were lost in all."""
    goal = answers(server) + more
    kill_stage(graph, "scoring", lambda: sum(server.answered.values()) >= goal)
    return answers(server) - graph.ledger("verdicts").stats().keys


def finish_scoring(graph: Graph) -> None:
    """Runs on until pairing begins; what comes after it is tested elsewhere."""
    kill_stage(graph, "pairing", lambda: True)


@pytest.mark.timeout(600)
def test_two_kills_cost_only_what_was_not_stored_yet(
    graph_over: Callable[[OpenAiServer, str], Graph],
) -> None:
    with openai_server() as server:
        server.delay = 0.02
        killed = graph_over(server, "killed")
        lost = 0
        for more in (150, 250):
            before = lost
            lost = kill_after(killed, server, more)
            assert 0 <= lost - before <= FLUSH + WINDOW
        finish_scoring(killed)
        plans = killed.plans("judge_responses")
        assert len(plans) == 3
        assert all(p["stored"] + p["to_pay"] == p["asked"] for p in plans)
        # Canaries went before, through the same ledger.
        assert 0 < plans[1]["stored"] < plans[2]["stored"] < PROMPTS * RESPONSES_EACH
        paid, contents = answers(server), len(server.answered)
        stats = killed.ledger("verdicts").stats()
        assert stats.rows == stats.keys == contents
        assert paid - contents == lost
        assert killed.manifests()["scoring"].tables["verdicts"].rows == PROMPTS * RESPONSES_EACH
    with openai_server() as server:
        calm = graph_over(server, "calm")
        finish_scoring(calm)
        assert set(server.answered.values()) == {1}
    tables = [graph.manifests()["scoring"].tables["verdicts"].sha256 for graph in (killed, calm)]
    assert tables[0] == tables[1]
