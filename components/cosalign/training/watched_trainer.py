"""What watches over a trainer's steps: finite, measured, held against the development split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cosalign.training.checkpoint_weights import ShardedAdapters
from cosalign.training.dev_split import DevSplit
from cosalign.training.finite_steps import FiniteSteps
from cosalign.training.step_figures import StepFigures, step_figures
from cosalign.training.trainers import NamedRows

if TYPE_CHECKING:
    from pathlib import Path

    from cosalign.domain.run_config import TrainerSettings, TrainingGroup
    from cosalign.training.encode import Rows


class WatchedTrainer(DevSplit, FiniteSteps, ShardedAdapters, NamedRows):
    """Mixin before a TRL trainer; call ``attach`` and :meth:`watch` once it is made."""

    figures: StepFigures

    def watch(
        self, group: TrainingGroup, settings: TrainerSettings, model: Path, dev: Rows | None
    ) -> None:
        """Says by what the steps are judged.

        Args:
            group: The run's training settings.
            settings: Those of the stage.
            model: Folder of the model that the trainer starts from.
            dev: Rows of the development split; ``None`` where none is measured.
        """
        trainer: Any = self
        self.max_skipped = settings.max_skipped_batches
        self.dev_rows = [] if dev is None else dev.table.to_pylist()
        self.figures = step_figures(model, trainer.model, group.precision == "bf16")

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The trainer's loss, of a micro batch that is counted."""
        self.figures.add(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """The trainer's log, with what the step took."""
        if "loss" in logs:
            state = self.state  # type: ignore[attr-defined]
            logs.update(self.figures.of_step(state.global_step, state.max_steps))
        super().log(logs, *args, **kwargs)
