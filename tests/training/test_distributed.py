"""Two processes compute what one computes, and a start that is not what was asked for is refused.

One torchrun of two ranks does all of it, over gloo: replicas (DDP) and shards (FSDP2), SFT and DPO,
and an interrupted sharded run. World size, kind of distribution and shards are asserted inside.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.training.rank_figures import LORA, MICRO_BATCHES, figures, group_of, stage_of

from cosalign.domain.errors import TransientError, UserError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.training.launch import launched, torchrun
from cosalign.training.stage import train_stage
from cosalign.training.whole_model import checkpoint_model

pytestmark = pytest.mark.training

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def together(tiny: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of two ranks."""
    folder = tmp_path_factory.mktemp("two")
    command = [*torchrun(2), "-m", "tests.training.rank_figures", str(tiny.path), str(folder), "2"]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = torch.load(folder / "figures.pt", weights_only=True)
    return found


@pytest.fixture(scope="module")
def alone(tiny: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of one process."""
    folder = tmp_path_factory.mktemp("one")
    return {name: figures(tiny.path, folder, name, group_of("none", 1)) for name in ("sft", "dpo")}


def _apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference, in units of the largest value."""
    assert one.keys() == other.keys()
    largest = max(float(tensor.abs().max()) for tensor in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / largest


@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_two_ranks_are_as_one(
    stage: str, sharding: str, alone: dict[str, Any], together: dict[str, Any]
) -> None:
    one, two = alone[stage], together[f"{stage} {sharding}"]
    # The gradient of a step whose ranks hold unequally many rows and tokens, some steps on.
    assert _apart(one["gradients"], two["gradients"]) < 1e-3
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert len(two["losses"]) == 10
    # Ten steps move weights by 1e-3 of the largest, which is to mean something here.
    assert _apart(one["weights"], two["weights"]) < 1e-5
    assert max(one["losses"]) - min(one["losses"]) > 0.5


def _stored(resumed: dict[str, Any], run: str) -> tuple[dict[str, Any], Path]:
    """A stage's result, and the folder of its model."""
    root = Path(resumed[run])
    result = json.loads((root / resumed["folder"] / "result.json").read_bytes())
    return result, root / result["model"]


@pytest.mark.parametrize("trained", ["weights", "adapters"])
def test_interrupted_shards_resume_as_if_never_interrupted(
    trained: str, tiny: ModelFolder, together: dict[str, Any]
) -> None:
    resumed = together[f"resumed {trained}"]
    assert len(resumed["rows"]) == 2
    for in_order, again in resumed["rows"]:
        assert again == in_order[3 * MICRO_BATCHES :]
    (calm, one), (rough, other) = (_stored(resumed, run) for run in ("calm", "rough"))
    assert [entry["step"] for entry in rough["curve"]] == list(range(1, 11))
    assert rough["curve"][-1]["loss"] == pytest.approx(calm["curve"][-1]["loss"], abs=1e-5)
    weights, after = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert _apart(weights, after) < 1e-5
    assert _apart(weights, load_file(tiny.path / "model.safetensors")) > 1e-4
    # What a checkpoint holds is the model, as the best one is taken from it.
    checkpoint = Path(resumed["rough"]) / resumed["folder"] / "checkpoints/sharded/checkpoint-10"
    lora = LORA if trained == "adapters" else None
    group = TrainingGroup.model_validate({**group_of("full", 2).model_dump(), "lora": lora})
    assert _apart(checkpoint_model(checkpoint, tiny.path, group).state_dict(), after) == 0


def test_one_process_leaves_the_same_files(
    tiny: ModelFolder, tmp_path: Path, together: dict[str, Any]
) -> None:
    """The same names, and the same weights by name, shape and type."""
    _, shared = _stored(together["resumed weights"], "calm")
    stage = stage_of(tiny.path, tmp_path, "sft", group_of("none", 1))
    stage.work.mkdir(parents=True)
    train_stage(stage)
    alone = next((tmp_path / "out/models").iterdir())
    assert {p.name for p in alone.iterdir()} == {p.name for p in shared.iterdir()}
    plain, weights = (load_file(folder / "model.safetensors") for folder in (alone, shared))
    assert {n: (w.shape, w.dtype) for n, w in plain.items()} == {
        n: (w.shape, w.dtype) for n, w in weights.items()
    }
    assert _apart(plain, weights) < 1e-4


def test_a_launcher_that_starts_one_process_for_two_is_caught(tmp_path: Path) -> None:
    """``accelerate launch --cpu`` does, and would end with exit code 0."""
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    rank = ["-m", "cosalign.training.rank", "--storage", str(tmp_path), "--folder", "none"]
    rank += ["--cache", str(tmp_path), "--processes", "2"]
    command = [sys.executable, *launcher, *rank]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "asks for 2 processes, and this start joined 1" in done.stderr


def test_what_a_rank_meets_reaches_the_step(tiny: ModelFolder, tmp_path: Path) -> None:
    stage = stage_of(tiny.path, tmp_path, "sft", group_of("full", 2))
    object.__setattr__(stage.start, "digest", "another")
    stage.work.mkdir(parents=True)
    with pytest.raises(UserError, match="another one than was ordered"):
        launched(stage, 2)
    assert not list((tmp_path / "out").rglob("order.*"))


def test_a_rank_that_is_killed_ends_the_step_for_a_retry(tiny: ModelFolder, tmp_path: Path) -> None:
    """The other one meets a broken connection, which is no defect of ours."""
    group = group_of("full", 2, max_steps=4000, epochs=4000)
    stage = stage_of(tiny.path, tmp_path, "sft", group)
    stage.work.mkdir(parents=True)
    killer = threading.Thread(target=_kill_second_rank, args=(tmp_path / "out",), daemon=True)
    killer.start()
    with pytest.raises(TransientError, match="last whole checkpoint is kept"):
        launched(stage, 2)


def _kill_second_rank(storage: Path) -> None:
    while not list(storage.rglob("complete.json")):
        time.sleep(0.1)
    for process in _descendants(os.getpid()):
        if b"\0RANK=1\0" in Path(f"/proc/{process}/environ").read_bytes():
            os.kill(process, signal.SIGKILL)


def _descendants(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task").glob("*/children")
    found = [int(child) for each in children for child in each.read_text().split()]
    return found + [deeper for child in found for deeper in _descendants(child)]
