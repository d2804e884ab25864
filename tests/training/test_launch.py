"""How ranks are started and how their end is told, without starting any."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from tests.training.training_world import TRAINING, encoded
from torch.distributed import DistBackendError, DistNetworkError

from cosalign.domain.errors import (
    EXIT_DEFECT,
    EXIT_RETRY,
    ConfigError,
    CosalignError,
    DataError,
    TransientError,
    UserError,
)
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import open_storage
from cosalign.training.launch import accelerate_config, processes_of, run_launcher
from cosalign.training.model_shape import ModelShape
from cosalign.training.rank_reports import PeerLost, failure_of, report_of
from cosalign.training.ranks import Ranks
from cosalign.training.recomputation import must_recompute, with_recomputation_decided
from cosalign.training.reference import share_of
from cosalign.training.row_order import FILLER, RealRowsFirst, filled_up
from cosalign.training.stage import Stage
from cosalign.training.stage_order import read_order, withdraw_order, write_order

GROUP = TrainingGroup.model_validate(TRAINING)


def _group(**changes: object) -> TrainingGroup:
    return TrainingGroup.model_validate({**TRAINING, **changes})


def _stage(tiny: ModelFolder, folder: Path) -> Stage:
    return Stage("dpo", tiny, encoded(tiny).dpo, GROUP, open_storage(str(folder)), folder / "cache")


def test_gpus_are_sharded_by_a_config_made_from_the_settings() -> None:
    made = accelerate_config(_group(processes=2, activation_checkpointing=True), 2)
    assert (made["distributed_type"], made["num_processes"]) == ("FSDP", 2)
    assert made["mixed_precision"] == "no"
    assert made["fsdp_config"]["fsdp_version"] == 2
    assert made["fsdp_config"]["fsdp_activation_checkpointing"] is True
    assert yaml.safe_load(yaml.safe_dump(made)) == made


def test_replicas_get_no_sharding_config() -> None:
    made = accelerate_config(_group(sharding="none", precision="bf16"), 4)
    assert (made["distributed_type"], made["mixed_precision"]) == ("MULTI_GPU", "bf16")
    assert "fsdp_config" not in made


def test_accelerate_knows_every_field_of_the_config() -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    made = accelerate_config(GROUP, 2)
    assert set(made) <= set(ClusterConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("exit_code", "kind"), [(2, UserError), (75, TransientError), (70, CosalignError)]
)
def test_the_first_failure_of_a_rank_is_told(
    exit_code: int, kind: type[CosalignError], tmp_path: Path
) -> None:
    for rank, (when, code) in enumerate([(2, 70), (1, exit_code)]):
        report = {"time": when, "exit_code": code, "message": f"rank {rank} says"}
        (tmp_path / f"{rank}.json").write_text(json.dumps(report), encoding="utf-8")
    found = failure_of(tmp_path, 1)
    assert type(found) is kind
    assert str(found) == "rank 1 says"


def test_a_rank_that_died_without_a_word_may_be_tried_again(tmp_path: Path) -> None:
    found = failure_of(tmp_path, 1)
    assert found.exit_code == 75
    assert "without a word" in str(found)


LOST = (
    RuntimeError(
        "[/__w/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error "
        "[127.0.0.1]:1: Connection reset by peer"
    ),
    DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited"),
    DistNetworkError("Broken pipe"),
)
"""What ranks meet when another one is gone."""


@pytest.mark.parametrize("problem", LOST)
def test_a_rank_that_lost_another_may_be_tried_again(problem: Exception, tmp_path: Path) -> None:
    (tmp_path / "0.json").write_bytes(report_of(problem))
    found = failure_of(tmp_path, 1)
    assert type(found) is PeerLost
    assert found.exit_code == EXIT_RETRY
    assert str(problem) in str(found)


@pytest.mark.parametrize("problem", LOST)
def test_what_the_lost_rank_met_itself_is_told_whoever_wrote_first(
    problem: Exception, tmp_path: Path
) -> None:
    (tmp_path / "0.json").write_bytes(report_of(problem))
    (tmp_path / "1.json").write_bytes(report_of(UserError("the loss is not finite")))
    with pytest.raises(UserError, match="the loss is not finite"):
        raise failure_of(tmp_path, 1)


@pytest.mark.parametrize(
    "problem", [RuntimeError("shapes differ"), DistBackendError("NCCL error, ncclInvalidUsage")]
)
def test_a_defect_is_no_lost_rank(problem: Exception, tmp_path: Path) -> None:
    (tmp_path / "0.json").write_bytes(report_of(problem))
    assert failure_of(tmp_path, 1).exit_code == EXIT_DEFECT


def test_a_batch_that_gpus_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ConfigError, match=r"training\.sft\.batch_size 4 cannot be shared out to 3"):
        processes_of(GROUP)
    assert processes_of(_group(processes=2)) == 2


def test_an_order_is_read_as_it_was_written(tiny: ModelFolder, tmp_path: Path) -> None:
    stage = _stage(tiny, tmp_path)
    write_order(stage)
    read = read_order(stage.storage, stage.folder, stage.cache)
    assert read.fingerprint == stage.fingerprint
    assert (read.rows.names, read.rows.tokens) == (stage.rows.names, stage.rows.tokens)
    assert read.group == stage.group
    withdraw_order(stage)
    assert stage.storage.list(stage.folder) == []


def test_an_order_whose_rows_were_changed_is_refused(tiny: ModelFolder, tmp_path: Path) -> None:
    stage = _stage(tiny, tmp_path)
    write_order(stage)
    rows = tmp_path / stage.folder / "order.arrow"
    with pa.OSFile(str(rows), "wb") as file:
        fewer = stage.rows.table.slice(1)
        with pa.ipc.new_file(file, fewer.schema) as writer:
            writer.write_table(fewer)
    with pytest.raises(DataError, match="another one than was ordered"):
        read_order(stage.storage, stage.folder, stage.cache)


def test_how_a_stage_is_computed_is_no_part_of_what_it_is(
    tiny: ModelFolder, tmp_path: Path
) -> None:
    stage = _stage(tiny, tmp_path)
    how = _group(processes=2, sharding="none", activation_checkpointing=True, compile=True)
    other = Stage("dpo", tiny, stage.rows, how, stage.storage, stage.cache)
    assert other.fingerprint == stage.fingerprint
    assert how.identity() == GROUP.identity()
    adapters = _group(lora={"rank": 4})
    assert adapters.identity() != GROUP.identity()
    lora = Stage("dpo", tiny, stage.rows, adapters, stage.storage, stage.cache)
    assert lora.fingerprint != stage.fingerprint


@pytest.mark.parametrize(
    ("gpus", "memory", "length", "needed"),
    [(4, 80, 640, False), (4, 32, 640, True), (8, 80, 640, False), (4, 80, 4096, True)],
)
def test_activations_are_recomputed_where_memory_asks_for_it(
    gpus: int, memory: float, length: int, needed: bool
) -> None:
    """Llama-3.1-8B: 22 GiB of states a GPU on four, and some 8 MiB of activations a token."""
    shape = ModelShape(4096, 14336, 32, 4096, 1024, 128_256, tied=False)
    stage = {"batch_size": 32, "micro_batch_size": 2, "max_length": length}
    group = _group(sft=stage, dpo=stage, precision="bf16")
    assert must_recompute(shape, group, gpus, memory) is needed


def test_what_was_asked_for_is_not_decided_again(tmp_path: Path) -> None:
    asked = _group(activation_checkpointing=False)
    assert with_recomputation_decided(asked, tmp_path, 1, 1.0) is asked
    assert with_recomputation_decided(GROUP, tmp_path, 1, None) is GROUP


def test_ranks_share_answers_by_whole_contexts() -> None:
    wanted = [([c], [a]) for c in range(7) for a in range(3)]
    shares = [share_of(wanted, Ranks(rank, 3)) for rank in range(3)]
    assert sorted(each for share in shares for each in share) == sorted(wanted)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        contexts = [{tuple(context) for context, _ in shares[rank]} for rank in (one, other)]
        assert not set.intersection(*contexts)


@pytest.mark.parametrize("rows", [6, 7, 8])
def test_fillers_end_an_epoch_and_repeat_no_row(rows: int) -> None:
    table = pa.table({"row": list(range(rows)), "ids": [[i] for i in range(rows)]})
    filled = filled_up(table, 4)
    assert filled.num_rows == 8
    numbers = filled["row"].to_pylist()
    order = [numbers[i] for i in RealRowsFirst(rows, filled.num_rows, 3, lambda: 0)]
    assert sorted(order[:rows]) == list(range(rows))
    assert order[rows:] == [FILLER] * (8 - rows)


def test_the_order_is_another_one_in_each_epoch_and_that_of_accelerates_sampler() -> None:
    from accelerate.data_loader import SeedableRandomSampler

    theirs = SeedableRandomSampler(range(20), data_seed=5)
    orders = []
    for epoch in (0, 1):
        theirs.set_epoch(epoch)
        orders.append(list(RealRowsFirst(20, 20, 5, partial(int, epoch))))
        assert orders[-1] == list(theirs)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("code", [0, 3])
def test_a_sigterm_goes_to_the_ranks_and_the_step_ends_for_a_retry(
    code: int, tmp_path: Path
) -> None:
    """Also where the launcher had just done all: what follows the stage is not begun."""
    ready = tmp_path / "ready"
    script = (
        "import pathlib, signal, sys, time;"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}));"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
    )

    def terminate() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    ended = run_launcher([sys.executable, "-c", script], grace_seconds=30)
    assert ended == (code or EXIT_RETRY)
    assert failure_of(tmp_path, ended).exit_code == EXIT_RETRY


def test_a_launcher_that_is_left_alone_ends_as_it_ends() -> None:
    assert run_launcher([sys.executable, "-c", "raise SystemExit(0)"], grace_seconds=30) == 0


def test_a_launcher_lets_ranks_save_for_as_long_as_the_cluster_does(tmp_path: Path) -> None:
    """Torch's own launcher, asked what it makes of what it is given."""
    found = tmp_path / "seconds"
    script = (
        "import pathlib; from torch.distributed.launcher.api import LaunchConfig;"
        "seconds = LaunchConfig(1, 1, 1).shutdown_timeout;"
        f"pathlib.Path({str(found)!r}).write_text(str(seconds))"
    )
    assert run_launcher([sys.executable, "-c", script], grace_seconds=1200) == 0
    assert int(found.read_text("utf-8")) >= 1200
