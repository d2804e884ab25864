"""Increments that really train: a tiny model, while engines and judge are doubles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.increment_world import LATER, NEW, PROFILE, Meter, World

from cosalign.domain.schemas import REFERENCE_LEDGER
from cosalign.inference.model_manifest import read_model_manifest, verify_model
from cosalign.pipelines.failures import TaskFailed
from cosalign.runtime.run_record import RunRecord
from cosalign.store.ledger import Ledger
from cosalign.store.storage import open_storage

pytestmark = pytest.mark.training
STAGE = {"batch_size": 4, "micro_batch_size": 2, "max_length": 2048, "save_steps": 50}
TRAINING: dict[str, Any] = {
    "sft": {**STAGE, "max_steps": 2, "learning_rate": 1e-3},
    # Fewer steps than there are pairs: some pairs are never reached.
    "dpo": {**STAGE, "max_steps": 5, "learning_rate": 1e-4, "warmup_steps": 3},
}
IDS = ("prompt_id", "config_id", "chosen_id", "rejected_id")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[World]:
    meter = Meter()
    profile = {
        **PROFILE,
        "models": {**PROFILE["models"], "base": str(tiny_model)},
        "training": TRAINING,
        "evaluation": {"prompts_per_config": 6, "bootstrap": 100, "systems": ["ica", "dpo"]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cosalign.inference.engine_host.open_engine", meter.open)
        yield World(tmp_path_factory.mktemp("trained") / "w", meter, profile).made()


@pytest.fixture
def world(made: World) -> World:
    return made.restored()


def references(world: World) -> int:
    return Ledger(world.storage, "references", REFERENCE_LEDGER).stats().keys


def ids(world: World, record: RunRecord, table: str) -> set[tuple[str, ...]]:
    rows = world.rows(record.manifests["training"], table)
    return {tuple(row[name] for name in IDS) for row in rows}


def answers(world: World, record: RunRecord, pairs: set[tuple[str, ...]]) -> set[Any]:
    """What the ledger keeps a figure of: an answer's text in its context."""
    rows = world.rows(record.manifests["training"], "dpo_records")
    own = [row for row in rows if tuple(row[name] for name in IDS) in pairs]
    return {(r["system"], r["prompt"], r[a]) for r in own for a in ("chosen", "rejected")}


def test_references_are_made_for_new_rows_alone_and_the_sft_model_stands(world: World) -> None:
    full, paid = world.record(), references(world)
    stages = {stat.path for stat in world.storage.list("training/sft")}
    world.run(increment=world.increment(world.write(NEW)))
    record = world.record()
    training, counts = record.manifests["training"], record.manifests["training"].counts
    new = ids(world, record, "dpo_records") - ids(world, full, "dpo_records")
    assert len(new) == counts["increment_pairs_new"] > 0
    assert references(world) - paid == len(answers(world, record, new))
    # Replayed are pairs that the full run's five steps of four reached, and no others.
    assert 0 < counts["increment_pairs_replayed"] <= 20
    assert {stat.path for stat in world.storage.list("training/sft")} == stages
    assert training.models["sft"] == full.manifests["training"].models["sft"]
    # Four pairs a step, each once, whatever the full run's steps were.
    assert counts["dpo_steps"] == -(-counts["dpo_rows"] // 4)
    assert counts["dpo_rows"] == counts["increment_pairs_new"] + counts["increment_pairs_replayed"]
    _check_release(world, record, full)


def _check_release(world: World, record: RunRecord, full: RunRecord) -> None:
    """The model says what it goes back to, and knows the configs of both runs."""
    folder, before = (
        open_storage(run.manifests["training"].models["dpo"]) for run in (record, full)
    )
    released, old = read_model_manifest(folder), read_model_manifest(before)
    verify_model(folder, released)
    assert released.increment is not None
    assert released.increment.previous == full.manifests["training"].fingerprint
    assert released.increment.start == released.stages["dpo"].start == old.digest
    assert released.reference == old.reference
    assert released.stages["sft"] == old.stages["sft"]
    assert set(released.increment.configs) <= {policy.digest for policy in released.configs}
    assert {policy.digest for policy in old.configs} <= {p.digest for p in released.configs}
    card = folder.read_bytes("README.md").decode()
    assert f"An increment: DPO went on from `{old.digest[:12]}`" in card
    recipe = released.stages["dpo"].recipe
    assert (recipe["max_steps"], recipe["epochs"], recipe["warmup_steps"]) == (None, 1.0, 1)


def test_a_chain_keeps_the_reference_and_replays_what_each_run_reached(world: World) -> None:
    full = world.record()
    world.run(increment=world.increment(world.write(NEW)))
    first, paid = world.record(), references(world)
    world.run(increment=world.increment(world.write(LATER), replay_share=0.9))
    second = world.record()
    known = ids(world, first, "referenced_pairs")
    trained = ids(world, second, "dpo_records")
    assert references(world) - paid == len(answers(world, second, trained - known))
    assert ids(world, second, "referenced_pairs") == known | trained
    # All that was ever reached is replayed at so large a share: 20 pairs of the full run's.
    assert len(ids(world, full, "dpo_records") & trained) == 20
    manifests = [
        read_model_manifest(open_storage(run.manifests["training"].models["dpo"]))
        for run in (full, first, second)
    ]
    assert len({manifest.reference for manifest in manifests}) == 1
    assert manifests[2].increment is not None
    assert manifests[2].increment.start == manifests[1].digest


def test_small_steps_from_a_model_in_bf16_are_not_rounded_away(world: World) -> None:
    tiny = {**TRAINING, "dpo": {**TRAINING["dpo"], "learning_rate": 3e-7, "warmup_steps": 0}}
    world.run(increment=world.increment(world.write(NEW)), training=tiny)
    changed = world.record().manifests["training"].metrics["dpo_weights_changed"]
    assert changed is not None
    # Measured: 1.4 % of the weights; rounded to the nearest, 0.5 %.
    assert changed > 0.009


def test_an_increment_from_the_sft_model_is_held_against_its_start(world: World) -> None:
    group = world.increment(world.write(NEW))
    world.run(increment={**group, "start": "sft", "model": None})
    training = world.record().manifests["training"]
    released = read_model_manifest(open_storage(training.models["dpo"]))
    assert released.stages["dpo"].start == released.reference
    # It is its own reference, so its first loss is that of no preference.
    assert training.metrics["first_dpo_loss"] == pytest.approx(0.6931, abs=5e-3)


@pytest.mark.parametrize(
    ("lost", "message"),
    [("sft", "is gone; make a full run"), ("dpo", "name the promoted model")],
)
def test_a_lost_model_is_named_before_anything_is_paid(
    lost: str, message: str, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = world.record().manifests["training"].models[lost]
    group = world.increment(world.write(NEW))
    for stat in world.storage.list(uri.removeprefix(f"{world.storage.uri}/")):
        world.storage.delete(stat.path)
    with pytest.raises(TaskFailed) as failure:
        world.run(increment=group)
    assert failure.value.exit_code == 2
    assert message in capfd.readouterr().err
    assert world.meter.total("") == 0


def test_a_promoted_model_of_other_content_or_of_another_chain_is_refused(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    record = world.record()
    group = world.increment(world.write(NEW))
    address = group["model"].partition("@")[0]
    with pytest.raises(TaskFailed):
        world.run(increment={**group, "model": f"{address}@sha256:{'0' * 64}"})
    assert "is pinned" in capfd.readouterr().err
    # The same model, whose manifest tells of another reference.
    path = f"{address.removeprefix(f'{world.storage.uri}/')}/model-manifest.json"
    reference = read_model_manifest(open_storage(address)).reference.encode()
    world.storage.write_bytes(
        path, world.storage.read_bytes(path).replace(reference, b"0" * len(reference))
    )
    with pytest.raises(TaskFailed):
        world.run(increment=group)
    assert "held against the SFT model 000000000000" in capfd.readouterr().err
    assert record.manifests["training"].models["dpo"] == address
    assert world.meter.total("") == 0
