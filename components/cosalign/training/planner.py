"""What a training will take: memory a GPU, steps, FLOPs, hours, price; refused where it cannot fit.

Full fine-tuning as this project does it: fp32 weights, gradients and optimizer state, sharded over
all GPUs (FSDP2, or ZeRO stage 3: Rajbhandari et al., arXiv 1910.02054, section 5), bf16 computation
with each block recomputed in the backward pass. Hours follow from model FLOPs at a stated model
FLOPs utilisation (MFU): recomputation is not counted as work, as Chowdhery et al. define it.

What it does not know: the allocator's fragmentation, and traffic between nodes. The overhead below
stands for the first; plans are for one node.
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

    # A backward pass is two forward passes' work.
    sft_steps, dpo_steps = (_steps(group.sft, lengths.sft_rows), _steps(group.dpo, lengths.pairs))
    return [
        stage("sft", sft_steps * group.sft.batch_size, 1, 3, sft_steps),
        stage("reference", lengths.pairs, 2, 1, 0),
        stage("dpo", dpo_steps * group.dpo.batch_size, 2, 3, dpo_steps),
    ]


def _steps(settings: TrainerSettings, rows: int) -> int:
    wanted = ceil(settings.epochs * rows / settings.batch_size)
    return min(wanted, settings.max_steps or wanted)


def stage_memory(
    shape: ModelShape, optimizer: str, gpus: int, tokens: float, scored: float
) -> Memory:
    """Memory of one GPU.

    Args:
        shape: The model.
        optimizer: As the run config names it.
        gpus: GPUs that weights, gradients and optimizer state are sharded over.
        tokens: Tokens of a micro batch.
        scored: Those that reach the output layer.
    """
    copies = 2 + _OPTIMIZER_STATES[optimizer]
    # Two blocks at a time (one computed, the next fetched), and the embedding, which stays.
    gathered = _BF16 * (2 * shape.block_parameters + shape.embedding_parameters)
    inputs = _BF16 * shape.layers * shape.hidden * tokens
    block = _BF16 * shape.activations_a_token * tokens
    mask = tokens**2
    # The kernel accumulates the output layer's gradient in fp32, whole, and scores in tiles.
    head = _FP32 * shape.vocabulary * shape.hidden
    tile = _BF16 * min(scored, _TILE_TOKENS) * _TILE_VOCABULARY
    return Memory(
        states=copies * _FP32 * shape.parameters / gpus / GIB,
        gathered=gathered / GIB,
        activations=(inputs + block + mask) / GIB,
        output_layer=(head + tile) / GIB,
        overhead=OVERHEAD_GIB,
    )


def _worst_memory(
    shape: ModelShape, group: TrainingGroup, lengths: DataLengths, machine: Hardware
) -> Memory:
    """By the longest rows that are allowed, not by the mean ones."""
    share = lengths.answer_tokens / (lengths.context_tokens + lengths.answer_tokens)

    def of(settings: TrainerSettings, answers: int) -> Memory:
        longest = settings.max_length * (1 + (answers - 1) * share)
        tokens = settings.micro_batch_size * longest
        scored = settings.micro_batch_size * settings.max_length * share * answers
        return stage_memory(shape, group.optimizer, machine.gpus, tokens, scored)

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
