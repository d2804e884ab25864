"""One of the processes that train together: ``torchrun ... -m cosalign.training.rank``.

The step that started it reports to people; a rank tells it what went wrong in a file, since
launchers turn every exit code into 1. And a rank that fails leaves at once: taking a process group
down in order would wait for ranks that wait for this one.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cosalign.domain.errors import CosalignError
from cosalign.runtime.exit_codes import run_and_exit_code
from cosalign.runtime.logs import configure_logs, get_logger
from cosalign.store.storage import open_storage
from cosalign.training.rank_reports import report_of

REPORTS = "reports"
"""Folder of failures below a stage's, where the step that started the ranks is elsewhere."""
_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of a rank; gives the exit code."""
    asked = _parser().parse_args(argv)
    rank = int(os.environ.get("RANK", "0"))
    configure_logs(quiet=rank > 0)
    end_with_parent(signal.SIGKILL)

    def train() -> None:
        try:
            _train(asked)
        except Exception as problem:
            if asked.reports:
                (asked.reports / f"{rank}.json").write_bytes(report_of(problem))
            if asked.store_reports:
                _store_report(asked, rank, problem)
            raise

    return run_and_exit_code(train)


def end_with_parent(number: signal.Signals) -> None:
    """Has Linux send this process a signal when its parent is gone, so that no orphan trains on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def _train(asked: argparse.Namespace) -> None:
    from cosalign.training.stage import train_stage
    from cosalign.training.stage_order import read_order
    from cosalign.training.world import join_world

    ranks = join_world(asked.processes)
    storage = open_storage(asked.storage)
    stage = ranks.in_turn(lambda: read_order(storage, asked.folder, asked.cache))
    stage.work.mkdir(parents=True, exist_ok=True)
    train_stage(stage)


def _store_report(asked: argparse.Namespace, rank: int, problem: Exception) -> None:
    """For a step on another machine; a storage that fails must not hide what went wrong first."""
    try:
        path = f"{asked.folder}/{REPORTS}/{rank}.json"
        open_storage(asked.storage).write_bytes(path, report_of(problem))
    except CosalignError as second:
        get_logger(__name__).warning("no_report_stored", reason=type(second).__name__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cosalign.training.rank")
    parser.add_argument("--storage", required=True, help="the run's storage root")
    parser.add_argument("--folder", required=True, help="the stage's folder in it")
    parser.add_argument("--cache", required=True, type=Path, help="a local folder for models")
    parser.add_argument("--processes", required=True, type=int, help="how many train together")
    parser.add_argument("--reports", type=Path, help="where failures are written")
    parser.add_argument(
        "--store-reports", action="store_true", help="write them to the stage's folder as well"
    )
    return parser


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)
