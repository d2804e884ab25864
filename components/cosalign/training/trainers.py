"""What SFT and DPO share: settings for TRL, rows with names, progress, checkpoints.

TRL's trainers are used as they are, with four additions. Batches carry row numbers, so that a
non-finite loss stops the run and names the rows before the optimizer or a checkpoint sees it.
Checkpoints go to storage. Progress is log lines. And a step's loss is a sum over all ranks and
micro batches by what it is a mean of (answer tokens, pairs), so that how rows are spread over them
changes nothing.

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

from cosalign.domain.errors import StorageError, UserError
from cosalign.training.checkpoints import KEPT, CheckpointStore
from cosalign.training.cpu_sharding import cpu_sharding_admitted
from cosalign.training.ranks import this_process
from cosalign.training.row_order import FILLER, RealRowsFirst, filled_up
from cosalign.training.stage_callback import StageCallback
from cosalign.training.whole_model import checkpoint_model, gathered_model
from cosalign.training.world import ShardingProof, require_world, sharding_arguments, shards

if TYPE_CHECKING:
    from cosalign.domain.run_config import TrainerSettings, TrainingGroup
    from cosalign.training.encode import Rows
    from cosalign.training.stage import Stage

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
    real_rows = 0
    counted: Callable[[dict[str, Any]], torch.Tensor]
    """What a micro batch's loss is a mean of, as weights of 0 or 1; the trainer's method."""

    # The losses divide by what ``_get_num_items_in_batch`` counts, over the whole step.
    loss_is_scaled_for_ga = True

    def attach(self, stage: str, rows: Rows, observer: RowObserver | None) -> None:
        """Says what the rows are; call it once the trainer is made."""
        self.stage, self.names, self.observer = stage, rows.names, observer
        self.real_rows = rows.table.num_rows

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: Any) -> Any:
        count = torch.stack([self.counted(each).sum() for each in batch_samples]).sum()
        return self.accelerator.gather(count.to(device)).sum()  # type: ignore[attr-defined]

    def _get_train_sampler(self, train_dataset: Any = None) -> RealRowsFirst:  # noqa: ARG002
        rows = len(self.train_dataset)  # type: ignore[attr-defined]
        return RealRowsFirst(self.real_rows, rows, self.args.data_seed)  # type: ignore[attr-defined]

    def create_accelerator_and_postprocess(self) -> None:
        """The trainer's, with FSDP to choose from on a CPU too."""
        with cpu_sharding_admitted():
            super().create_accelerator_and_postprocess()  # type: ignore[misc]

    def _send_telemetry(self) -> None:
        """None: TRL would tell its makers of every trainer that is made."""

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
            named = ", ".join(self.names[row] for row in rows if row != FILLER)
            raise UserError(
                f"the {self.stage} loss is not finite in rows {named} (prompt/config); nothing of "
                f"this step was kept. Lower training.{self.stage}.learning_rate, or look at them"
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
    ranks = this_process()
    recompute = recomputes(group)
    return {
        **sharding_arguments(group, ranks, recompute),
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size
        // (settings.micro_batch_size * ranks.world),
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
        "torch_compile": group.compile,
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


def filled_dataset(rows: Rows, settings: TrainerSettings) -> Any:
    """The rows as TRL takes them, filled up so that ranks take equally many micro batches."""
    from datasets import Dataset

    return Dataset(filled_up(rows.table, settings.micro_batch_size * this_process().world))


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


def recomputes(group: TrainingGroup) -> bool:
    """Whether activations are recomputed: as asked, else where there is a GPU, to save memory."""
    asked = group.activation_checkpointing
    return torch.cuda.is_available() if asked is None else asked


def load_processing_class(folder: Path) -> Any:
    """The tokenizer object that TRL wants; it only lends its padding token."""
    return transformers.AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=False, local_files_only=True
    )


def train(trainer: Any, stage: Stage, checkpoints: CheckpointStore) -> Any:
    """Runs a trainer from the newest whole checkpoint to the end.

    Returns:
        The trained model, plain and whole, on the first rank; ``None`` on the others.
    """
    ranks = this_process()
    require_world(trainer.accelerator, stage.group, ranks.world)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(ShardingProof(shards(stage.group, ranks)))
    newest = ranks.agreed(checkpoints.newest() if ranks.first else None)
    if newest is not None and _restored_finished(trainer, newest):
        return checkpoint_model(newest, stage.start.path, stage.group) if ranks.first else None
    with ExitStack() as stack:
        trainer.add_callback(StageCallback(stage.name, checkpoints, stack))
        stack.enter_context(full_disk_named(checkpoints.folder))
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    return gathered_model(trainer, stage.start.path, stage.group)


def _restored_finished(trainer: Any, checkpoint: Path) -> bool:
    """Whether a checkpoint is that of the last step; if so, its state is taken.

    transformers 5.19, resumed there in the middle of an epoch, trains one step too many.
    """
    state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps:
        return False
    trainer.state = state
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
