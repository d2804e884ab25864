"""Starts the ranks of a stage, waits for them, and turns their end into one error.

On GPUs ``accelerate launch`` starts them, by a config made here from the recipe and thrown away
afterwards; on a CPU, where that launcher starts one process whatever it is told, ``torchrun`` does.
Either kills the other ranks when one has died. The step itself stays outside: it holds no GPU, and
what it does before and after (joining, encoding, reporting) is done once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, Self

from cosalign.domain.errors import EXIT_RETRY, ConfigError
from cosalign.domain.yaml_text import dump_yaml
from cosalign.runtime.logs import get_logger
from cosalign.training.rank import end_with_parent
from cosalign.training.rank_reports import failure_of
from cosalign.training.stage_order import withdraw_order, write_order

if TYPE_CHECKING:
    from cosalign.domain.run_config import TrainingGroup
    from cosalign.training.stage import Stage

_AFTER_GRACE_SECONDS = 30
"""A launcher kills its ranks so much later than the cluster would: it must not cut a save off."""

log = get_logger(__name__)


def processes_of(group: TrainingGroup) -> int:
    """How many processes train: as asked, else one for each visible GPU, else one.

    Raises:
        ConfigError: This process was launched as one of several, or a batch cannot be shared out
            to the GPUs evenly.
    """
    _require_plain_start()
    if group.processes is not None:
        return group.processes
    import torch

    processes = max(torch.cuda.device_count(), 1)
    for name, stage in (("sft", group.sft), ("dpo", group.dpo)):
        if stage.batch_size % (stage.micro_batch_size * processes):
            raise ConfigError(
                f"training.{name}.batch_size {stage.batch_size} cannot be shared out to "
                f"{processes} GPUs with a micro_batch_size of {stage.micro_batch_size}; change one "
                "of them, or set training.processes"
            )
    return processes


def _require_plain_start() -> None:
    """Two training steps in one world would each do all of it, and write over one another."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    sharded = [n for n in os.environ if n in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")]
    if launched != 1 or sharded:
        raise ConfigError(
            f"the training step launches its own processes, and was launched as one of several "
            f"(WORLD_SIZE={launched}, {', '.join(sharded) or 'no'} sharding variables); start it "
            "with plain python, and set training.processes"
        )


def launched(stage: Stage, processes: int) -> None:
    """Trains a stage in several processes on this machine.

    Raises:
        CosalignError: A rank failed; the error is of the kind that the rank met.
    """
    import torch

    write_order(stage)
    reports = stage.work / "reports"
    reports.mkdir()
    rank = ["--storage", stage.storage.uri, "--folder", stage.folder, "--cache", str(stage.cache)]
    rank += ["--processes", str(processes), "--reports", str(reports)]
    start = _accelerate(stage, processes) if torch.cuda.is_available() else torchrun(processes)
    log.info("ranks_starting", stage=stage.name, processes=processes, launcher=start[2])
    command = [*start, "-m", "cosalign.training.rank", *rank]
    code = run_launcher(command, stage.group.grace_seconds)
    withdraw_order(stage)
    if code:
        raise failure_of(reports, code)


def accelerate_config(group: TrainingGroup, processes: int) -> dict[str, Any]:
    """What ``accelerate launch`` reads, for GPUs of one machine."""
    from cosalign.training.world import fsdp_config

    sharded = group.sharding == "full"
    prefixed = {
        f"fsdp_{name}": value
        for name, value in fsdp_config(bool(group.activation_checkpointing)).items()
    }
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP" if sharded else "MULTI_GPU",
        "mixed_precision": "bf16" if group.precision == "bf16" else "no",
        "num_machines": 1,
        "machine_rank": 0,
        "num_processes": processes,
        "main_process_port": 0,
        "use_cpu": False,
        **({"fsdp_config": prefixed} if sharded else {}),
    }


def _accelerate(stage: Stage, processes: int) -> list[str]:
    path = stage.work / "accelerate.yaml"
    config = accelerate_config(stage.group, processes)
    path.write_text(dump_yaml(config), encoding="utf-8")
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]


def torchrun(processes: int) -> list[str]:
    """The command that starts processes on this machine, but for what they run."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), "--max-restarts", "0",
    ]  # fmt: skip


def shutdown_seconds(grace_seconds: float) -> int:
    """How long a launcher lets ranks end that were told to; a large model's save takes minutes.

    Args:
        grace_seconds: Time between SIGTERM and SIGKILL, as the cluster grants it.
    """
    return ceil(grace_seconds) + _AFTER_GRACE_SECONDS


def run_launcher(command: list[str], grace_seconds: float) -> int:
    """Runs a launcher to its end; its exit code, or that for a retry where SIGTERM came meanwhile.

    Args:
        command: The launcher with its arguments.
        grace_seconds: Time between SIGTERM and SIGKILL, as the cluster grants it.
    """
    shutdown = str(shutdown_seconds(grace_seconds))
    env = {**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": shutdown}
    with _Terminations() as terminations:
        process = subprocess.Popen(  # noqa: S603 our own interpreter and arguments
            command,
            env=env,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),  # noqa: PLW1509
        )
        try:
            terminations.pass_on_to(process)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return code or (EXIT_RETRY if terminations.came else 0)


class _Terminations:
    """A SIGTERM to the step goes to the ranks, who may save first and say how they ended.

    One that comes while the launcher is being started is kept for it.
    """

    def __init__(self) -> None:
        self.came = False
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def pass_on_to(self, process: subprocess.Popen[bytes]) -> None:
        """Names the launcher."""
        self._process = process
        if self.came:
            process.terminate()

    def _received(self, number: int, _frame: object) -> None:
        self.came = True
        if self._process is not None:
            self._process.send_signal(number)
