"""Each stage is SIGKILLed under real vLLM and a real object store, and the run started again.

What was stored is never made anew: the next attempt finds exactly what the ledgers held when the
stage was killed. Tables end byte-identical. Training is compared by weights, to a tolerance: a
resumed process sums gradients in the same order, but kernels may choose other blocks, so equal bits
are not promised.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.graph_world import STEPS, Graph, kill_stage

from cosalign.runtime.step import StepManifest

KILLED = 128 + 9
IDENTICAL = {
    "synthesis": {"prompts", "configs", "draws", "responses"},
    "scoring": {"verdicts"},
    "pairing": {"pairs"},
    "training": {"sft_records", "dpo_records"},
}


@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_killed_stages_resume_without_paying_twice(
    graph_at: Callable[[str], Graph], gcs_root: str
) -> None:
    calm = graph_at(f"{gcs_root}/calm")
    assert calm.run() == 0, calm.log.read_text()[-3000:]
    killed = graph_at(f"{gcs_root}/killed")

    held = _kill_when_grown(killed, "synthesis", "verdicts")
    _kill_when_grown(killed, "synthesis", "responses")
    assert killed.plans("label_prompts")[1]["stored"] >= held
    _kill_when_grown(killed, "scoring", "verdicts")
    kill_stage(killed, "pairing", lambda: True)
    for stage in ("sft", "dpo"):
        kill_stage(killed, "training", partial(_has_checkpoint, killed, stage))
    _kill_when_grown(killed, "evaluation", "responses")
    assert killed.run() == 0, killed.log.read_text()[-3000:]

    _same_tables(calm.manifests(), killed.manifests())
    _close_models(calm, killed)
    for name in ("responses", "verdicts"):
        stats = killed.ledger(name).stats()
        assert stats.rows == stats.keys, f"{name}: a row was paid and stored twice"
    for work in ("label_prompts", "generate:tiny", "judge_responses"):
        _nothing_made_anew(calm, killed, work)


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_a_second_run_does_next_to_nothing(
    graph_at: Callable[[str], Graph], tmp_path: Path
) -> None:
    graph = graph_at(f"{tmp_path}/second-run")
    assert graph.run() == 0, graph.log.read_text()[-3000:]
    plans = len(graph.log.read_text().split('"event": "plan"'))
    starts = graph.log.read_text().count("engine_starting")
    assert starts
    assert graph.run() == 0
    log = graph.log.read_text()
    assert len(log.split('"event": "plan"')) == plans
    assert log.count("engine_starting") == starts
    assert log.count('"event": "nothing_to_do"') == len(STEPS)
    assert "nothing to do: every stage was already done" in log
    # A changed pairing setting redoes pairing and what follows; no engine for the steps before.
    assert graph.run("--set", "pairing.seed=7") == 0
    reused = graph.log.read_text().rpartition("nothing to do: every stage")[2]
    assert reused.count('"event": "nothing_to_do"') >= len(("synthesis", "scoring"))


def _kill_when_grown(graph: Graph, step: str, ledger: str) -> int:
    """Kills a step once its ledger has grown; gives how many rows the ledger then held."""
    before = graph.ledger(ledger).stats().keys
    code = kill_stage(graph, step, lambda: graph.ledger(ledger).stats().keys > before)
    assert code == KILLED
    return graph.ledger(ledger).stats().keys


def _has_checkpoint(graph: Graph, stage: str) -> bool:
    paths = [stat.path for stat in graph.storage.list(f"training/{stage}")]
    return any(path.endswith("complete.json") for path in paths)


def _nothing_made_anew(calm: Graph, killed: Graph, work: str) -> None:
    """Over all attempts, each finds at least what the one before found, and all that it stored."""
    (undisturbed,) = calm.plans(work)
    attempts = killed.plans(work)
    assert undisturbed["stored"] == 0
    stored = [attempt["stored"] for attempt in attempts]
    assert stored == sorted(stored)
    assert all(a["stored"] + a["to_pay"] == undisturbed["asked"] for a in attempts)


def _same_tables(calm: dict[str, StepManifest], killed: dict[str, StepManifest]) -> None:
    assert set(calm) == set(killed) == set(STEPS)
    for step, tables in IDENTICAL.items():
        for table in tables:
            expected, found = calm[step].tables[table], killed[step].tables[table]
            assert found.rows == expected.rows > 0, f"{step}/{table}"
            assert found.sha256 == expected.sha256, f"{step}/{table}"


def _close_models(calm: Graph, killed: Graph) -> None:
    from safetensors.numpy import load

    for name in ("sft", "dpo"):
        expected, found = (
            load(graph.storage.read_bytes(_weights(graph, name))) for graph in (calm, killed)
        )
        assert set(expected) == set(found)
        for tensor, values in expected.items():
            np.testing.assert_allclose(found[tensor], values, rtol=1e-3, atol=1e-5)


def _weights(graph: Graph, name: str) -> str:
    uri = graph.manifests()["training"].models[name]
    folder = uri.removeprefix(graph.storage.uri).strip("/")
    return f"{folder}/model.safetensors"
