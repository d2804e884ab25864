"""Several processes as one training: joining them, sharding, and the proof that both happened.

Launchers fail in silence. ``accelerate launch --cpu --num_processes 2`` starts one process; a
sharding config on a CPU gave plain replicas, or two runs that knew nothing of each other; each with
exit code 0. So every rank holds what it finds against what was asked for, before and after the
trainer has wrapped the model: the number of processes, the kind of distribution, and that each
parameter is a shard.

Letters in names: none; nothing here looks into a tensor.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from cosalign.domain.errors import ConfigError
from cosalign.training.ranks import Ranks, this_process

if TYPE_CHECKING:
    from cosalign.domain.run_config import TrainingGroup

PATIENCE = timedelta(minutes=30)
"""How long ranks wait for one another; storing a large model takes minutes on the first."""


def join_world(asked: int) -> Ranks:
    """Joins this process with the others that its launcher started.

    Raises:
        ConfigError: There are not as many as asked for.
    """
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if state.num_processes != asked:
        raise ConfigError(
            f"training.processes asks for {asked} processes, and this start joined "
            f"{state.num_processes}; accelerate starts one on a CPU whatever it is asked for: let "
            "the training step launch them, or use torchrun"
        )
    return this_process()


def shards(group: TrainingGroup, ranks: Ranks) -> bool:
    """Whether weights are sharded."""
    return ranks.world > 1 and group.sharding == "full"


def fsdp_config(recompute: bool) -> dict[str, Any]:
    """FSDP2 as this project uses it, in the words that transformers and accelerate share.

    Args:
        recompute: Whether blocks are recomputed in the backward pass.
    """
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "reshard_after_forward": True,
        # Each rank writes its own shard: 64 GB of an 8B model need not pass through one process.
        "state_dict_type": "SHARDED_STATE_DICT",
        "activation_checkpointing": recompute,
        # It would load empty weights on all ranks but one, the reference model's too.
        "cpu_ram_efficient_loading": False,
    }


def sharding_arguments(group: TrainingGroup, ranks: Ranks, recompute: bool) -> dict[str, Any]:
    """What TrainingArguments need to be told of the world."""
    common = {
        "ddp_timeout": int(PATIENCE.total_seconds()),
        "ddp_find_unused_parameters": False,
    }
    if not shards(group, ranks):
        return {**common, "gradient_checkpointing": recompute}
    config = fsdp_config(recompute)
    return {**common, "gradient_checkpointing": False, "fsdp": True, "fsdp_config": config}


def keep_sums_exact(arguments: Any) -> None:
    """Gathers weights in bf16, and sums gradients and gives log-probabilities in fp32.

    accelerate would have all three in bf16: log-probabilities of whole answers, which are sums of
    about -100, would be rounded to halves.
    """
    if arguments.fsdp_plugin_args is None or not arguments.bf16:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy

    arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None
    )


def stay_on_one_device(arguments: Any) -> None:
    """Has a process train on its own GPU alone.

    Where one process sees several, transformers wraps the model in DataParallel, which cannot split
    a packed row. Several GPUs are for several processes.
    """
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1


def require_world(accelerator: Any, group: TrainingGroup, asked: int) -> None:
    """Refuses a trainer that is not distributed as asked.

    Raises:
        ConfigError: Another number of processes, or another kind of distribution.
    """
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    sharded = shards(group, Ranks(0, asked))
    kinds = ("FSDP",) if sharded else ("MULTI_GPU", "MULTI_CPU") if asked > 1 else ("NO",)
    if accelerator.num_processes != asked or kind not in kinds:
        raise ConfigError(
            f"training was to run in {asked} processes of type {' or '.join(kinds)}, and runs in "
            f"{accelerator.num_processes} of type {kind}; start it by the training step, and unset "
            "what accelerate or another launcher left in the environment"
        )


class ShardingProof(TrainerCallback):  # type: ignore[misc]
    """Holds the wrapped model's parameters against what was asked for, before the first step."""

    def __init__(self, sharded: bool) -> None:
        self._sharded = sharded

    def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
        """Raises :class:`ConfigError` where a parameter is not sharded, or is and should not be."""
        wrong = [n for n, p in model.named_parameters() if isinstance(p, DTensor) != self._sharded]
        if wrong:
            raise ConfigError(
                f"{len(wrong)} parameters are {'not ' if self._sharded else ''}sharded, "
                f"{wrong[0]} among them, against training.sharding; nothing was trained"
            )
