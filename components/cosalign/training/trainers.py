"""What SFT and DPO share: settings for TRL, rows with names, progress, checkpoints.

TRL's trainers are used as they are, with four additions. Batches carry row numbers, so that a
non-finite loss stops the run and names the rows before the optimizer or a checkpoint sees it.
Checkpoints go to storage. Progress is log lines. And the world is asserted: launchers that should
have started several processes have been seen to start one, or several unconnected ones, with exit
code 0.

Heavy: import this module only once training is certain.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError

from cosalign.domain.errors import ConfigError, StorageError, UserError
from cosalign.training.checkpoints import KEPT, CheckpointStore
from cosalign.training.stage_callback import StageCallback

if TYPE_CHECKING:
    from cosalign.domain.run_config import TrainerSettings, TrainingGroup

RowObserver = Callable[[list[int]], None]
"""Called with the row numbers of every micro batch; tests compare orders with it."""

_FULL_BYTES = 1 << 20
_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}
_OPTIMIZERS = {"rmsprop": "rmsprop", "adamw_torch": "adamw_torch_fused"}
"""The fused form is the same arithmetic in one pass over the weights; torch has it on CPUs too."""


class NamedRows:
    """Mixin before a TRL trainer: finite losses only, and no model cards in checkpoints."""

    stage = ""
    names: Sequence[str] = ()
    observer: RowObserver | None = None

    def attach(self, stage: str, names: Sequence[str], observer: RowObserver | None) -> None:
        """Says what the rows are; call it once the trainer is made."""
        self.stage, self.names, self.observer = stage, names, observer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """The trainer's loss; a non-finite one raises :class:`UserError`."""
        rows: list[int] = inputs["rows"].tolist()
        if self.observer is not None:
            self.observer(rows)
        loss: torch.Tensor = super().compute_loss(  # type: ignore[misc]
            model, inputs, *args, **kwargs
        )
        if not torch.isfinite(loss):
            raise UserError(
                f"the {self.stage} loss is not finite in rows "
                f"{', '.join(self.names[row] for row in rows)} (prompt/config); nothing of this "
                f"step was kept. Lower training.{self.stage}.learning_rate, or look at these rows"
            )
        return loss

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: a checkpoint is no publication."""


def common_arguments(
    group: TrainingGroup, settings: TrainerSettings, folder: Path
) -> dict[str, Any]:
    """The arguments that SFTConfig and DPOConfig share.

    ``max_length`` is none: rows that are too long were set aside, so nothing may be cut.
    """
    return {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // settings.micro_batch_size,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": _SCHEDULES[settings.schedule],
        "warmup_steps": settings.warmup_steps,
        "optim": _OPTIMIZERS[group.optimizer],
        "weight_decay": 0.0,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": group.precision == "bf16",
        "fp16": False,
        # transformers refuses bf16 without a GPU unless the CPU is asked for by name.
        "use_cpu": not torch.cuda.is_available(),
        # Recomputing activations buys memory, which a GPU lacks and a CPU machine does not.
        "gradient_checkpointing": torch.cuda.is_available(),
        "max_length": None,
        "pad_to_multiple_of": None,
        "seed": group.seed,
        "data_seed": group.seed,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": KEPT,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No bars and no chatter of datasets, transformers and TRL; our own lines say it."""
    import datasets

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        os.environ.pop("TQDM_DISABLE")
        if before is not None:
            os.environ["TQDM_DISABLE"] = before


def require_single_process(accelerator: Any) -> None:
    """Refuses any hint of a distributed start; this version trains in one process.

    Raises:
        ConfigError: A launcher's environment, or accelerate itself, speaks of more than one.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    sharded = [n for n in os.environ if n in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")]
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    if launched != 1 or sharded or accelerator.num_processes != 1 or kind != "NO":
        raise ConfigError(
            f"training runs in one process, and this start speaks of more (WORLD_SIZE={launched}, "
            f"processes {accelerator.num_processes}, type {kind}, {', '.join(sharded) or 'no'} "
            "sharding variables); start it with plain python"
        )


def load_weights(folder: Path) -> Any:
    """The model with fp32 weights: steps of 5e-7 vanish in bf16 ones."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=torch.float32,
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
    )


def load_processing_class(folder: Path) -> Any:
    """The tokenizer object that TRL wants; it only lends its padding token."""
    return transformers.AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=False, local_files_only=True
    )


def train(trainer: Any, stage: str, checkpoints: CheckpointStore) -> None:
    """Runs a trainer from the newest whole checkpoint to the end."""
    require_single_process(trainer.accelerator)
    trainer.remove_callback(transformers.PrinterCallback)
    newest = checkpoints.newest()
    if newest is not None and _restored_finished(trainer, newest):
        return
    with ExitStack() as stack:
        trainer.add_callback(StageCallback(stage, checkpoints, stack))
        stack.enter_context(full_disk_named(checkpoints.folder))
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)


def _restored_finished(trainer: Any, checkpoint: Path) -> bool:
    """Whether a checkpoint is that of the last step; if so, its model and state are taken.

    transformers 5.19, resumed there in the middle of an epoch, trains one step too many.
    """
    state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps:
        return False
    trainer.state, trainer.model = state, load_weights(checkpoint)
    return True


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Torch and safetensors report a full disk as errors of their own; so ask the disk."""
    try:
        yield
    except (RuntimeError, SafetensorError) as problem:
        if shutil.disk_usage(folder).free < _FULL_BYTES:
            raise StorageError(
                f"{folder}: the disk is full, the weights did not fit; free space and run again, "
                "the last whole checkpoint is kept"
            ) from problem
        raise


def free_memory() -> None:
    """Gives back what dropped trainers held; they are full of reference cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def curve_of(trainer: Any) -> list[dict[str, float]]:
    """One entry a step, whatever process trained it: loss, rate, gradient norm, and so on.

    Times are left out, so that equal training gives equal files.
    """
    wanted = (
        "step", "epoch", "loss", "learning_rate", "grad_norm", "mean_token_accuracy",
        "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    )  # fmt: skip
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [{name: float(e[name]) for name in wanted if name in e} for e in logged]
