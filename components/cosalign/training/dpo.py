"""Direct preference optimisation from the SFT model, which is also the reference, by TRL.

TRL 1.16's DPOTrainer tokenises whatever it is given, by the chat template. The one method that does
so is overridden: rows come with ids, so that training sees the ids of inference. The method is
private, and TRL is pinned for that; a test compares the batch with the rows.

The reference's log-probabilities are computed before the first step, from the model as it was
loaded (a checkpoint is read later), so a resumed run has the same reference. That pass costs a
third of a training pass, so where ``max_steps`` ends before every row is seen, a seeded choice of
rows is taken, and no reference is computed for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import trl
from datasets import Dataset

from cosalign.runtime.logs import get_logger
from cosalign.runtime.progress import Progress
from cosalign.training.trainers import (
    NamedRows,
    RowObserver,
    common_arguments,
    load_processing_class,
    load_weights,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from cosalign.domain.run_config import TrainingGroup
    from cosalign.training.encode import Rows

log = get_logger(__name__)


class DpoTrainer(NamedRows, trl.DPOTrainer):  # type: ignore[misc]
    """TRL's trainer with named rows, for rows that are already ids."""

    reference: Progress

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        with Progress(log, "reference_dpo", dataset.num_rows) as self.reference:
            return super()._precompute_ref_logps(dataset, name, batch_size)

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """TRL's reference pass over one batch, counted."""
        chosen, rejected = super().compute_ref_log_probs(model, inputs)
        self.reference.advance(len(chosen))
        return chosen, rejected


def dpo_trainer(
    model: Path, rows: Rows, group: TrainingGroup, folder: Path, observer: RowObserver | None
) -> Any:
    """A trainer that is ready to train; the reference pass has been made.

    Args:
        model: Folder of the SFT model.
        rows: Encoded by :func:`cosalign.training.encode.encode_dpo`.
        group: The run's training settings.
        folder: Where checkpoints are written.
        observer: Told the rows of every micro batch.
    """
    arguments = trl.DPOConfig(
        **common_arguments(group, group.dpo, folder),
        beta=group.dpo.beta,
        loss_type=["sigmoid"],
        precompute_ref_log_probs=True,
        disable_dropout=True,
    )
    trainer = DpoTrainer(
        model=load_weights(model),
        args=arguments,
        train_dataset=Dataset(_reached(rows.table, group)),
        processing_class=load_processing_class(model),
    )
    trainer.attach("dpo", rows.names, observer)
    return trainer


def _reached(table: pa.Table, group: TrainingGroup) -> pa.Table:
    """As many rows, at random, as the steps take; all where there is no limit or it is beyond."""
    wanted = (group.dpo.max_steps or table.num_rows) * group.dpo.batch_size
    if wanted >= table.num_rows:
        return table
    order = np.random.default_rng(group.seed).permutation(table.num_rows)
    return table.take(np.sort(order[:wanted]))
