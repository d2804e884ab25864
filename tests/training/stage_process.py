"""Runs one training stage in a process of its own, which kills itself on the way.

Arguments: the model's folder, the storage root, the stage, the file that row numbers go to, and the
micro batch at which SIGKILL falls.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.training.training_world import TRAINING, encoded

from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import resolve_model
from cosalign.store.storage import open_storage
from cosalign.training.stage import Stage, StageResult, run_stage


def stage_of(model: Path, root: Path, name: str, observer: object = None) -> Stage:
    """A stage of the small world, starting from the base model."""
    start = resolve_model(str(model), root / "cache")
    world = encoded(start)
    return Stage(
        name,
        start,
        world.dpo if name == "dpo" else world.sft,
        TrainingGroup.model_validate(TRAINING),
        open_storage(str(root / "out")),
        root / "cache",
        observer,  # type: ignore[arg-type]
    )


def run_observed(model: Path, root: Path, name: str) -> tuple[StageResult, list[list[int]]]:
    """Runs a stage and gives its result and the rows of each micro batch."""
    seen: list[list[int]] = []
    return run_stage(stage_of(model, root, name, seen.append)), seen


def _main(model: str, root: str, name: str, rows_file: str, fatal: str) -> None:
    seen: list[list[int]] = []

    def observer(rows: list[int]) -> None:
        seen.append(rows)
        if len(seen) == int(fatal):
            Path(rows_file).write_text(json.dumps(seen[:-1]), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)

    run_stage(stage_of(Path(model), Path(root), name, observer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
