"""Runs a stage again and again in processes that are killed at random moments, until it ends.

``python -m tests.training.killed_children MODEL ROOT KILLS``. Starting a process costs ten seconds
of imports, so they are paid once: this process imports torch and TRL, stays single-threaded, and
forks a child for every attempt. The children are real processes, killed by real SIGKILLs and
SIGTERMs. ``ROOT/report.json`` says what happened; tests judge it.

A moment is drawn as so many micro batches after the start and a part of a second; none at all hits
the loading of the model or of a checkpoint. Checkpoints are made after each second step, so many
moments fall into the writing, the digests and the dropping of one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.training.stage_process import stage_of
from tests.training.training_world import TRAINING

from cosalign.domain.run_config import TrainingGroup
from cosalign.runtime.exit_codes import run_and_exit_code
from cosalign.training.stage import Stage, run_stage

SEED = 20
MICRO_BATCHES_A_STEP = 2
MOST_MICRO_BATCHES = 7
SIGTERM_EVERY = 4
LONGEST_LOAD, LONGEST_PART = 1.0, 0.2


def settings_of(kills: int) -> TrainingGroup:
    """As many steps as the kills can hit; the stages run through their rows more than once."""
    stage = {
        "learning_rate": 1e-4, "batch_size": 4, "micro_batch_size": 2, "save_steps": 2,
        "epochs": 100, "max_steps": max(8, 2 * kills), "keep_checkpoints": 2,
    }  # fmt: skip
    return TrainingGroup.model_validate({**TRAINING, "sft": stage, "dpo": stage})


def forked(stage: Stage, rows_file: Path) -> int:
    """A child that runs the stage and writes the rows of each micro batch down; its process id."""
    rows_file.touch()
    child = os.fork()
    if child:
        return child
    handle = os.open(rows_file, os.O_WRONLY | os.O_APPEND)

    def observer(rows: list[int]) -> None:
        os.write(handle, f"{json.dumps(rows)}\n".encode())

    code = 70
    try:
        code = run_and_exit_code(lambda: (run_stage(replace(stage, observer=observer)), None)[1])
    finally:
        os._exit(code)


def newest_step(stage: Stage) -> int:
    """The newest checkpoint that is complete; 0 without one."""
    paths = [stat.path for stat in stage.storage.list(f"{stage.folder}/checkpoints")]
    complete = [Path(path).parent.name for path in paths if path.endswith("/complete.json")]
    return max((int(name.removeprefix("checkpoint-")) for name in complete), default=0)


def rows_seen(rows_file: Path) -> list[list[int]]:
    """The rows that a child wrote down."""
    return [json.loads(line) for line in rows_file.read_text("utf-8").splitlines()]


def wait_for(child: int, reached: Callable[[], bool]) -> int | None:
    """Waits until something is so, or the child has ended; its status then."""
    while not reached():
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def attempt(stage: Stage, rows_file: Path, fate: random.Random, number: int) -> dict[str, Any]:
    """One attempt that is killed at a moment of its own; what became of it."""
    start = newest_step(stage)
    micro_batches = fate.randint(0, MOST_MICRO_BATCHES)
    pause = fate.uniform(0, LONGEST_PART if micro_batches else LONGEST_LOAD)
    number_sent = signal.SIGTERM if number % SIGTERM_EVERY == 1 else signal.SIGKILL
    child = forked(stage, rows_file)
    code = wait_for(child, lambda: rows_file.read_bytes().count(b"\n") >= micro_batches)
    if code is None:
        time.sleep(pause)
        os.kill(child, number_sent)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    rows = rows_seen(rows_file)
    return {"start": start, "signal": int(number_sent), "code": code, "rows": rows}


def killed(stage: Stage, root: Path, kills: int) -> list[list[dict[str, Any]]]:
    """Attempts at the stage until it has been killed so often; a list for each time it ended.

    Where it ends before, it begins anew in another folder. The last attempt is left alone.
    """
    fate, number = random.Random(SEED), 0  # noqa: S311 moments, no secrets
    runs: list[list[dict[str, Any]]] = []
    while number < kills:
        fresh = replace(stage, storage=_storage(root / f"rough-{len(runs)}"))
        attempts: list[dict[str, Any]] = []
        while not attempts or attempts[-1]["code"] != 0:
            file = root / f"rows-{len(runs)}-{len(attempts)}"
            if number < kills:
                attempts.append(attempt(fresh, file, fate, number))
                number += attempts[-1]["code"] != 0
            else:
                start = newest_step(fresh)
                code = wait_for(forked(fresh, file), lambda: False)
                attempts.append({"start": start, "code": code, "rows": rows_seen(file)})
                if code != 0:
                    break
        runs.append(attempts)
    return runs


def _storage(folder: Path) -> Any:
    from cosalign.store.storage import open_storage

    return open_storage(str(folder))


def _import_all() -> None:
    """What a training imports on its way, so that no child has to."""
    from cosalign.training import dpo, launch, reference_scorer, resuming, sft, weight_change

    assert all((dpo, launch, reference_scorer, resuming, sft, weight_change))


def _main(model: str, root: str, kills: str) -> None:
    _import_all()
    folder, report = Path(root), {}
    for name in ("sft", "dpo"):
        # The model of stage_of is read anew by each child; the rows are encoded here.
        stage = replace(stage_of(Path(model), folder, name), group=settings_of(int(kills)))
        calm = replace(stage, storage=_storage(folder / name / "calm"))
        code = wait_for(forked(calm, folder / f"rows-calm-{name}"), lambda: False)
        (folder / name).mkdir(exist_ok=True)
        report[name] = {
            "threads": [p.read_text().strip() for p in Path("/proc/self/task").glob("*/comm")],
            "calm": {"code": code, "rows": rows_seen(folder / f"rows-calm-{name}")},
            "runs": killed(stage, folder / name, int(kills)),
            "folder": stage.folder,
        }
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
