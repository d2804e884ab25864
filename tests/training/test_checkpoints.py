"""Checkpoints as a crash, a full disk or a stranger would leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.training.training_world import remote_storage

from cosalign.store.storage import open_storage
from cosalign.training.checkpoints import COMPLETE, CheckpointStore

PREFIX = "training/sft/0/checkpoints"


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    return _store(tmp_path, request.param, "first")


def _store(root: Path, kind: str, machine: str) -> CheckpointStore:
    folder = root / "storage"
    storage = remote_storage(folder) if kind == "remote" else open_storage(str(folder))
    return CheckpointStore(storage, PREFIX, root / machine)


def _write(store: CheckpointStore, step: int) -> Path:
    folder = store.folder / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"state of %d" % step)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def _stored(tmp_path: Path, step: int) -> Path:
    return tmp_path / "storage" / PREFIX / f"checkpoint-{step}"


def _names(found: Path | None) -> str | None:
    return None if found is None else found.name


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_another_machine_finds_the_newest(kind: str, tmp_path: Path) -> None:
    first = _store(tmp_path, kind, "first")
    for step in (2, 4):
        _write(first, step)
        first.publish(step)
    found = _store(tmp_path, kind, "second").newest()
    assert found is not None
    assert (found.name, (found / "optimizer.pt").read_bytes()) == ("checkpoint-4", b"state of 4")


def test_without_checkpoints_there_is_none(store: CheckpointStore) -> None:
    assert store.newest() is None


def test_only_the_last_two_are_kept(store: CheckpointStore, tmp_path: Path) -> None:
    for step in (2, 4, 10):
        _write(store, step)
        store.publish(step)
    kept = {p.name for p in (tmp_path / "storage" / PREFIX).iterdir() if any(p.iterdir())}
    assert kept == {"checkpoint-4", "checkpoint-10"}


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "optimizer.pt").write_bytes(b"state of 5"),
        lambda folder: (folder / "optimizer.pt").unlink(),
        lambda folder: (folder / COMPLETE).unlink(),
        lambda folder: (folder / COMPLETE).write_bytes(b'{"step": 4, "fi'),
        lambda folder: (folder / "more.bin").write_bytes(b"a stranger's pickle"),
        lambda folder: (folder / COMPLETE).write_bytes(b'{"step": 2, "files": {}}'),
    ],
    ids=["altered", "lost", "unfinished", "torn marker", "added", "foreign marker"],
)
def test_a_harmed_checkpoint_is_passed_over_for_an_older_one(
    harm: Any, store: CheckpointStore, tmp_path: Path
) -> None:
    for step in (2, 4):
        _write(store, step)
        store.publish(step)
    harm(_stored(tmp_path, 4))
    assert _names(store.newest()) == "checkpoint-2"
    assert not (store.folder / "checkpoint-4").exists()
    assert not (_stored(tmp_path, 4) / "optimizer.pt").exists()


def test_a_checkpoint_written_but_not_published_does_not_count(store: CheckpointStore) -> None:
    _write(store, 2)
    store.publish(2)
    _write(store, 4)
    assert _names(store.newest()) == "checkpoint-2"


def test_clear_leaves_nothing(store: CheckpointStore, tmp_path: Path) -> None:
    _write(store, 2)
    store.publish(2)
    store.clear()
    assert store.newest() is None
    assert not [p for p in (tmp_path / "storage").rglob("*") if p.is_file()]
