"""Two nodes that share only storage: what both were told to end by, others go on from.

Each node is a launcher of its own, started by a TrainJob's command and Trainer's variables, with a
scratch folder that no other one sees.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.rank_figures import group_of, stage_of

from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import open_storage
from cosalign.training.stage import Stage
from cosalign.training.stage_job import rank_command
from cosalign.training.stage_order import write_order

pytestmark = pytest.mark.training

LOG = "log"
ROOT = Path(__file__).parents[2]
STEPS, SAVE_STEPS = 100, 20


def _stage(tiny: ModelFolder, folder: Path, root: str, sharding: str) -> Stage:
    settings = group_of(sharding, 2, max_steps=STEPS, epochs=STEPS, save_steps=SAVE_STEPS)
    in_job = {"processes": None, "backend": "train_job", "train_job": {"nodes": 2}}
    group = TrainingGroup.model_validate({**settings.model_dump(mode="json"), **in_job})
    stage = stage_of(tiny.path, folder, "sft", group)
    return replace(stage, storage=open_storage(root))


@contextmanager
def _node(number: int, port: int, stage: Stage, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, *rank_command(stage)[1:]]
    command[command.index("--cache") + 1] = str(scratch)
    told = {"NNODES": 2, "NPROC_PER_NODE": 1, "NODE_RANK": number}
    told["MASTER_PORT"] = port
    others = {f"PET_{name}": str(value) for name, value in told.items()}
    env = {**os.environ, **others, "PET_MASTER_ADDR": "127.0.0.1"}
    scratch.mkdir(parents=True)
    with (
        (scratch / LOG).open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, env=env, stderr=log) as node,
    ):
        try:
            yield node
        finally:
            node.kill()


@contextmanager
def _nodes(stage: Stage, scratch: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    with socket.socket() as probe, ExitStack() as stack:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        yield [
            stack.enter_context(_node(number, port, stage, scratch / f"node-{number}"))
            for number in range(2)
        ]


def _complete(stage: Stage) -> list[str]:
    return [s.path for s in stage.storage.list(stage.folder) if s.path.endswith("complete.json")]


@pytest.mark.parametrize("sharding", ["full", "none"])
def test_new_nodes_go_on_where_killed_ones_were(
    sharding: str, tiny: ModelFolder, tmp_path: Path, gcs_root: str
) -> None:
    stage = _stage(tiny, tmp_path, gcs_root, sharding)
    write_order(stage)
    with _nodes(stage, tmp_path / "first") as nodes:
        while not _complete(stage) and all(node.poll() is None for node in nodes):
            time.sleep(0.05)
    assert stage.storage.stat(stage.result_path) is None
    named = json.loads(stage.storage.read_bytes(_complete(stage)[0]))["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(named)
    with _nodes(stage, tmp_path / "second") as nodes:
        ended = [node.wait() for node in nodes]
    said = (tmp_path / "second/node-0" / LOG).read_text("utf-8")
    assert ended == [0, 0], said[-4000:]
    assert "checkpoint_found" in said
    result = json.loads(stage.storage.read_bytes(stage.result_path))
    assert [entry["step"] for entry in result["curve"]] == list(range(1, STEPS + 1))
    # Its part of a checkpoint is stored, and of no more use to the second node.
    assert not list((tmp_path / "second/node-1").rglob("rng_state_*.pth"))
