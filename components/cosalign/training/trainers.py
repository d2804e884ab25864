"""What SFT and DPO share: settings for TRL, rows with names, progress, checkpoints.

TRL's trainers are used as they are, with additions by mixin. Batches carry row numbers. The loss of
a step is a sum over all ranks and micro batches by what it is a mean of (answer tokens, pairs), so
that how rows are spread over them changes nothing. What watches over the steps is added in
:mod:`cosalign.training.watched_trainer`.

Heavy: import this module only once training is certain.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError

from cosalign.domain.errors import StorageError
from cosalign.training.cpu_sharding import cpu_sharding_admitted
from cosalign.training.finite_steps import RowObserver
from cosalign.training.ranks import this_process
from cosalign.training.row_order import RealRowsFirst, filled_up
from cosalign.training.world import sharding_arguments

if TYPE_CHECKING:
    from cosalign.domain.run_config import TrainerSettings, TrainingGroup
    from cosalign.training.encode import Rows

_FULL_BYTES = 1 << 20
_SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}
_OPTIMIZERS = {"rmsprop": "rmsprop", "adamw_torch": "adamw_torch_fused"}
"""The fused form is the same arithmetic in one pass over the weights; torch has it on CPUs too."""


class NamedRows:
    """Mixin before a TRL trainer: rows with names, in an order that fits any number of ranks."""

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
        trainer: Any = self
        rows, seed = len(trainer.train_dataset), trainer.args.data_seed
        return RealRowsFirst(self.real_rows, rows, seed, lambda: int(trainer.state.epoch))

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The trainer's, which resumed at the last step, within an epoch, takes one step more."""
        state = self.state  # type: ignore[attr-defined]
        if state.global_step < state.max_steps:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def create_accelerator_and_postprocess(self) -> None:
        """The trainer's, with FSDP to choose from on a CPU too."""
        sharded = self.args.fsdp_plugin_args is not None  # type: ignore[attr-defined]
        with cpu_sharding_admitted() if sharded else nullcontext():
            super().create_accelerator_and_postprocess()  # type: ignore[misc]

    def _send_telemetry(self) -> None:
        """None: TRL would tell its makers of every trainer that is made."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """None: a checkpoint is no publication."""


def common_arguments(
    group: TrainingGroup, settings: TrainerSettings, folder: Path, measured: bool = False
) -> dict[str, Any]:
    """The arguments that SFTConfig and DPOConfig share.

    ``max_length`` is none: rows that are too long were set aside, so nothing may be cut. Old
    checkpoints are dropped by :mod:`cosalign.training.checkpoints`, which knows what is whole.

    Args:
        group: The run's training settings.
        settings: Those of the stage.
        folder: Where checkpoints are written.
        measured: Whether there is a development split to measure on.
    """
    ranks = this_process()
    recompute = bool(group.activation_checkpointing)
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
        "save_total_limit": None,
        "eval_strategy": "steps" if measured else "no",
        "eval_steps": settings.eval_steps if measured else None,
        "metric_for_best_model": "loss" if measured else None,
        "greater_is_better": False if measured else None,
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


def load_processing_class(folder: Path) -> Any:
    """The tokenizer object that TRL wants; it only lends its padding token."""
    return transformers.AutoTokenizer.from_pretrained(
        str(folder), trust_remote_code=False, local_files_only=True
    )


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
