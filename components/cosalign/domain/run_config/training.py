"""Settings of the training stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config.safeguards import WITHOUT_EFFECT, SafeguardSettings
from cosalign.domain.run_config.train_job import Backend, TrainJobSettings
from cosalign.domain.training_recipe import with_recipe
from cosalign.domain.validation import StrictModel


class TrainerSettings(SafeguardSettings):
    """One training stage; see :class:`SafeguardSettings` for what keeps it safe.

    Attributes:
        epochs: Passes over the records.
        max_steps: Optimizer steps at most; no limit where null.
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up.
        schedule: The rate after it: ``constant``, or ``cosine`` down to nothing at the last step.
        batch_size: Rows an optimizer step, over all processes.
        micro_batch_size: Rows a forward pass.
        max_length: Tokens a row; longer rows are set aside and counted, never cut in silence.
        max_grad_norm: Gradients are clipped to this norm.
    """

    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=5e-7, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    batch_size: int = Field(default=8, ge=1)
    micro_batch_size: int = Field(default=2, ge=1)
    max_length: int = Field(default=640, ge=16)
    max_grad_norm: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that change what is learnt, as plain JSON."""
        return self.model_dump(mode="json", exclude={*WITHOUT_EFFECT, "micro_batch_size"})


class DpoSettings(TrainerSettings):
    """The DPO stage.

    Attributes:
        beta: Scale of the implicit reward.
        label_smoothing: Share of the pairs taken to be the wrong way round (conservative DPO); for
            judges whose mistakes are known.
        sft_weight: Weight of an SFT term on the chosen answer (arXiv 2404.19733), which keeps its
            probability from falling with the rejected one's.
    """

    beta: float = Field(default=0.1, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    sft_weight: float = Field(default=0.0, ge=0)


class LoraSettings(StrictModel):
    """Low-rank adapters on all linear layers of the blocks, merged into the weights at the end.

    Attributes:
        rank: Width of an adapter.
        alpha: Its output is scaled by ``alpha / rank``.
    """

    rank: int = Field(default=32, ge=1)
    alpha: int = Field(default=16, ge=1)


SftTarget = Literal["lowest_error", "last"]
Sharding = Literal["full", "none"]

HOW_NOT_WHAT = frozenset(
    {
        "recipe",
        "layout",
        "processes",
        "sharding",
        "activation_checkpointing",
        "compile",
        "grace_seconds",
        "save_mib_per_second",
        "backend",
        "train_job",
    }
)
"""Settings of the group that decide how a model is computed, and not which."""


class TrainingGroup(StrictModel):
    """SFT, then DPO from the SFT model, which is also the reference.

    Attributes:
        recipe: A shipped recipe whose settings hold where none is given here (``cosalign recipes
            list``).
        layout: The machine, as one of the recipe's layouts: ``cpu``, ``1-gpu``, ``4-gpu``,
            ``8-gpu``.
        optimizer: As transformers names it.
        precision: ``bf16`` is mixed precision over fp32 weights; bf16 weights would lose steps of
            5e-7 to rounding.
        sft: Settings of supervised fine-tuning.
        dpo: Settings of DPO.
        sft_target: Which chosen response of a (prompt, config) SFT learns: the one of
            ``lowest_error``, or the ``last`` in the order of pairs, as the paper's code does, which
            throws away what the error score knows.
        seed: Seed of the data order.
        lora: Trains adapters and not all weights, for small budgets; null trains all.
        processes: Processes that train together; one for each visible GPU where null, one without.
        sharding: With several processes, ``full`` shards weights, gradients and optimizer (FSDP2);
            ``none`` keeps all of them in every process (DDP).
        activation_checkpointing: Recomputes each block in the backward pass, for memory; where null
            it is done on GPUs whose memory asks for it.
        compile: Compiles the model with ``torch.compile``.
        grace_seconds: Time between SIGTERM and SIGKILL, as the cluster grants it
            (``terminationGracePeriodSeconds``). A checkpoint is made in it where it fits.
        save_mib_per_second: How fast a checkpoint is taken to be stored, until one was timed.
        backend: Where the processes run: in the step's own ``pod``, or in a Kubeflow Trainer
            ``train_job``, for several nodes or a queue.
        train_job: What such a job is like.
    """

    recipe: str | None = None
    layout: str | None = None
    optimizer: Literal["rmsprop", "adamw_torch"] = "rmsprop"
    precision: Literal["bf16", "fp32"] = "bf16"
    sft: TrainerSettings = TrainerSettings()
    dpo: DpoSettings = DpoSettings()
    sft_target: SftTarget = "lowest_error"
    seed: int = 0
    lora: LoraSettings | None = None
    processes: int | None = Field(default=None, ge=1)
    sharding: Sharding = "full"
    activation_checkpointing: bool | None = None
    compile: bool = False
    grace_seconds: float = Field(default=30.0, ge=0)
    save_mib_per_second: float = Field(default=64.0, gt=0)
    backend: Backend = "pod"
    train_job: TrainJobSettings = TrainJobSettings()

    @model_validator(mode="before")
    @classmethod
    def _over_its_recipe(cls, given: Any) -> Any:
        try:
            return with_recipe(given) if isinstance(given, Mapping) else given
        except ConfigError as problem:
            raise ValueError(str(problem)) from None

    @model_validator(mode="after")
    def _is_shared_out(self) -> Self:
        in_job = self.backend == "train_job"
        if in_job and self.processes is not None:
            raise ValueError(
                "processes is of the backend pod; a TrainJob has train_job.nodes, each with "
                "train_job.processes_per_node"
            )
        processes = self.train_job.processes if in_job else self.processes
        for name, stage in (("sft", self.sft), ("dpo", self.dpo)):
            share = stage.micro_batch_size * (processes or 1)
            if stage.batch_size % share:
                raise ValueError(
                    f"{name}.batch_size {stage.batch_size} is no multiple of {share}, "
                    f"micro_batch_size {stage.micro_batch_size} in {processes} processes"
                )
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that change what is learnt, as plain JSON."""
        stages = {"sft": self.sft.identity(), "dpo": self.dpo.identity()}
        # Left out where there are none, so that full fine-tuning keeps its identity.
        left_out = {"sft", "dpo", *HOW_NOT_WHAT, *(() if self.lora else ("lora",))}
        return {**self.model_dump(mode="json", exclude=left_out), **stages}
