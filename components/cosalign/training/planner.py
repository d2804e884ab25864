"""What a training will take: memory a GPU, steps, FLOPs, hours, price; refused where it cannot fit.

Fine-tuning as this project does it: fp32 weights, gradients and optimizer state, of all weights or
of adapters over frozen ones; sharded over all GPUs (FSDP2, or ZeRO stage 3: Rajbhandari et al.,
arXiv 1910.02054, section 5) or whole on each; each block recomputed in the backward pass unless
that is switched off. Hours follow from model FLOPs at a stated model FLOPs utilisation (MFU):
recomputation is not counted as work, as Chowdhery et al. define it.

What it does not know: the allocator's fragmentation, and traffic between nodes. The overhead below
stands for the first; plans are for one node. Activations are counted as one process or a replica
keeps them; shards keep the norms' inputs in bf16, and so less.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import resources
from math import ceil
from typing import TYPE_CHECKING

import yaml

from cosalign.domain.errors import ConfigError, nearest

if TYPE_CHECKING:
    from cosalign.domain.run_config import TrainerSettings, TrainingGroup
    from cosalign.training.model_shape import ModelShape

GIB = 1024**3
_FP32, _BF16 = 4, 2
_OPTIMIZER_STATES = {"rmsprop": 1, "adamw_torch": 2}
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32768
OVERHEAD_GIB = 3.0
"""CUDA context, communication buffers, fragmentation: a margin by experience, not a measurement."""


@dataclass(frozen=True)
class Hardware:
    """Some GPUs of one kind in one node.

    Attributes:
        name: As ``hardware.yaml`` names the kind.
        gpus: How many.
        bf16_tflops: Peak of one, dense, in TFLOP/s.
        memory_gib: Memory of one.
    """

    name: str
    gpus: int
    bf16_tflops: float
    memory_gib: float


@dataclass(frozen=True)
class DataLengths:
    """The rows of a training, by count and by mean tokens."""

    sft_rows: int
    pairs: int
    context_tokens: float
    answer_tokens: float


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        name: reference, sft or dpo.
        steps: Optimizer steps; 0 for the reference pass.
        tokens: Tokens computed on, over all epochs.
        flops: Model FLOPs.
        hours: Time at the stated MFU.
    """

    name: str
    steps: int
    tokens: float
    flops: float
    hours: float


@dataclass(frozen=True)
class Memory:
    """Memory of one GPU, in GiB, at the stage that takes most."""

    states: float
    gathered: float
    activations: float
    output_layer: float
    overhead: float

    @property
    def total(self) -> float:
        """All of it."""
        values: dict[str, float] = asdict(self)
        return sum(values.values())


@dataclass(frozen=True)
class TrainingPlan:
    """A whole plan; ``price`` is null where no price was given."""

    parameters: int
    memory: Memory
    stages: tuple[StagePlan, ...]
    hours: float
    gpu_hours: float
    price: float | None


def hardware(name: str, gpus: int) -> Hardware:
    """GPUs by name.

    Raises:
        ConfigError: No such kind is known.
    """
    source = resources.files("cosalign.training") / "hardware.yaml"
    known: dict[str, dict[str, float]] = yaml.safe_load(source.read_text("utf-8"))
    if name not in known:
        raise ConfigError(f"no GPU {name!r} is known{nearest(name, known)}")
    return Hardware(name, gpus, **known[name])


def checkpoint_bytes(parameters: int, optimizer: str) -> float:
    """Size of a checkpoint: fp32 weights and optimizer states; all else is small beside them.

    Args:
        parameters: The trained weights.
        optimizer: As the run config names it.
    """
    return _FP32 * parameters * (1.0 + _OPTIMIZER_STATES[optimizer])


def plan_training(
    shape: ModelShape,
    group: TrainingGroup,
    lengths: DataLengths,
    machine: Hardware,
    mfu: float,
    price_a_gpu_hour: float | None = None,
) -> TrainingPlan:
    """Plans SFT, the reference pass and DPO.

    Args:
        shape: The model.
        group: The run's training settings.
        lengths: Its data.
        machine: What it runs on.
        mfu: Share of the peak that model FLOPs reach, 0 to 1.
        price_a_gpu_hour: In any currency.

    Raises:
        ConfigError: It does not fit; the message names the setting to change.
    """
    memory = _worst_memory(shape, group, lengths, machine)
    _require_fit(shape, group, machine, memory)
    stages = tuple(_stages(shape, group, lengths, machine, mfu))
    hours = sum(stage.hours for stage in stages)
    gpu_hours = hours * machine.gpus
    price = None if price_a_gpu_hour is None else gpu_hours * price_a_gpu_hour
    return TrainingPlan(shape.parameters, memory, stages, hours, gpu_hours, price)


def _stages(
    shape: ModelShape, group: TrainingGroup, lengths: DataLengths, machine: Hardware, mfu: float
) -> list[StagePlan]:
    context, answer = lengths.context_tokens, lengths.answer_tokens
    speed = machine.gpus * machine.bf16_tflops * 1e12 * mfu

    def stage(name: str, rows: float, answers: int, passes: int, steps: int) -> StagePlan:
        tokens = rows * (context + answers * answer)
        forward = shape.forward_flops(tokens, rows * answers * answer, context + answer)
        return StagePlan(name, steps, tokens, passes * forward, passes * forward / speed / 3600)

    # A backward pass is two forward passes' work; frozen weights need no gradients of their own.
    passes = 2 if group.lora else 3
    sft_steps, dpo_steps = (_steps(group.sft, lengths.sft_rows), _steps(group.dpo, lengths.pairs))
    return [
        stage("sft", sft_steps * group.sft.batch_size, 1, passes, sft_steps),
        stage("reference", lengths.pairs, 2, 1, 0),
        stage("dpo", dpo_steps * group.dpo.batch_size, 2, passes, dpo_steps),
    ]


def _steps(settings: TrainerSettings, rows: int) -> int:
    wanted = ceil(settings.epochs * rows / settings.batch_size)
    return min(wanted, settings.max_steps or wanted)


def stage_memory(
    shape: ModelShape,
    group: TrainingGroup,
    processes: int,
    tokens: float,
    scored: float,
    recomputed: bool = True,
) -> Memory:
    """Memory of one GPU.

    Args:
        shape: The model.
        group: The run's training settings.
        processes: GPUs that train together.
        tokens: Tokens of a micro batch.
        scored: Those that reach the output layer.
        recomputed: Whether each block is recomputed in the backward pass.
    """
    value = _BF16 if group.precision == "bf16" else _FP32
    block = shape.activation_bytes(group.precision == "bf16") * tokens
    # Attention makes numbers of its mask, in each block.
    mask = value * tokens**2
    kept = shape.layers * (block + mask)
    if recomputed:
        kept = shape.layers * _FP32 * shape.hidden * tokens + block + mask
    # The kernel accumulates the output layer's gradient in fp32, whole, and scores in tiles.
    head = 0 if group.lora else _FP32 * shape.vocabulary * shape.hidden
    tile = value * min(scored, _TILE_TOKENS) * _TILE_VOCABULARY
    return Memory(
        states=_state_bytes(shape, group, processes) / GIB,
        gathered=_working_weights(shape, group, processes, recomputed) / GIB,
        activations=(kept + tokens**2) / GIB,
        output_layer=(head + tile) / GIB,
        overhead=OVERHEAD_GIB,
    )


def _state_bytes(shape: ModelShape, group: TrainingGroup, processes: int) -> float:
    """Weights, and of the trained ones gradients and optimizer states, on one GPU."""
    trained, frozen = shape.parameters, 0
    if group.lora:
        trained, frozen = shape.adapter_parameters(group.lora.rank), shape.parameters
    states = _FP32 * (frozen + (2 + _OPTIMIZER_STATES[group.optimizer]) * trained)
    if processes > 1 and group.sharding == "none":
        # Replicas have a second copy of the gradients, in the buckets that they exchange.
        return states + _FP32 * trained
    return states / processes


def _working_weights(
    shape: ModelShape, group: TrainingGroup, processes: int, recomputed: bool
) -> float:
    """Bytes of weights in the form that is computed with, beside those that are kept."""
    value = _BF16 if group.precision == "bf16" else _FP32
    # Two blocks at a time (one computed, the next fetched), and the embedding, which stays.
    two_blocks = value * 2 * shape.block_parameters
    if processes > 1 and group.sharding == "full":
        return two_blocks + value * shape.embedding_parameters
    if value == _FP32:
        return 0.0
    # Autocast keeps the copies of trained weights until the loss, the backward pass those of all.
    if group.lora and recomputed:
        return two_blocks
    return value * shape.layers * shape.block_parameters


def _worst_memory(
    shape: ModelShape, group: TrainingGroup, lengths: DataLengths, machine: Hardware
) -> Memory:
    """By the longest rows that are allowed, not by the mean ones."""
    share = lengths.answer_tokens / (lengths.context_tokens + lengths.answer_tokens)
    recomputed = group.activation_checkpointing is not False

    def of(settings: TrainerSettings, answers: int) -> Memory:
        longest = settings.max_length * (1 + (answers - 1) * share)
        tokens = settings.micro_batch_size * longest
        scored = settings.micro_batch_size * settings.max_length * share * answers
        return stage_memory(shape, group, machine.gpus, tokens, scored, recomputed)

    return max(of(group.sft, 1), of(group.dpo, 2), key=lambda memory: memory.total)


def _require_fit(
    shape: ModelShape,
    group: TrainingGroup,
    machine: Hardware,
    memory: Memory,
) -> None:
    if memory.total <= machine.memory_gib:
        return
    if memory.states + memory.gathered + memory.output_layer + memory.overhead > machine.memory_gib:
        advice = f"take more than {machine.gpus} GPUs, or larger ones"
        if machine.gpus > 1 and group.sharding == "none":
            advice = "set training.sharding to full, or take larger GPUs"
    else:
        advice = "lower training.dpo.micro_batch_size and training.sft.micro_batch_size"
        if max(group.sft.micro_batch_size, group.dpo.micro_batch_size) == 1:
            advice = "lower training.dpo.max_length and training.sft.max_length"
    parts = ", ".join(f"{name} {value:.1f}" for name, value in asdict(memory).items())
    raise ConfigError(
        f"{shape.parameters / 1e9:.2f} billion weights do not fit: a GPU would need "
        f"{memory.total:.1f} GiB ({parts}) and {machine.name} has {machine.memory_gib:.0f}; "
        f"{advice}"
    )
