"""What TRL computes on our rows: the batch, the loss, and what stops it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.training_world import TRAINING, Encoded, encoded
from transformers import TrainingArguments

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import open_storage
from cosalign.training.reference_scorer import reference_pass

pytestmark = pytest.mark.training

COMPILES = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"
)

GROUP = TrainingGroup.model_validate(TRAINING)


@pytest.fixture(scope="module")
def world(tiny: ModelFolder) -> Encoded:
    return encoded(tiny)


def _sft(tiny: ModelFolder, world: Encoded, folder: Path) -> Any:
    from cosalign.training.sft import sft_trainer

    return sft_trainer(tiny.path, world.sft, GROUP, folder, None)


def _reached(world: Encoded, group: TrainingGroup) -> Any:
    from cosalign.training.dpo import reached

    dpo = group.dpo
    return reached(world.dpo.table, dpo.max_steps, dpo.batch_size, group.seed)


def _dpo(tiny: ModelFolder, world: Encoded, folder: Path, **changes: object) -> Any:
    from cosalign.training.dpo import dpo_trainer

    group = _group(**changes)  # type: ignore[arg-type]
    rows = replace(world.dpo, table=_reached(world, group))
    found = reference_pass(tiny, open_storage(str(folder)), group).completed(rows)
    return dpo_trainer(tiny.path, replace(rows, table=found), group, folder, None)


def _group(precision: str = "fp32", compiled: bool = False, **dpo: object) -> TrainingGroup:
    settings = {**GROUP.dpo.model_dump(), **dpo}
    changed = {"precision": precision, "compile": compiled, "dpo": settings}
    return TrainingGroup.model_validate({**TRAINING, **changed})


def _spans(batch: dict[str, torch.Tensor], example: int) -> list[list[int]]:
    """The ids of an example's context and answers, as they lie in a packed batch."""
    own = batch["example"] == example
    return [
        batch["input_ids"][0][own & (batch["branch"] == branch)].tolist()
        for branch in range(int(batch["branch"][own].max()) + 1)
    ]


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_batches_are_the_rows(
    stage: str, tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    rows = {row["row"]: row for row in getattr(world, stage).table.to_pylist()}
    seen = []
    trainer = (
        _sft(tiny, world, tmp_path)
        if stage == "sft"
        else _dpo(tiny, world, tmp_path, max_steps=None)
    )
    for batch in trainer.get_train_dataloader():
        for place, number in enumerate(batch["rows"].tolist()):
            row = rows[number]
            answers = ["answer_ids"] if stage == "sft" else ["chosen_ids", "rejected_ids"]
            assert _spans(batch, place) == [row["prompt_ids"], *(row[name] for name in answers)]
            seen.append(number)
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


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILES)])
def test_the_dpo_loss_is_the_papers(
    compiled: bool,
    tiny: ModelFolder,
    world: Encoded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._dynamo import OptimizedModule

    from cosalign.training.whole_model import load_weights

    # transformers asks accelerate for it by this variable, which must not outlive the test.
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    trainer = _dpo(tiny, world, tmp_path, compiled=compiled)
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
    model = trainer.accelerator.prepare(trainer.model)
    assert isinstance(model, OptimizedModule) is compiled
    loss = float(trainer.compute_loss(model, batch).detach())
    oracle = _dpo_oracle(policy.double(), reference.double(), wanted, GROUP.dpo.beta)
    assert abs(oracle - math.log(2)) > 0.01
    assert loss == pytest.approx(oracle, rel=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 5e-3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_first_dpo_loss_is_ln_2(
    precision: str,
    tolerance: float,
    smoothing: float,
    tiny: ModelFolder,
    world: Encoded,
    tmp_path: Path,
) -> None:
    changes = {"label_smoothing": smoothing, "max_steps": None}
    trainer = _dpo(tiny, world, tmp_path, precision=precision, **changes)
    with torch.no_grad(), trainer.accelerator.autocast():
        losses = [
            float(trainer.compute_loss(trainer.model, batch))
            for batch in trainer.get_train_dataloader()
        ]
    # bf16 rounds otherwise in another packing; over a batch of 32 pairs that averages out.
    for first in range(0, len(losses) - 15, 16):
        assert sum(losses[first : first + 16]) / 16 == pytest.approx(math.log(2), abs=tolerance)
    assert losses == pytest.approx([math.log(2)] * len(losses), abs=4 * tolerance)
    assert len(losses) > 10


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "ACCELERATE_USE_FSDP"])
def test_a_start_that_speaks_of_more_processes_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cosalign.training.launch import processes_of

    assert processes_of(GROUP) == 1
    monkeypatch.setenv(variable, "2")
    with pytest.raises(ConfigError, match="launches its own processes"):
        processes_of(GROUP)


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


def test_dpo_holds_no_more_rows_than_its_steps_take(world: Encoded) -> None:
    assert world.dpo.table.num_rows > 2
    seen = set()
    for seed in range(4):
        group = _group(max_steps=1, batch_size=2, micro_batch_size=2)
        rows = _reached(world, group.model_copy(update={"seed": seed}))["row"].to_pylist()
        assert len(set(rows)) == 2
        seen.add(tuple(rows))
    assert len(seen) > 1


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_one_process_stays_on_one_gpu_of_several(
    stage: str, tiny: ModelFolder, world: Encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it sees several, transformers counts them all and wraps the model in DataParallel."""
    plain = TrainingArguments.__post_init__

    def seeing_two(self: TrainingArguments) -> None:
        plain(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", seeing_two)
    trainer = (_sft if stage == "sft" else _dpo)(tiny, world, tmp_path)
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == trainer.args.per_device_train_batch_size
