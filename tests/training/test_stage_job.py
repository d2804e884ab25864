"""A stage trained by a TrainJob is the stage that the pod would have trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.cluster_double import ClusterDouble, cluster_double
from tests.training.stage_process import stage_of
from tests.training.training_world import TRAINING
from torch.distributed.run import get_args_parser

from cosalign.domain.errors import ConfigError, UserError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import open_storage
from cosalign.training.stage import Stage
from cosalign.training.stage_job import rank_command, trained_by_job

NODES = 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ClusterDouble]:
    with cluster_double(tmp_path) as state:
        yield state


def _stage(tiny: ModelFolder, folder: Path, root: str) -> Stage:
    job = {"nodes": NODES, "cache": str(folder / "nodes")}
    settings = {**TRAINING, "backend": "train_job", "train_job": job, "sharding": "none"}
    group = TrainingGroup.model_validate(settings)
    return replace(stage_of(tiny.path, folder, "sft"), storage=open_storage(root), group=group)


def test_a_folder_of_this_machine_is_refused(tiny: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="share only storage"):
        trained_by_job(_stage(tiny, tmp_path, str(tmp_path / "out")))


def test_nodes_run_the_ranks_of_the_pod(tiny: ModelFolder, tmp_path: Path) -> None:
    command = rank_command(_stage(tiny, tmp_path, str(tmp_path / "out")))
    assert command[:3] == ("python", "-m", "torch.distributed.run")
    assert "cosalign.training.rank" in command
    assert command[command.index("--processes") + 1] == str(NODES)


def test_nodes_let_ranks_save_for_as_long_as_the_cluster_does(
    tiny: ModelFolder, tmp_path: Path
) -> None:
    stage = _stage(tiny, tmp_path, str(tmp_path / "out"))
    patient = replace(stage, group=stage.group.model_copy(update={"grace_seconds": 1200.0}))
    asked = get_args_parser().parse_args(rank_command(patient)[3:])
    assert asked.shutdown_timeout >= 1200


def test_what_a_rank_met_far_away_is_what_the_step_says(
    tiny: ModelFolder, tmp_path: Path, gcs_root: str, server: ClusterDouble
) -> None:
    stage = _stage(tiny, tmp_path, gcs_root)
    stage.work.mkdir(parents=True)
    report = b'{"time": 1, "exit_code": 2, "message": "the loss is not finite"}'

    def script(name: str) -> None:
        assert stage.storage.stat(f"{stage.folder}/order.json") is not None
        stage.storage.write_bytes(f"{stage.folder}/reports/1.json", report)
        server.condition(name, "Failed", reason="JobsFailed")

    server.script = script
    with pytest.raises(UserError, match="the loss is not finite"):
        trained_by_job(stage, server.cluster)
    # Token ids do not lie about once nobody will read them.
    assert stage.storage.stat(f"{stage.folder}/order.json") is None
