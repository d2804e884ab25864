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
import pyarrow.compute as pc
import pytest
from tests.e2e.graph_world import STEPS, Graph, kill_stage

from cosalign.runtime.step import StepManifest
from cosalign.store.tables import read_table

KILLED = 128 + 9
IDENTICAL = ("synthesis", "scoring", "pairing", "training")
"""Steps whose tables depend on nothing that a kernel computes in another order."""
FILLED = {
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

    labels = _kill_when_grown(killed, "synthesis", "verdicts")
    responses = _kill_when_grown(killed, "synthesis", "responses")
    all_labels = killed.ledger("verdicts").stats().keys
    # Canaries are judged first, through the same ledger.
    canaries = calm.plans("canaries")[0]["to_pay"]
    held = _kill_when_grown(killed, "scoring", "verdicts", beyond=canaries)
    judged = held - all_labels - canaries
    kill_stage(killed, "pairing", lambda: True)
    for stage in ("sft", "dpo"):
        kill_stage(killed, "training", partial(_has_checkpoint, killed, stage))
    _kill_when_grown(killed, "evaluation", "responses")
    assert killed.run() == 0, killed.log.read_text()[-3000:]

    _paid_only_the_rest(calm, killed, "label_prompts", labels)
    _paid_only_the_rest(calm, killed, "generate:tiny", responses)
    _paid_only_the_rest(calm, killed, "judge_responses", judged)
    _same_tables(calm.manifests(), killed.manifests())
    _close_models(calm, killed)
    _same_answers_without_training(calm, killed)
    for name in ("responses", "verdicts"):
        stats = killed.ledger(name).stats()
        assert stats.rows == stats.keys, f"{name}: a row was paid and stored twice"


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


def _kill_when_grown(graph: Graph, step: str, ledger: str, beyond: int = 0) -> int:
    """Kills a step once its ledger has grown; gives how many rows the ledger then held."""
    before = graph.ledger(ledger).stats().keys + beyond
    code = kill_stage(graph, step, lambda: graph.ledger(ledger).stats().keys > before)
    assert code == KILLED
    return graph.ledger(ledger).stats().keys


def _has_checkpoint(graph: Graph, stage: str) -> bool:
    paths = [stat.path for stat in graph.storage.list(f"training/{stage}")]
    return any(path.endswith("complete.json") for path in paths)


def _paid_only_the_rest(calm: Graph, killed: Graph, work: str, held: int) -> None:
    """The attempt after the kill finds what the ledger held and pays for the rest, once."""
    (undisturbed,) = calm.plans(work)
    attempts = killed.plans(work)
    assert attempts[0]["stored"] == undisturbed["stored"] == 0
    assert {one["stored"] + one["to_pay"] for one in attempts} == {undisturbed["to_pay"]}
    # Which attempt follows the kill is not said: a kill that comes late meets the work after.
    assert held > 0
    assert held in [one["stored"] for one in attempts[1:]]


def _same_tables(calm: dict[str, StepManifest], killed: dict[str, StepManifest]) -> None:
    assert set(calm) == set(killed) == set(STEPS)
    for step in IDENTICAL:
        assert calm[step].tables.keys() == killed[step].tables.keys()
        for table, expected in calm[step].tables.items():
            found = killed[step].tables[table]
            assert found.rows == expected.rows, f"{step}/{table}"
            assert found.sha256 == expected.sha256, f"{step}/{table}"
            assert found.rows > 0 or table not in FILLED[step], f"{step}/{table}"


def _close_models(calm: Graph, killed: Graph) -> None:
    from safetensors.torch import load

    for name in ("sft", "dpo"):
        expected, found = (
            load(graph.storage.read_bytes(_weights(graph, name))) for graph in (calm, killed)
        )
        assert set(expected) == set(found)
        for tensor, values in expected.items():
            a, b = found[tensor].float().numpy(), values.float().numpy()
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-5)


def _same_answers_without_training(calm: Graph, killed: Graph) -> None:
    """The untrained systems' rows do not depend on training, so they are the same to the bit."""
    expected, found = (
        read_table(graph.storage, graph.manifests()["evaluation"].tables["evaluation"])
        for graph in (calm, killed)
    )
    untrained = pc.field("system").isin(["base", "ica"])
    assert found.filter(untrained).equals(expected.filter(untrained))
    assert found.num_rows == expected.num_rows


def _weights(graph: Graph, name: str) -> str:
    uri = graph.manifests()["training"].models[name]
    folder = uri.removeprefix(graph.storage.uri).strip("/")
    return f"{folder}/model.safetensors"
