"""From what a trainer holds to one plain model on a CPU: shards gathered, adapters merged.

What is stored must not tell how it was computed: the same file names, weight names and types from
one process, from replicas and from shards. So shards are gathered into a freshly loaded model, and
all else goes on as if it had been trained there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_shards

from cosalign.training.checkpoint_weights import SHARDS, load_adapters
from cosalign.training.ranks import this_process
from cosalign.training.world import shards

if TYPE_CHECKING:
    from cosalign.domain.run_config import TrainingGroup
    from cosalign.domain.run_config.training import LoraSettings


def load_weights(folder: Path) -> Any:
    """The model with fp32 weights: steps of 5e-7 vanish in bf16 ones."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    )


def adapter_config(settings: LoraSettings | None) -> Any:
    """Adapters on every linear layer of the blocks, as peft wants to hear it; ``None`` without."""
    if settings is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def gathered_model(trainer: Any, start: Path, group: TrainingGroup) -> Any:
    """The trained model, whole and merged, on the first rank; ``None`` on the others.

    All ranks have to call it.
    """
    ranks = this_process()
    if not shards(group, ranks):
        return _merged(trainer.accelerator.unwrap_model(trainer.model)) if ranks.first else None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(trainer.model, options=options)
    if not ranks.first:
        return None
    model = _fresh(start, group)
    model.load_state_dict(weights)
    return _merged(model)


def checkpoint_model(checkpoint: Path, start: Path, group: TrainingGroup) -> Any:
    """The model of a checkpoint, whole and merged; sharded or not."""
    if (checkpoint / SHARDS).is_dir():
        return _merged(_from_shards(checkpoint / SHARDS, start, group))
    if group.lora is None:
        return load_weights(checkpoint)
    from peft import PeftModel

    return _merged(PeftModel.from_pretrained(load_weights(start), str(checkpoint)))


def _from_shards(folder: Path, start: Path, group: TrainingGroup) -> Any:
    model = _fresh(start, group)
    if group.lora is not None:
        load_adapters(model, folder, alone=True)
        return model
    weights = model.state_dict()
    load_shards({"model": weights}, checkpoint_id=str(folder), no_dist=True)
    model.load_state_dict(weights)
    return model


def _fresh(start: Path, group: TrainingGroup) -> Any:
    weights = load_weights(start)
    if group.lora is None:
        return weights
    from peft import get_peft_model

    return get_peft_model(weights, adapter_config(group.lora))


def _merged(model: Any) -> Any:
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
