"""What happens around a stage's steps: log lines for people, checkpoints for the next process."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from cosalign.domain.errors import UserError
from cosalign.runtime.logs import get_logger
from cosalign.runtime.progress import INTERVAL_SECONDS, Progress
from cosalign.training.checkpoints import CheckpointStore
from cosalign.training.ranks import this_process

log = get_logger(__name__)


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """Log lines for people, checkpoints for the next process."""

    def __init__(self, stage: str, checkpoints: CheckpointStore, open_until: ExitStack) -> None:
        self._stage = stage
        self._checkpoints = checkpoints
        self._open_until = open_until
        self._progress: Progress | None = None
        self._spoke = -math.inf

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Starts the progress lines."""
        left = int(state.max_steps) - int(state.global_step)
        progress = Progress(log, f"train_{self._stage}", left)
        self._progress = self._open_until.enter_context(progress)

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Counts an optimizer step."""
        if self._progress is not None:
            self._progress.advance()

    def on_log(
        self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Shows loss, rate and gradient norm now and then; stops on a non-finite gradient."""
        figures = logs or {}
        norm = figures.get("grad_norm", 0.0)
        if not math.isfinite(norm):
            raise UserError(
                f"the {self._stage} gradient is not finite at step {state.global_step}; lower "
                f"training.{self._stage}.learning_rate, or run with training.precision=fp32"
            )
        if "loss" in figures and time.monotonic() - self._spoke >= INTERVAL_SECONDS:
            self._spoke = time.monotonic()
            log.info(
                "train_step",
                stage=self._stage,
                step=state.global_step,
                loss=figures["loss"],
                learning_rate=figures.get("learning_rate"),
                grad_norm=norm,
            )

    def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Makes the checkpoint count."""
        ranks = this_process()
        # Each rank has written its own files; what counts is all of them.
        ranks.wait()
        if ranks.first:
            self._checkpoints.publish(state.global_step)
            log.info("checkpoint_stored", stage=self._stage, step=state.global_step)
        ranks.wait()
