"""Supervised fine-tuning on the best response of each (config, prompt), by TRL's SFTTrainer.

Rows come as ``input_ids`` and ``labels``; TRL 1.16 then neither tokenises nor masks nor cuts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trl
from datasets import Dataset

from cosalign.training.trainers import (
    NamedRows,
    RowObserver,
    common_arguments,
    load_processing_class,
    load_weights,
)

if TYPE_CHECKING:
    from pathlib import Path

    from cosalign.domain.run_config import TrainingGroup
    from cosalign.training.encode import Rows


class SftTrainer(NamedRows, trl.SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with named rows."""


def sft_trainer(
    model: Path, rows: Rows, group: TrainingGroup, folder: Path, observer: RowObserver | None
) -> Any:
    """A trainer that is ready to train.

    Args:
        model: Folder of the model to start from.
        rows: Encoded by :func:`cosalign.training.encode.encode_sft`.
        group: The run's training settings.
        folder: Where checkpoints are written.
        observer: Told the rows of every micro batch.
    """
    arguments = trl.SFTConfig(**common_arguments(group, group.sft, folder))
    trainer = SftTrainer(
        model=load_weights(model),
        args=arguments,
        train_dataset=Dataset(rows.table),
        processing_class=load_processing_class(model),
    )
    trainer.attach("sft", rows.names, observer)
    return trainer
