"""A stage is done once, survives a kill, and depends on nothing but what it should."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest
from tests.training.stage_process import run_observed, stage_of
from tests.training.training_world import SETTINGS, TRAINING, remote_storage
from torch import OutOfMemoryError

from cosalign.domain.errors import ConfigError, StorageError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.safety_template import own_template
from cosalign.store.storage import Storage, open_storage
from cosalign.training.checkpoints import file_sha256
from cosalign.training.stage import StageResult, run_stage

pytestmark = pytest.mark.training

MICRO_BATCHES_A_STEP = 2
FATAL = 8  # in step 4; checkpoints are made after steps 2 and 4


class Interruption:
    """A row observer that raises at a micro batch."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def __call__(self, _rows: list[int]) -> None:
        self._left -= 1
        if not self._left:
            raise InterruptedError


def _killed(model: Path, root: Path, stage: str) -> list[list[int]]:
    """Runs a stage in a process that is killed within step 4; gives the rows it had seen."""
    rows_file = root / "rows.json"
    command = [sys.executable, "-m", "tests.training.stage_process"]
    arguments = [str(model), str(root), stage, str(rows_file), str(FATAL)]
    done = subprocess.run(command + arguments, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    rows: list[list[int]] = json.loads(rows_file.read_text("utf-8"))
    return rows


def _largest_difference(one: Path, other: Path) -> float:
    from safetensors.torch import load_file

    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


def _folder(root: Path, result: StageResult) -> Path:
    path = open_storage(str(root / "out")).local_path(result.model)
    assert path is not None
    return path


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_killed_and_resumed_is_as_if_never_killed(
    stage: str, tiny: ModelFolder, tmp_path: Path
) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for root in (calm, rough):
        root.mkdir()
    whole, order = run_observed(tiny.path, calm, stage)
    before = _killed(tiny.path, rough, stage)
    resumed, after = run_observed(tiny.path, rough, stage)
    assert before == order[: FATAL - 1]
    assert after == order[2 * MICRO_BATCHES_A_STEP :]
    # Equal to rounding, not to the bit: threads may sum in another order.
    assert _largest_difference(_folder(calm, whole), _folder(rough, resumed)) < 1e-6
    assert [entry["step"] for entry in resumed.curve] == [entry["step"] for entry in whole.curve]
    assert resumed.curve[-1]["loss"] == pytest.approx(whole.curve[-1]["loss"], abs=1e-5)
    assert not list((rough / "out").rglob("checkpoint-*/*"))


def test_a_torn_checkpoint_costs_steps_and_not_correctness(
    tiny: ModelFolder, tmp_path: Path
) -> None:
    whole, order = run_observed(tiny.path, tmp_path / "calm", "sft")
    with pytest.raises(InterruptedError):
        run_stage(stage_of(tiny.path, tmp_path / "rough", "sft", Interruption(FATAL)))
    torn = next((tmp_path / "rough").rglob("checkpoint-2/optimizer.pt"))
    torn.write_bytes(torn.read_bytes()[:-1])
    resumed, after = run_observed(tiny.path, tmp_path / "rough", "sft")
    assert after == order
    assert resumed.digest == whole.digest


def test_resumes_from_remote_storage_on_another_machine(tiny: ModelFolder, tmp_path: Path) -> None:
    whole, order = run_observed(tiny.path, tmp_path / "calm", "sft")
    remote = remote_storage(tmp_path / "bucket")
    seen: list[list[int]] = []
    first = replace(
        stage_of(tiny.path, tmp_path / "first", "sft", Interruption(FATAL)), storage=remote
    )
    with pytest.raises(InterruptedError):
        run_stage(first)
    second = replace(stage_of(tiny.path, tmp_path / "second", "sft", seen.append), storage=remote)
    assert run_stage(second).digest == whole.digest
    assert seen == order[2 * MICRO_BATCHES_A_STEP :]
    left = [p for p in (tmp_path / "first/cache/training").rglob("*") if p.is_file()]
    assert left == []


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_full_gpu_names_the_setting_to_change(
    stage: str, tiny: ModelFolder, tmp_path: Path
) -> None:
    def full(_rows: list[int]) -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    with pytest.raises(ConfigError, match=rf"training\.{stage}\.micro_batch_size") as told:
        run_stage(stage_of(tiny.path, tmp_path, stage, full))
    assert "Tried to allocate 2.00 GiB" in str(told.value)


class FullBucket:
    """Storage in which there is no room for a model."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner

    def upload_tree(self, folder: Path, prefix: str) -> None:
        raise StorageError(f"{folder} does not fit into {prefix}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_stage_that_trained_and_was_not_stored_trains_no_more(
    stage: str, tiny: ModelFolder, tmp_path: Path
) -> None:
    """DPO ends in the middle of an epoch here, where a trainer might take one step too many."""
    whole, _ = run_observed(tiny.path, tmp_path / "calm", stage)
    rough = stage_of(tiny.path, tmp_path / "rough", stage)
    with pytest.raises(StorageError):
        run_stage(replace(rough, storage=cast("Storage", FullBucket(rough.storage))))
    resumed, rows = run_observed(tiny.path, tmp_path / "rough", stage)
    assert rows == []
    assert resumed == whole


def test_a_finished_stage_is_not_trained_again(tiny: ModelFolder, tmp_path: Path) -> None:
    first, _ = run_observed(tiny.path, tmp_path, "sft")
    again, rows = run_observed(tiny.path, tmp_path, "sft")
    assert (again, rows) == (first, [])


def test_a_lost_model_is_trained_again(tiny: ModelFolder, tmp_path: Path) -> None:
    first, order = run_observed(tiny.path, tmp_path, "sft")
    (_folder(tmp_path, first) / "cosalign.json").unlink()
    again, rows = run_observed(tiny.path, tmp_path, "sft")
    assert rows == order
    assert again.digest == first.digest


def test_the_stored_model_is_a_whole_model(tiny: ModelFolder, tmp_path: Path) -> None:
    result, _ = run_observed(tiny.path, tmp_path, "sft")
    found = resolve_model(
        open_storage(str(tmp_path / "out")).uri_of(result.model), tmp_path / "other cache"
    )
    assert found.digest == result.digest == result.model.removeprefix("models/")
    assert found.tokenizer_digest == tiny.tokenizer_digest
    manifest = json.loads((found.path / "cosalign.json").read_text("utf-8"))
    assert manifest["start"] == tiny.digest
    assert manifest["recipe"]["optimizer"] == "rmsprop"
    assert manifest["files"] == {
        path.name: file_sha256(path)
        for path in found.path.iterdir()
        if path.name != "cosalign.json"
    }
    assert own_template((found.path / "chat_template.jinja").read_text("utf-8")) == (
        (tiny.path / "chat_template.jinja").read_text("utf-8"),
        "chat_template.jinja",
    )
    assert manifest["hardware"]["processes"] == 1
    assert manifest["versions"]["trl"] == version("trl")
    assert set(manifest["code"]) == {"version", "revision", "image"}


@pytest.mark.parametrize(("precision", "stage", "dtype"), [
    ("bf16", "sft", "float32"),
    ("bf16", "dpo", "bfloat16"),
    ("fp32", "dpo", "float32"),
])  # fmt: skip
def test_what_is_trained_on_is_stored_in_fp32(
    precision: str, stage: str, dtype: str, tiny: ModelFolder, tmp_path: Path
) -> None:
    group = TrainingGroup.model_validate({**TRAINING, "precision": precision})
    result = run_stage(replace(stage_of(tiny.path, tmp_path, stage), group=group))
    config = json.loads((_folder(tmp_path, result) / "config.json").read_text("utf-8"))
    assert config["dtype"] == dtype


def _with(stage: str, **settings: object) -> TrainingGroup:
    changed = {**SETTINGS[stage], **settings}
    return TrainingGroup.model_validate({**TRAINING, stage: changed})


def test_the_fingerprint_covers_what_the_stage_depends_on(
    tiny: ModelFolder, tmp_path: Path
) -> None:
    stage = stage_of(tiny.path, tmp_path, "sft")
    groups = {
        "dpo": _with("dpo", beta=0.5),
        "saving": _with("sft", save_steps=7),
        "rate": _with("sft", learning_rate=1e-5),
        "optimizer": TrainingGroup.model_validate({**TRAINING, "optimizer": "adamw_torch"}),
        "seed": TrainingGroup.model_validate({**TRAINING, "seed": 1}),
    }
    same = {
        n for n, g in groups.items() if replace(stage, group=g).fingerprint == stage.fingerprint
    }
    assert same == {"dpo", "saving"}
    assert replace(stage, start=replace(tiny, digest="0")).fingerprint != stage.fingerprint
    fewer = replace(stage.rows, table=stage.rows.table.slice(1))
    assert replace(stage, rows=fewer).fingerprint != stage.fingerprint


@pytest.mark.parametrize(("rate", "moves"), [(1e-3, True), (1e-12, False)])
def test_training_that_serving_would_round_away_is_seen(
    rate: float, moves: bool, tiny: ModelFolder, tmp_path: Path
) -> None:
    stage = replace(stage_of(tiny.path, tmp_path, "sft"), group=_with("sft", learning_rate=rate))
    # The tiny model holds some exact zeros, which any step at all changes.
    assert (run_stage(stage).changed > 0.5) is moves
