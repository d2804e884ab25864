"""Weights in a trainer's checkpoints: those of sharded adapters, and that there are any.

accelerate asks peft for adapters, and peft looks them up by the names of modules. Where blocks are
recomputed these are wrapped, and under the wrappers' names peft finds none: checkpoints without
weights, that load without a word. So adapters are saved and loaded by the names that torch gives
them, and what a checkpoint holds is counted before it is believed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from cosalign.training.ranks import this_process

SHARDS = "pytorch_model_fsdp_0"
"""Where accelerate puts a checkpoint's shards."""

_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


class ShardedAdapters:
    """Mixin before a TRL trainer: saves and loads adapters that are sharded."""

    @property
    def _sharded_adapters(self) -> bool:
        trainer: Any = self
        return bool(trainer.is_fsdp_enabled) and hasattr(trainer.model, "peft_config")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """The trainer's, which saves the weights too; ours take the place of what peft found."""
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self._sharded_adapters:
            save_adapters(self.model, Path(output_dir) / SHARDS)  # type: ignore[attr-defined]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The trainer's; all adapters have to be in the checkpoint."""
        if self._sharded_adapters:
            whole = self.model if model is None else model  # type: ignore[attr-defined]
            load_adapters(whole, Path(resume_from_checkpoint) / SHARDS, alone=False)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]


def save_adapters(model: Any, folder: Path) -> None:
    """Writes a sharded model's adapters in place of what is there; all ranks have to call it."""
    ranks = this_process()
    if ranks.first_of_node:
        shutil.rmtree(folder, ignore_errors=True)
    ranks.wait()
    adapters = get_model_state_dict(model, options=_TRAINED)
    save_shards({"model": adapters}, checkpoint_id=str(folder))


def load_adapters(model: Any, folder: Path, alone: bool) -> None:
    """Fills a model's adapters from shards, all of them or none.

    Args:
        model: A model with adapters, sharded or not.
        folder: The shards.
        alone: One process reads all of them; else each rank its own.

    Raises:
        CheckpointException: An adapter is not in the checkpoint.
    """
    adapters = get_model_state_dict(model, options=_TRAINED)
    load_shards({"model": adapters}, checkpoint_id=str(folder), no_dist=alone)
    set_model_state_dict(model, adapters, options=_TRAINED)


def weights_in(checkpoint: Path) -> int:
    """How many tensors of weights a checkpoint that was just written holds, by its headers."""
    from safetensors import safe_open

    if (checkpoint / SHARDS).is_dir():
        return len(FileSystemReader(checkpoint / SHARDS).read_metadata().state_dict_metadata)
    found = 0
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            found += len(weights.keys())
    return found
