"""What ended for good ends the next attempt at once; what may pass, and other tasks, go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runtime.task_world import TaskWorld, Tasting

from cosalign.domain.errors import CosalignError, DataError, StorageUnavailable
from cosalign.runtime.permanent_failure import permanent_failures
from cosalign.runtime.shared_step import prepared_main
from cosalign.store.storage import Storage, open_storage

ADDRESS = "gs://bucket/root/cosalign/run-7/tasting/paid"


@pytest.fixture
def world(tmp_path: Path) -> TaskWorld:
    return TaskWorld(tmp_path)


@pytest.fixture
def storage(world: TaskWorld) -> Storage:
    return open_storage(str(world.root / "out"))


def attempt(world: TaskWorld, step: Tasting, uri: str = ADDRESS) -> int:
    return prepared_main(step, world.words("share", uri=uri, parameters={"share": "0/1"}))


def test_the_next_attempt_ends_at_once_with_the_same_reason(
    world: TaskWorld, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Tasting(failure=DataError("the glasses are broken"))
    assert attempt(world, step) == 2
    step.failure = None
    assert attempt(world, step) == 2
    assert step.done == ["share 0/1"]
    said = capsys.readouterr().err
    assert "an earlier attempt ended for good" in said
    assert said.count("the glasses are broken") == 2
    (found,) = permanent_failures(storage, "/run-7/")
    assert (found.address, found.reason) == (ADDRESS, "the glasses are broken")
    assert permanent_failures(storage, "/run-8/") == []


@pytest.mark.parametrize(
    ("failure", "code"), [(StorageUnavailable("no answer"), 75), (CosalignError("impossible"), 70)]
)
def test_what_may_pass_leaves_no_marker(
    failure: CosalignError, code: int, world: TaskWorld
) -> None:
    step = Tasting(failure=failure)
    assert attempt(world, step) == code
    step.failure = None
    assert attempt(world, step) == 0
    assert step.done == ["share 0/1"] * 2


def test_another_run_starts_without_a_marker(world: TaskWorld) -> None:
    step = Tasting(failure=DataError("the glasses are broken"))
    assert attempt(world, step) == 2
    step.failure = None
    assert attempt(world, step, ADDRESS.replace("run-7", "run-8")) == 0


def test_a_local_run_may_be_mended_and_started_again(world: TaskWorld, storage: Storage) -> None:
    step = Tasting(failure=DataError("the glasses are broken"))
    local = str(world.root / "task/paid")
    assert attempt(world, step, local) == 2
    step.failure = None
    assert attempt(world, step, local) == 0
    assert permanent_failures(storage, "") == []
