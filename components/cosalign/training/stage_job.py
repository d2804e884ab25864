"""A stage trained by a TrainJob: the same ranks as in the pod, on nodes that share only storage.

The step writes the stage's order to storage, the job's containers read it there and train, and what
they leave is what the pod's own processes would have left: the same result, under the same
fingerprint. So a run may go from one backend to the other in the middle.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cosalign.domain.errors import ConfigError, CosalignError, UserError
from cosalign.training.launch import shutdown_seconds
from cosalign.training.rank import REPORTS
from cosalign.training.rank_reports import failure_of
from cosalign.training.stage_order import withdraw_order, write_order
from cosalign.training.train_job import Left, run_train_job
from cosalign.training.train_job_object import TrainJobOrder

if TYPE_CHECKING:
    from cosalign.runtime.kubernetes_api import Cluster
    from cosalign.training.stage import Stage


def trained_by_job(stage: Stage, cluster: Cluster | None = None) -> None:
    """Returns once the job has stored the stage's result.

    Args:
        stage: The stage.
        cluster: The own one where it is not given.

    Raises:
        CosalignError: It failed; the error is of the kind that a rank met or that its pods show.
    """
    if stage.storage.local_path("") is not None:
        raise ConfigError(
            f"storage.root is {stage.storage.uri}, a folder of this machine, and the nodes of a "
            "TrainJob share only storage; use a gs:// address, or training.backend=pod"
        )
    write_order(stage)
    _clear_reports(stage)
    order = TrainJobOrder(stage.name, stage.fingerprint, rank_command(stage))
    left = Left(lambda: stage.storage.stat(stage.result_path) is not None, lambda: _reported(stage))
    try:
        run_train_job(order, stage.group.train_job, left, cluster)
    except UserError:
        withdraw_order(stage)
        raise
    # A job that may go on, or be made again, still needs its order.
    withdraw_order(stage)
    _clear_reports(stage)


def rank_command(stage: Stage) -> tuple[str, ...]:
    """What each node runs; Trainer tells torchrun of the others, by PET variables."""
    settings = stage.group.train_job
    shutdown = ("--shutdown-timeout", str(shutdown_seconds(stage.group.grace_seconds)))
    together = ("-m", "torch.distributed.run", "--max-restarts", "0", *shutdown)
    return (
        "python", *(together if settings.processes > 1 else ()),
        "-m", "cosalign.training.rank", "--storage", stage.storage.uri, "--folder", stage.folder,
        "--cache", settings.cache, "--processes", str(settings.processes), "--store-reports",
    )  # fmt: skip


def _reported(stage: Stage) -> CosalignError | None:
    folder = stage.work / REPORTS
    shutil.rmtree(folder, ignore_errors=True)
    if not stage.storage.list(f"{stage.folder}/{REPORTS}"):
        return None
    stage.storage.download_tree(f"{stage.folder}/{REPORTS}", folder)
    return failure_of(folder, 1)


def _clear_reports(stage: Stage) -> None:
    for item in stage.storage.list(f"{stage.folder}/{REPORTS}"):
        stage.storage.delete(item.path)
