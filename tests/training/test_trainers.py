"""What TRL computes on our rows: the batch, the loss, and what stops it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.training_world import TRAINING, Encoded, encoded

from cosalign.domain.errors import ConfigError, UserError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.training.encode import IGNORED

pytestmark = pytest.mark.training

GROUP = TrainingGroup.model_validate(TRAINING)


@pytest.fixture(scope="module")
def world(tiny: ModelFolder) -> Encoded:
    return encoded(tiny)


def _sft(tiny: ModelFolder, world: Encoded, folder: Path) -> Any:
    from cosalign.training.sft import sft_trainer

    return sft_trainer(tiny.path, world.sft, GROUP, folder, None)


def _dpo(tiny: ModelFolder, world: Encoded, folder: Path, **changes: object) -> Any:
    from cosalign.training.dpo import dpo_trainer

    dpo = {**GROUP.dpo.model_dump(), **changes}
    group = TrainingGroup.model_validate({**TRAINING, "dpo": dpo})
    return dpo_trainer(tiny.path, world.dpo, group, folder, None)


def _unpadded(row: torch.Tensor, mask: torch.Tensor) -> list[int]:
    return [int(value) for value in row[mask.bool()]]


def test_sft_batches_are_the_rows(tiny: ModelFolder, world: Encoded, tmp_path: Path) -> None:
    rows = {row["row"]: row for row in world.sft.table.to_pylist()}
    seen = []
    for batch in _sft(tiny, world, tmp_path).get_train_dataloader():
        for place, number in enumerate(batch["rows"].tolist()):
            mask = batch["attention_mask"][place]
            assert _unpadded(batch["input_ids"][place], mask) == rows[number]["input_ids"]
            assert _unpadded(batch["labels"][place], mask) == rows[number]["labels"]
            assert set(batch["labels"][place][~mask.bool()].tolist()) <= {IGNORED}
            seen.append(number)
    assert sorted(seen) == sorted(rows)


def test_dpo_batches_are_the_rows(tiny: ModelFolder, world: Encoded, tmp_path: Path) -> None:
    rows = {row["row"]: row for row in world.dpo.table.to_pylist()}
    seen = []
    for batch in _dpo(tiny, world, tmp_path, max_steps=None).get_train_dataloader():
        numbers = batch["rows"].tolist()
        for place, number in enumerate(numbers + numbers):
            row = rows[number]
            answer = row["chosen_ids"] if place < len(numbers) else row["rejected_ids"]
            mask = batch["attention_mask"][place]
            assert _unpadded(batch["input_ids"][place], mask) == row["prompt_ids"] + answer
            learnt = batch["completion_mask"][place]
            assert _unpadded(batch["input_ids"][place], learnt) == answer
        seen += numbers
    assert sorted(seen) == sorted(rows)


def _log_probability(model: Any, context: list[int], answer: list[int]) -> torch.Tensor:
    """log pi(answer | context) of one row without padding, by plain log-softmax."""
    logits_TV = model(torch.tensor([context + answer])).logits[0]  # noqa: N806 T: tokens
    logs_TV = torch.log_softmax(logits_TV, dim=-1)  # noqa: N806
    first = len(context)
    places = range(first - 1, first - 1 + len(answer))
    return torch.stack([logs_TV[p, t] for p, t in zip(places, answer, strict=True)]).sum()


@torch.no_grad()
def _dpo_oracle(policy: Any, reference: Any, rows: list[dict[str, Any]], beta: float) -> float:
    """Equation 7 of Rafailov et al. (arXiv 2305.18290), in float64."""
    losses = []
    for row in rows:
        ratios = [
            _log_probability(policy, row["prompt_ids"], row[answer])
            - _log_probability(reference, row["prompt_ids"], row[answer])
            for answer in ("chosen_ids", "rejected_ids")
        ]
        losses.append(-torch.log(torch.sigmoid(beta * (ratios[0] - ratios[1]))))
    return float(torch.stack(losses).mean())


def test_the_dpo_loss_is_the_papers(tiny: ModelFolder, world: Encoded, tmp_path: Path) -> None:
    from cosalign.training.trainers import load_weights

    trainer = _dpo(tiny, world, tmp_path)
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in trainer.model.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    policy = load_weights(tiny.path)
    policy.load_state_dict(trainer.model.state_dict())
    reference = load_weights(tiny.path)
    rows = {row["row"]: row for row in world.dpo.table.to_pylist()}
    batch = next(iter(trainer.get_train_dataloader()))
    wanted = [rows[number] for number in batch["rows"].tolist()]
    loss = float(trainer.compute_loss(trainer.model, batch).detach())
    oracle = _dpo_oracle(policy.double(), reference.double(), wanted, GROUP.dpo.beta)
    assert abs(oracle - math.log(2)) > 0.01
    assert loss == pytest.approx(oracle, rel=1e-4)


def test_the_first_dpo_loss_is_ln_2(tiny: ModelFolder, world: Encoded, tmp_path: Path) -> None:
    trainer = _dpo(tiny, world, tmp_path)
    with torch.no_grad():
        for batch in trainer.get_train_dataloader():
            loss = float(trainer.compute_loss(trainer.model, batch))
            assert loss == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_loss_that_is_not_finite_names_its_rows(
    stage: str, tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    trainer = (_sft if stage == "sft" else _dpo)(tiny, world, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    rows = world.sft if stage == "sft" else world.dpo
    with torch.no_grad():
        trainer.model.lm_head.weight[:] = math.nan
    named = [rows.names[number] for number in batch["rows"].tolist()]
    with pytest.raises(UserError) as refusal:
        trainer.compute_loss(trainer.model, batch)
    assert all(name in str(refusal.value) for name in named)
    assert f"training.{stage}.learning_rate" in str(refusal.value)


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "ACCELERATE_USE_FSDP"])
def test_a_start_that_speaks_of_more_processes_is_refused(
    variable: str,
    tiny: ModelFolder,
    world: Encoded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cosalign.training.trainers import require_single_process

    accelerator = _sft(tiny, world, tmp_path).accelerator
    require_single_process(accelerator)
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ConfigError, match="one process"):
        require_single_process(accelerator)


def test_the_recipe_reaches_the_trainer(tiny: ModelFolder, world: Encoded, tmp_path: Path) -> None:
    trainer = _dpo(tiny, world, tmp_path)
    trainer.create_optimizer_and_scheduler(num_training_steps=10)
    assert isinstance(trainer.optimizer, torch.optim.RMSprop)
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert trainer.beta == GROUP.dpo.beta
    assert trainer.args.gradient_accumulation_steps == 2
    assert trainer.args.max_length is None
    assert not trainer.args.bf16


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [0.5, 1.0, 0.8536, 0.5, 0.1464, 0.0]),
    ],
)
def test_the_rate_warms_up_and_follows_its_schedule(
    tiny: ModelFolder, world: Encoded, tmp_path: Path, schedule: str, expected: list[float]
) -> None:
    from cosalign.training.sft import sft_trainer

    sft = {**GROUP.sft.model_dump(), "warmup_steps": 2, "schedule": schedule, "learning_rate": 1.0}
    group = TrainingGroup.model_validate({**TRAINING, "sft": sft})
    trainer = sft_trainer(tiny.path, world.sft, group, tmp_path, None)
    trainer.create_optimizer_and_scheduler(num_training_steps=6)
    rates = []
    for _ in expected:
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
    assert rates == pytest.approx(expected, abs=1e-4)


def test_dpo_holds_no_more_rows_than_its_steps_take(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    from cosalign.training.dpo import dpo_trainer

    dpo = {**GROUP.dpo.model_dump(), "max_steps": 1, "batch_size": 2, "micro_batch_size": 2}
    seen = set()
    for seed in range(4):
        group = TrainingGroup.model_validate({**TRAINING, "dpo": dpo, "seed": seed})
        rows = dpo_trainer(tiny.path, world.dpo, group, tmp_path, None).train_dataset["row"]
        assert len(set(rows)) == 2
        seen.add(tuple(rows))
    assert len(seen) > 1
    assert world.dpo.table.num_rows > 2
