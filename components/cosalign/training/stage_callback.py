"""What happens around a stage's steps: log lines, checkpoints in time, an end on request.

Decisions are made at the end of each step, after the ranks have told each other what they know:
rank 0's clock says whether a save is due, and any rank may have been asked to end. A save by steps
that finds the one before still being stored is put off to the first step that does not.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from cosalign.domain.errors import CosalignError
from cosalign.runtime.logs import get_logger
from cosalign.runtime.progress import INTERVAL_SECONDS, Progress
from cosalign.training.background_store import BackgroundStore
from cosalign.training.checkpoint_weights import weights_in
from cosalign.training.checkpoints import CheckpointStore
from cosalign.training.outcome import DEV_LOSS
from cosalign.training.preemption import SigtermWatch
from cosalign.training.ranks import this_process
from cosalign.training.save_clock import SaveClock
from cosalign.training.stage_history import StageHistory
from cosalign.training.step_figures import StepFigures

log = get_logger(__name__)


@dataclass
class StageWatch:
    """What the callback watches over.

    Attributes:
        stage: ``sft`` or ``dpo``.
        checkpoints: Where checkpoints lie.
        history: Where the figures of the steps are written.
        clock: When to save.
        sigterm: Whether to end.
        figures: Measures steps.
        keep_best: Whether the best checkpoint by the development split is kept beside the last.
        background: Stores checkpoints beside the training.
        stopped: Whether training ended early, on request.
    """

    stage: str
    checkpoints: CheckpointStore
    history: StageHistory
    clock: SaveClock
    sigterm: SigtermWatch
    figures: StepFigures
    keep_best: bool
    background: BackgroundStore = field(init=False)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.background = BackgroundStore(self.clock.stored)


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """Log lines for people, checkpoints for the next process."""

    def __init__(self, watch: StageWatch, open_until: ExitStack) -> None:
        self._watch = watch
        self._open_until = open_until
        self._progress: Progress | None = None
        self._spoke = -math.inf
        self._put_off = False

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Starts the progress lines and the clocks."""
        left = int(state.max_steps) - int(state.global_step)
        if this_process().first:
            progress = Progress(log, f"train_{self._watch.stage}", left)
            self._progress = self._open_until.enter_context(progress)
        self._watch.figures.begin(int(state.global_step))
        self._watch.clock.resumed()

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Counts an optimizer step, and decides with the other ranks about saving and ending."""
        watch = self._watch
        if self._progress is not None:
            self._progress.advance()
        clock, busy = watch.clock, watch.background.busy
        clock.step_ended()
        told = this_process().gathered(
            (clock.due(busy), busy, clock.seconds_to_safety, watch.sigterm.asked)
        )
        due, storing, needed = told[0][:3]
        watch.sigterm.needed_seconds = needed * (2 if storing else 1)
        by_steps = control.should_save or self._put_off
        if state.global_step < state.max_steps:
            self._put_off = bool(by_steps and storing)
            control.should_save = bool(due or (by_steps and not storing))
        if any(entry[-1] for entry in told):
            self._stop(state, control)

    def _stop(self, state: Any, control: Any) -> None:
        log.warning("asked_to_end", stage=self._watch.stage, step=state.global_step)
        self._watch.stopped = True
        control.should_save = control.should_training_stop = True
        # There is no time for it; the process that goes on makes up for it.
        control.should_evaluate = False

    def on_evaluate(
        self, _args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        """A new best model is saved, where the best is kept."""
        self._watch.clock.resumed()
        self._watch.figures.resumed()
        loss, best = metrics[DEV_LOSS], state.best_metric
        if self._watch.keep_best and (loss < math.inf if best is None else loss < best):
            control.should_save = True
        if this_process().first:
            log.info("dev_split", stage=self._watch.stage, step=state.global_step, **metrics)

    def on_log(
        self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Shows a step's figures now and then; the history holds those of every step."""
        spoke = time.monotonic() - self._spoke < INTERVAL_SECONDS
        if logs is None or "tokens" not in logs or spoke or not this_process().first:
            return
        self._spoke = time.monotonic()
        log.info("train_step", stage=self._watch.stage, step=state.global_step, **logs)

    def on_save(self, args: Any, state: Any, _control: Any, model: Any = None, **_: Any) -> None:
        """Has the checkpoint stored beside the training; waits for it where training ends."""
        watch, ranks = self._watch, this_process()
        # Each rank has written its own files; what counts is all of them.
        ranks.wait()
        watch.clock.written()
        step, best = int(state.global_step), state.best_global_step if watch.keep_best else None
        if ranks.first:
            _require_weights(Path(args.output_dir) / f"checkpoint-{step}", model)
            watch.history.saved(step)
        if ranks.first_of_node:
            entries = list(state.log_history)
            watch.background.start(lambda: self._store(step, best, entries))
            if watch.stopped or step >= state.max_steps:
                watch.background.wait()
        ranks.wait()
        watch.clock.resumed()
        watch.figures.resumed()

    def _store(self, step: int, best: int | None, entries: list[dict[str, Any]]) -> None:
        self._watch.checkpoints.publish(step, best)
        if not this_process().first:
            return
        self._watch.history.write(entries)
        log.info("checkpoint_stored", stage=self._watch.stage, step=step)


def _require_weights(checkpoint: Path, model: Any) -> None:
    """A checkpoint without weights must not count: training would go on from fresh ones."""
    held, trained = weights_in(checkpoint), sum(p.requires_grad for p in model.parameters())
    if held < trained:
        raise CosalignError(
            f"{checkpoint.name} holds {held} of {trained} trained weights, and was not marked "
            "complete; this is a defect"
        )
