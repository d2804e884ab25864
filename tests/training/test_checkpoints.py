"""Checkpoints as a crash, a full disk or a stranger would leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.training_world import remote_storage

from cosalign.domain.errors import EXIT_RETRY, CosalignError, StorageUnavailable
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
    folder.mkdir(parents=True, exist_ok=True)
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


def _publish(store: CheckpointStore, *steps: int, best: dict[int, int] | None = None) -> None:
    for step in steps:
        _write(store, step)
        store.publish(step, (best or {}).get(step))


def _kept(tmp_path: Path) -> set[str]:
    folder = tmp_path / "storage" / PREFIX
    return {p.name for p in folder.iterdir() if (p / COMPLETE).is_file()}


def test_the_best_is_kept_beside_the_last(store: CheckpointStore, tmp_path: Path) -> None:
    _publish(store, 2, 4, 6, 8, 10, best={2: 2, 4: 4, 6: 4, 8: 4, 10: 4})
    assert _kept(tmp_path) == {"checkpoint-4", "checkpoint-8", "checkpoint-10"}
    assert (store.fetch(4) / "optimizer.pt").read_bytes() == b"state of 4"


def test_the_best_of_an_older_kept_one_is_kept_too(store: CheckpointStore, tmp_path: Path) -> None:
    """The newest may turn out to be torn; the one before must then be whole, best and all."""
    _publish(store, 2, 4, 6, best={2: 2, 4: 2, 6: 6})
    assert _kept(tmp_path) == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    (_stored(tmp_path, 6) / "optimizer.pt").write_bytes(b"torn")
    assert _names(store.newest()) == "checkpoint-4"
    _publish(store, 6, best={6: 6})
    _publish(store, 8, best={8: 6})
    assert _kept(tmp_path) == {"checkpoint-6", "checkpoint-8"}


@pytest.mark.parametrize("lost", [COMPLETE, "model.safetensors"])
def test_a_checkpoint_whose_best_is_lost_is_passed_over(
    lost: str, store: CheckpointStore, tmp_path: Path
) -> None:
    """It points at a best model without its files: what it would end in is another result."""
    _publish(store, 2, 4, 6, best={2: 2, 4: 4, 6: 4})
    (_stored(tmp_path, 4) / lost).unlink()
    assert store.newest() is None
    _publish(store, 2, 4, 6, best={2: 2, 4: 4, 6: 4})
    assert _names(store.newest()) == "checkpoint-6"


def test_a_best_that_is_not_what_it_was_is_no_result(
    store: CheckpointStore, tmp_path: Path
) -> None:
    _publish(store, 2, 4, best={2: 2, 4: 2})
    (_stored(tmp_path, 2) / "model.safetensors").write_bytes(b"a stranger's")
    with pytest.raises(StorageUnavailable, match="step 2") as refusal:
        store.fetch(2)
    assert refusal.value.exit_code == EXIT_RETRY
    # The retry starts from before it.
    assert store.newest() is None


def test_how_many_are_kept_is_a_setting(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "storage"))
    store = CheckpointStore(storage, PREFIX, tmp_path / "work", kept=1)
    _publish(store, 2, 4, 6)
    assert _kept(tmp_path) == {"checkpoint-6"}


def test_an_upload_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    """Some files are there, the marker is not; they are dropped with the next whole one."""
    store = _store(tmp_path, "remote", "first")
    _publish(store, 2)
    half = _stored(tmp_path, 4)
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"wei")
    (half / ".writing-optimizer").write_bytes(b"sta")
    assert _names(_store(tmp_path, "remote", "second").newest()) == "checkpoint-2"
    half.mkdir(parents=True, exist_ok=True)
    (half / "model.safetensors").write_bytes(b"wei")
    _publish(store, 6)
    assert not (half / "model.safetensors").exists()


def test_what_is_being_written_is_left_alone(store: CheckpointStore) -> None:
    """A checkpoint is published beside the training, which may be writing the next one."""
    _write(store, 2)
    writing = _write(store, 4)
    store.publish(2)
    assert (writing / "optimizer.pt").read_bytes() == b"state of 4"


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_two_writers_leave_no_mixture(kind: str, tmp_path: Path) -> None:
    """A pod taken for dead writes on beside its successor: nothing mixed is believed."""
    one, other = _store(tmp_path, kind, "one"), _store(tmp_path, kind, "other")
    _publish(one, 2, 4)
    # The other has written the same step, with other bytes, and died before its marker.
    (_stored(tmp_path, 4) / "optimizer.pt").write_bytes(b"state of 4, as another wrote it")
    assert _names(other.newest()) == "checkpoint-2"
    # Or it came to its end: then its files are the ones, and the marker is theirs.
    _publish(one, 4)
    folder = other.folder / "checkpoint-4"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "optimizer.pt").write_bytes(b"state of 4, as another wrote it")
    (folder / "model.safetensors").write_bytes(b"weights")
    other.publish(4)
    found = _store(tmp_path, kind, "third").newest()
    assert found is not None
    assert (found / "optimizer.pt").read_bytes() == b"state of 4, as another wrote it"


def _two_nodes(tmp_path: Path, step: int, second: bytes = b"shard 1") -> CheckpointStore:
    """Two machines whose ranks wrote a checkpoint; gives the store of a third."""
    storage = remote_storage(tmp_path / "storage")
    parts: list[dict[str, str]] = []

    def on_second(work: Callable[[], dict[str, str]]) -> None:
        parts.append(work())

    def on_first(work: Callable[[], dict[str, str]]) -> list[dict[str, str]]:
        return [work(), *parts]

    one = CheckpointStore(storage, PREFIX, tmp_path / "one", together=on_first)
    other = CheckpointStore(storage, PREFIX, tmp_path / "other", together=on_second)
    for store, name, content in ((one, "0", b"shard 0"), (other, "1", second)):
        folder = store.folder / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / f"shard-{name}").write_bytes(content)
        (folder / "both").write_bytes(content[:5] if second == b"shard 1" else content)
    other.publish(step)
    assert not list(other.folder.glob("checkpoint-*"))
    one.publish(step)
    return CheckpointStore(storage, PREFIX, tmp_path / "third")


def test_what_two_nodes_wrote_is_one_checkpoint(tmp_path: Path) -> None:
    found = _two_nodes(tmp_path, 2).newest()
    assert found is not None
    assert {p.name for p in found.iterdir()} == {"shard-0", "shard-1", "both", COMPLETE}


def test_a_checkpoint_without_one_nodes_files_is_passed_over(tmp_path: Path) -> None:
    third = _two_nodes(tmp_path, 2)
    (_stored(tmp_path, 2) / "shard-1").unlink()
    assert third.newest() is None


def test_a_file_that_two_nodes_wrote_otherwise_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CosalignError, match="two nodes wrote a file both"):
        _two_nodes(tmp_path, 2, second=b"another")
    assert not (_stored(tmp_path, 2) / COMPLETE).exists()
