"""Runs a trainer from the newest whole checkpoint to the end, and gives the model to keep."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers

from cosalign.training.checkpoints import CheckpointStore, step_of
from cosalign.training.dev_split import OwedMeasurement, measurement_is_owed
from cosalign.training.planner import checkpoint_bytes
from cosalign.training.preemption import Preempted, SigtermWatch
from cosalign.training.ranks import this_process
from cosalign.training.save_clock import SaveClock
from cosalign.training.stage_callback import StageCallback, StageWatch
from cosalign.training.stage_history import StageHistory
from cosalign.training.trainers import full_disk_named
from cosalign.training.whole_model import checkpoint_model, gathered_model
from cosalign.training.world import ShardingProof, require_world, shards

if TYPE_CHECKING:
    from cosalign.training.stage import Stage

_MIB = 1024**2


def train(trainer: Any, stage: Stage, checkpoints: CheckpointStore, history: StageHistory) -> Any:
    """Trains to the end, from the newest whole checkpoint where there is one.

    Returns:
        The model to keep, the last or the best, plain and whole, on the first rank; ``None`` on
        the others.

    Raises:
        Preempted: SIGTERM came; a checkpoint was made where it fits the grace period.
        UserError: More batches were not finite than may be skipped.
    """
    ranks = this_process()
    require_world(trainer.accelerator, stage.group, ranks.world)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(ShardingProof(shards(stage.group, ranks)))
    newest = _newest_on_this_node(checkpoints)
    finished = newest is not None and _restored_finished(trainer, newest)
    if not finished:
        watch = _watch(trainer, stage, checkpoints, history)
        _train_watched(trainer, watch, newest)
        if watch.stopped:
            raise Preempted(
                f"SIGTERM: the checkpoint of step {trainer.state.global_step} is stored; started "
                "again, training goes on from there"
            )
    best = _best_checkpoint(trainer, checkpoints) if stage.settings.keep == "best" else None
    kept = best or (newest if finished else None)
    if kept is None:
        return gathered_model(trainer, stage.start.path, stage.group)
    return checkpoint_model(kept, stage.start.path, stage.group) if ranks.first else None


def _newest_on_this_node(checkpoints: CheckpointStore) -> Path | None:
    """The newest whole checkpoint: the first rank says which, and each node fetches it."""
    ranks = this_process()
    found = checkpoints.newest() if ranks.first else None
    step = ranks.agreed(None if found is None else step_of(found))
    if step is None:
        return None
    if ranks.first_of_node and not ranks.first:
        checkpoints.fetch_once(step)
    ranks.wait()
    return checkpoints.folder_of(step)


def _watch(
    trainer: Any, stage: Stage, checkpoints: CheckpointStore, history: StageHistory
) -> StageWatch:
    group, settings = stage.group, stage.settings
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    planned = checkpoint_bytes(trained, group.optimizer) / (group.save_mib_per_second * _MIB)
    sigterm = SigtermWatch(group.grace_seconds)
    sigterm.needed_seconds = planned
    return StageWatch(
        stage=stage.name,
        checkpoints=checkpoints,
        history=history,
        clock=SaveClock(settings.save_minutes, planned),
        sigterm=sigterm,
        figures=trainer.figures,
        keep_best=stage.measured is not None,
    )


def _train_watched(trainer: Any, watch: StageWatch, newest: Path | None) -> None:
    with ExitStack() as stack:
        stack.enter_context(watch.sigterm)
        stack.callback(_write_history, trainer, watch.history)
        # What is being stored is stored, whatever ends the training.
        stack.callback(watch.background.wait)
        trainer.add_callback(StageCallback(watch, stack))
        trainer.add_callback(OwedMeasurement(trainer))
        stack.enter_context(full_disk_named(watch.checkpoints.folder))
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)


def _write_history(trainer: Any, history: StageHistory) -> None:
    if this_process().first:
        history.write(trainer.state.log_history)


def _restored_finished(trainer: Any, checkpoint: Path) -> bool:
    """Whether a checkpoint leaves nothing to do; if so, its state is taken."""
    state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step < state.max_steps or measurement_is_owed(trainer.args, state):
        return False
    trainer.state = state
    return True


def best_beside(trainer: Any, stage: Stage, checkpoints: CheckpointStore) -> Any:
    """The best model by the development split, where the stage leaves another, the last one.

    Returns:
        The model, plain and whole, on the first rank; ``None`` on the others, and without one.
    """
    best = None if stage.settings.keep == "best" else _best_checkpoint(trainer, checkpoints)
    if best is None or not this_process().first:
        return None
    return checkpoint_model(best, stage.start.path, stage.group)


def _best_checkpoint(trainer: Any, checkpoints: CheckpointStore) -> Path | None:
    """The best checkpoint, where there is one and it is not the last step's; fetched by rank 0."""
    best = trainer.state.best_global_step
    if best in (None, trainer.state.global_step):
        return None
    ranks = this_process()
    return ranks.agreed(checkpoints.fetch(int(best)) if ranks.first else None)
