"""A step that is not finite leaves nothing behind, in weights, optimizer, rate or checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.stage_process import stage_of
from tests.training.training_world import TRAINING, Encoded, encoded

from cosalign.domain.errors import EXIT_USER, UserError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import open_storage
from cosalign.training.outcome import SKIPPED
from cosalign.training.stage import run_stage

pytestmark = pytest.mark.training

STEPS, BAD_STEP, ROWS_A_STEP = 4, 3, 4


@pytest.fixture(scope="module")
def world(tiny: ModelFolder) -> Encoded:
    return encoded(tiny)


def _group(**changes: object) -> TrainingGroup:
    stage = {
        "learning_rate": 1e-3, "batch_size": ROWS_A_STEP, "micro_batch_size": 2, "save_steps": 100,
        "warmup_steps": 3, "max_steps": STEPS, **changes,
    }  # fmt: skip
    return TrainingGroup.model_validate({**TRAINING, "sft": stage, "dpo": stage})


def _trainer(
    stage: str, tiny: ModelFolder, world: Encoded, folder: Path, order: list[int], **changes: object
) -> Any:
    """A trainer that takes the rows in the given order."""
    from cosalign.training.dpo import dpo_trainer
    from cosalign.training.reference_scorer import reference_pass
    from cosalign.training.sft import sft_trainer

    group = _group(max_steps=len(order) // ROWS_A_STEP, **changes)
    if stage == "sft":
        trainer = sft_trainer(tiny.path, world.sft, group, folder, None)
    else:
        found = reference_pass(tiny, open_storage(str(folder)), group).completed(world.dpo)
        trainer = dpo_trainer(tiny.path, replace(world.dpo, table=found), group, folder, None)
    trainer._get_train_sampler = lambda *_: order
    return trainer


def _poison_gradient(trainer: Any, rows: set[int]) -> None:
    """The loss stays finite; the gradient of a micro batch that holds one of the rows does not."""
    seen: list[bool] = []
    inner = trainer.compute_loss

    def loss(model: Any, inputs: dict[str, Any], **kwargs: Any) -> torch.Tensor:
        seen.append(bool(rows & set(inputs["rows"].tolist())))
        found: torch.Tensor = inner(model, inputs, **kwargs)
        return found

    trainer.compute_loss = loss
    weight = trainer.model.model.embed_tokens.weight
    weight.register_hook(lambda grad: grad * math.inf if seen[-1] else grad)


def _state(trainer: Any) -> dict[str, Any]:
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    return {
        "weights": weights,
        "optimizer": trainer.optimizer.state_dict()["state"],
        "rate": trainer.lr_scheduler.state_dict()["last_epoch"],
    }


def _assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            _assert_same(one[name], other[name])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def _train(trainer: Any) -> Any:
    trainer.train()
    return trainer


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_skipped_batch_is_as_if_it_did_not_exist(
    stage: str, tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    """Weights, optimizer and rate, to the bit: the oracle is a run whose data lack the batch."""
    order = list(range(STEPS * ROWS_A_STEP))
    bad = order[(BAD_STEP - 1) * ROWS_A_STEP : BAD_STEP * ROWS_A_STEP]
    without = [row for row in order if row not in bad]
    oracle = _train(_trainer(stage, tiny, world, tmp_path / "oracle", without))
    trainer = _trainer(stage, tiny, world, tmp_path / "poisoned", order)
    _poison_gradient(trainer, set(bad[:1]))
    _train(trainer)
    assert trainer.state.global_step == STEPS
    _assert_same(_state(trainer), _state(oracle))
    by_step = {e["step"]: e for e in trainer.state.log_history if "tokens" in e}
    losses = [e["loss"] for e in oracle.state.log_history if "tokens" in e]
    assert [e["loss"] for e in by_step.values() if "loss" in e] == losses
    names = (world.sft if stage == "sft" else world.dpo).names
    assert by_step[BAD_STEP][SKIPPED] == sorted({names[row] for row in bad})
    assert "loss" not in by_step[BAD_STEP]
    assert "grad_norm" not in by_step[BAD_STEP]


def test_a_loss_that_is_not_finite_names_the_rows_of_its_micro_batch(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    """A pair whose reference is infinite, as a broken ledger might hold it, past all checks."""
    trainer = _trainer("dpo", tiny, world, tmp_path, list(range(2 * ROWS_A_STEP)))
    inner = trainer.data_collator

    def collated(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch: dict[str, torch.Tensor] = inner(rows)
        batch["reference_chosen"][[row["row"] == 5 for row in rows]] = math.inf
        return batch

    trainer.data_collator = collated
    trainer.train()
    # Micro batches hold two rows: 4 and 5 are the first of step 2.
    named = sorted({world.dpo.names[row] for row in (4, 5)})
    assert [e[SKIPPED] for e in trainer.state.log_history if SKIPPED in e] == [named]
    margins = [e.get("rewards/margins") for e in trainer.state.log_history if "tokens" in e]
    assert margins[0] is not None
    assert margins[1] is None


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_weights_that_went_wrong_end_the_stage_and_name_rows(
    stage: str, tiny: ModelFolder, tmp_path: Path
) -> None:
    """A rate at which everything overflows: every batch after the first is bad."""
    group = _group(learning_rate=1e30, warmup_steps=0, max_skipped_batches=1, save_steps=1)
    wild = replace(stage_of(tiny.path, tmp_path, stage), group=group)
    with pytest.raises(UserError) as refusal:
        run_stage(wild)
    assert refusal.value.exit_code == EXIT_USER
    message = str(refusal.value)
    assert f"training.{stage}.max_skipped_batches" in message
    assert "1 batches may be skipped" in message
    assert any(name in message for name in wild.rows.names)
    history = wild.storage.read_bytes(f"{wild.folder}/history.jsonl").splitlines()
    assert sum(SKIPPED in json.loads(line) for line in history) == 1
    # What was stored before is finite: no checkpoint saw a bad step.
    from safetensors.torch import load_file

    (kept,) = sorted((tmp_path / "out").rglob("checkpoint-1/model.safetensors"))
    assert all(bool(torch.isfinite(t).all()) for t in load_file(kept).values())
