"""What ranks compute together, and what one process computes alone: gradients, losses, models.

``python -m tests.training.rank_figures MODEL ROOT PROCESSES``, by a launcher. One start does all,
since most of its time is imports. The first rank writes ``ROOT/figures.pt``.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.training.training_world import TRAINING, encoded

from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import resolve_model
from cosalign.store.storage import open_storage
from cosalign.training.stage import Stage, stage_trainer, train_stage

LORA = {"rank": 4, "alpha": 8}
STEPS, BATCH = 10, 8
MICRO_BATCHES = BATCH // (2 * 2)
"""Of a step, on each of two ranks."""
ROWS = {"sft": 14, "dpo": 30}
"""No multiple of the batch: an epoch's last step holds six rows, of which two ranks get 4 and 2."""


def group_of(sharding: str, processes: int, **changes: object) -> TrainingGroup:
    """Settings of ten steps; a sharded run recomputes activations, which the numbers prove too."""
    stage = {
        "batch_size": BATCH,
        "micro_batch_size": 2,
        "max_steps": STEPS,
        "epochs": STEPS,
        "learning_rate": 1e-4,
        "save_steps": 3,
        **changes,
    }
    settings = {
        **TRAINING,
        "sft": stage,
        "dpo": {**stage, "sft_weight": 0.5},
        "sharding": sharding,
        "processes": processes,
        "activation_checkpointing": sharding == "full",
    }
    return TrainingGroup.model_validate(settings)


def stage_of(model: Path, folder: Path, name: str, group: TrainingGroup) -> Stage:
    """A stage of a few rows, from the base model."""
    start = resolve_model(str(model), folder / "cache")
    world = encoded(start)
    rows = world.sft if name == "sft" else world.dpo
    few = replace(rows, table=rows.table.slice(0, ROWS[name]))
    return Stage(name, start, few, group, open_storage(str(folder / "out")), folder / "cache")


def figures(model: Path, folder: Path, name: str, group: TrainingGroup) -> dict[str, Any] | None:
    """Losses, gradients of an epoch's last step, weights after ten; ``None`` but on rank 0."""
    from cosalign.training.ranks import this_process
    from cosalign.training.whole_model import gathered_model
    from cosalign.training.world import ShardingProof, require_world, shards

    stage = stage_of(model, folder, name, group)
    trainer = stage_trainer(stage, folder / name)
    require_world(trainer.accelerator, group, group.processes or 1)
    trainer.add_callback(ShardingProof(shards(group, this_process())))
    taken = _gradients_of_a_ragged_step(trainer)
    trainer.train()
    trained = gathered_model(trainer, stage.start.path, group)
    if trained is None:
        return None
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    weights = {name: weight.detach().clone() for name, weight in trained.named_parameters()}
    return {"losses": losses, "gradients": taken, "weights": weights}


def _gradients_of_a_ragged_step(trainer: Any) -> dict[str, Any]:
    from transformers import TrainerCallback

    taken: dict[str, Any] = {}

    class Callback(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            if not taken and (state.global_step + 1) * BATCH > trainer.real_rows:
                taken.update(_whole_gradients(trainer.model))

    trainer.add_callback(Callback())
    return taken


def _whole_gradients(model: Any) -> dict[str, Any]:
    from torch.distributed.tensor import DTensor

    found = {}
    for name, weight in model.named_parameters():
        whole = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
        found[name.replace("_checkpoint_wrapped_module.", "")] = whole.detach().clone()
    return found


class _Interruption:
    """Raises, on every rank, in step 5; the checkpoint is of step 3, within the second epoch."""

    def __init__(self) -> None:
        self._left = 4 * MICRO_BATCHES + 1

    def __call__(self, _rows: list[int]) -> None:
        self._left -= 1
        if not self._left:
            raise InterruptedError


def interrupted_and_resumed(model: Path, folder: Path, group: TrainingGroup) -> dict[str, Any]:
    """Where both trainings stored their results, and which rows each rank took of the two."""
    from accelerate.state import GradientState

    from cosalign.training.ranks import this_process

    calm = stage_of(model, folder / "calm", "sft", group)
    rough = stage_of(model, folder / "rough", "sft", group)
    in_order: list[list[int]] = []
    again: list[list[int]] = []
    for stage in (calm, rough):
        stage.work.mkdir(parents=True, exist_ok=True)
    train_stage(replace(calm, observer=in_order.append))
    try:
        train_stage(replace(rough, observer=_Interruption()))
    except InterruptedError:
        # A process that resumes is a new one; here accelerate would remember half a step.
        GradientState._reset_state()
        train_stage(replace(rough, observer=again.append))
    return {
        "calm": str(folder / "calm/out"),
        "rough": str(folder / "rough/out"),
        "rows": this_process().gathered((in_order, again)),
        "folder": calm.folder,
    }


def _main(model: str, root: str, processes: str) -> None:
    import torch

    from cosalign.training.world import join_world

    ranks = join_world(int(processes))
    found: dict[str, Any] = {}
    for sharding in ("none", "full"):
        group = group_of(sharding, int(processes))
        for name in ("sft", "dpo"):
            folder = Path(root) / sharding
            found[f"{name} {sharding}"] = figures(Path(model), folder, name, group)
    for name, lora in (("weights", None), ("adapters", LORA)):
        trained = TrainingGroup.model_validate({**group.model_dump(), "lora": lora})
        folder = Path(root) / name
        found[f"resumed {name}"] = interrupted_and_resumed(Path(model), folder, trained)
    if ranks.first:
        torch.save(found, Path(root) / "figures.pt")


if __name__ == "__main__":
    _main(*sys.argv[1:])
