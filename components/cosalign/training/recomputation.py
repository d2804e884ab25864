"""Whether activations have to be recomputed in the backward pass: only where memory asks for it.

Recomputing costs a third more work. The planner knows what a micro batch of the longest rows would
keep; what does not fit a GPU with it is recomputed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosalign.runtime.logs import get_logger
from cosalign.training.model_shape import read_model_shape
from cosalign.training.planner import GIB, stage_memory

if TYPE_CHECKING:
    from pathlib import Path

    from cosalign.domain.run_config import TrainingGroup
    from cosalign.training.model_shape import ModelShape

_ANSWERS = {"sft": 1, "dpo": 2}


def gpu_memory_gib() -> float | None:
    """Memory of the first visible GPU; ``None`` without one, where there is no need to save it."""
    import torch

    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory) / GIB


def with_recomputation_decided(
    group: TrainingGroup, model: Path, processes: int, memory_gib: float | None
) -> TrainingGroup:
    """The settings with ``activation_checkpointing`` decided, where the run leaves it open.

    Args:
        group: The run's training settings.
        model: Folder of the model that is trained.
        processes: How many train together.
        memory_gib: Memory of a GPU; ``None`` on a CPU.
    """
    if group.activation_checkpointing is not None or memory_gib is None:
        return group
    needed = must_recompute(read_model_shape(model), group, processes, memory_gib)
    get_logger(__name__).info("activations", recomputed=needed, gpu_memory_gib=round(memory_gib, 1))
    return group.model_copy(update={"activation_checkpointing": needed})


def must_recompute(
    shape: ModelShape, group: TrainingGroup, processes: int, memory_gib: float
) -> bool:
    """Whether the longest rows of either stage would not fit without.

    Args:
        shape: The model.
        group: The run's training settings; a pair counts as two answers as long as its context.
        processes: GPUs that train together.
        memory_gib: Memory of one GPU.
    """
    for name, stage in (("sft", group.sft), ("dpo", group.dpo)):
        tokens = stage.micro_batch_size * stage.max_length * (1 + _ANSWERS[name]) / 2
        scored = stage.micro_batch_size * stage.max_length * _ANSWERS[name] / 2
        plan = stage_memory(shape, group, processes, tokens, scored, recomputed=False)
        if plan.total > memory_gib:
            return True
    return False
