"""Killed at random moments, by SIGKILL and SIGTERM, a stage still ends, as if it never had been.

Four kills of each stage by default; ``COSALIGN_KILLS=20`` (``make test-kills``) for twenty.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.training.killed_children import MICRO_BATCHES_A_STEP, settings_of

from cosalign.domain.errors import EXIT_RETRY
from cosalign.inference.models import ModelFolder
from cosalign.training.stage import HISTORY

pytestmark = [pytest.mark.training, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("COSALIGN_KILLS", "4"))


@pytest.fixture(scope="module")
def root(tiny: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which both stages were killed, again and again."""
    folder: Path = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.training.killed_children"]
    # Torch's and the tokenizers' own threads would not live on in a forked child.
    env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(tiny.path), str(folder), str(KILLS)],
        check=True,
        cwd=Path(__file__).parents[2],
        env=env,
    )
    return folder


@pytest.fixture(params=["sft", "dpo"])
def report(request: pytest.FixtureRequest, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "report.json").read_bytes())[request.param]
    return {**found, "root": root / request.param}


def _attempts(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [attempt for run in report["runs"] for attempt in run]


def test_it_was_killed_so_often_and_ended_each_time(report: dict[str, Any]) -> None:
    codes = [attempt["code"] for attempt in _attempts(report)]
    assert sum(code != 0 for code in codes) == KILLS
    assert set(codes) <= {0, -signal.SIGKILL, -signal.SIGTERM, EXIT_RETRY}
    assert -signal.SIGKILL in codes
    assert [run[-1]["code"] for run in report["runs"]] == [0] * len(report["runs"])
    assert report["calm"]["code"] == 0
    # A forked child has but the thread that forked. Arrow's allocator sees to its own.
    assert set(report["threads"]) - {"jemalloc_bg_thd"} == {"python"}


def test_each_attempt_goes_on_from_the_newest_checkpoint_in_the_same_order(
    report: dict[str, Any],
) -> None:
    order = report["calm"]["rows"]
    steps = settings_of(KILLS).sft.max_steps
    assert steps is not None
    assert len(order) == steps * MICRO_BATCHES_A_STEP
    for run in report["runs"]:
        for attempt in run:
            first = attempt["start"] * MICRO_BATCHES_A_STEP
            assert attempt["rows"] == order[first : first + len(attempt["rows"])]
        last = run[-1]
        assert last["start"] * MICRO_BATCHES_A_STEP + len(last["rows"]) == len(order)


def test_after_sigterm_no_step_is_done_twice(report: dict[str, Any]) -> None:
    for run in report["runs"]:
        for attempt, following in pairwise(run):
            if attempt["code"] == EXIT_RETRY:
                done = attempt["start"] * MICRO_BATCHES_A_STEP + len(attempt["rows"])
                assert following["start"] * MICRO_BATCHES_A_STEP == done


def test_a_sigterm_while_training_saves_and_ends_with_the_code_for_a_retry(
    report: dict[str, Any],
) -> None:
    steps = len(report["calm"]["rows"]) // MICRO_BATCHES_A_STEP
    asked = [a for a in _attempts(report) if a.get("signal") == signal.SIGTERM and a["rows"]]
    # One that had come to the end was storing its result, which the next attempt does over.
    training = [a for a in asked if a["start"] + len(a["rows"]) // MICRO_BATCHES_A_STEP < steps]
    assert {attempt["code"] for attempt in training} <= {EXIT_RETRY}


def test_the_model_is_that_of_an_undisturbed_run(report: dict[str, Any]) -> None:
    calm = _weights(report, "calm")
    for number in range(len(report["runs"])):
        rough = _weights(report, f"rough-{number}")
        assert rough.keys() == calm.keys()
        assert max(float((rough[n] - calm[n]).abs().max()) for n in calm) < 1e-6
        folder = report["root"] / f"rough-{number}" / report["folder"]
        assert not list(folder.rglob("checkpoint-*/*"))
        assert _steps(folder) == _steps(report["root"] / "calm" / report["folder"])


def _weights(report: dict[str, Any], run: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    root = report["root"] / run
    result = json.loads((root / report["folder"] / "result.json").read_bytes())
    return {
        n: t.float() for n, t in load_file(root / result["model"] / "model.safetensors").items()
    }


def _steps(folder: Path) -> list[int]:
    lines = [json.loads(line) for line in (folder / HISTORY).read_bytes().splitlines()]
    return [line["step"] for line in lines if "loss" in line]
