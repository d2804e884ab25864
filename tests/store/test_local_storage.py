from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from cosalign.domain.errors import StorageError
from cosalign.store.storage import GenerationMismatch, open_storage, read_uri, write_uri


def race(root: str, name: str, rounds: int, start: Barrier) -> None:
    storage = open_storage(root)
    for i in range(rounds):
        start.wait()
        try:
            storage.write_bytes(f"prize-{i}", name.encode(), if_generation=0)
            storage.write_bytes(f"won/{i}/{name}", b"")
        except GenerationMismatch:
            continue


def test_of_racing_processes_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    names = [f"p{i}" for i in range(4)]
    racers = [context.Process(target=race, args=(str(tmp_path), n, 20, start)) for n in names]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0] * 4
    storage = open_storage(str(tmp_path))
    for i in range(20):
        (won,) = storage.list(f"won/{i}")
        assert storage.read_bytes(f"prize-{i}").decode() == won.path.rpartition("/")[2]


def increment(root: str, rounds: int) -> None:
    storage = open_storage(root)
    for _ in range(rounds):
        while True:
            stat = storage.stat("count")
            assert stat is not None
            now = int(storage.read_bytes("count"))
            try:
                storage.write_bytes("count", b"%d" % (now + 1), if_generation=stat.generation)
                break
            except GenerationMismatch:
                continue


def test_compare_and_swap_loses_no_increment(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_bytes("count", b"0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=increment, args=(str(tmp_path), 25)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert storage.read_bytes("count") == b"100"


def test_generations_follow_content_alone(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    first = storage.write_bytes("a", b"x")
    assert storage.write_bytes("b", b"x") == first
    assert storage.write_bytes("a", b"y") != first
    assert storage.write_bytes("a", b"x") == first


@pytest.mark.parametrize("address", ["{}", "file://{}", "file://localhost{}"])
def test_a_folder_has_several_addresses(address: str, tmp_path: Path) -> None:
    storage = open_storage(address.format(tmp_path))
    storage.write_bytes("a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert storage.uri == tmp_path.as_uri()
    assert storage.local_path("a") == tmp_path / "a"


def test_relative_and_home_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_storage("x/y").write_bytes("a", b"relative")
    open_storage("~/z").write_bytes("a", b"home")
    assert read_uri("x/y/a") == (tmp_path / "x/y/a").read_bytes() == b"relative"
    assert read_uri("~/z/a") == (tmp_path / "home/z/a").read_bytes() == b"home"
    write_uri("plain", b"here")
    assert (tmp_path / "plain").read_bytes() == b"here"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://bucket/x", "scheme 's3' is not known"),
        ("file://otherhost/x", "names no host"),
        ("gs:///x", "no bucket"),
        ("", "storage address is empty"),
    ],
)
def test_addresses_that_are_none(uri: str, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        open_storage(uri)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    storage = open_storage(str(tmp_path / "file"))
    for generation in (None, 0):
        with pytest.raises(StorageError, match="file/a") as problem:
            storage.write_bytes("a", b"x", if_generation=generation)
        assert problem.value.exit_code == 2
    assert storage.list("") == []


def test_a_folder_in_which_nothing_can_be_made() -> None:
    with pytest.raises(StorageError, match=r"/proc/cosalign-out/a"):
        open_storage("/proc/cosalign-out").write_bytes("a", b"x")


def test_a_folder_where_the_object_should_be(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_bytes("a/b", b"x")
    with pytest.raises(StorageError, match="Is a directory"):
        storage.write_bytes("a", b"y")
    with pytest.raises(StorageError, match="Is a directory"):
        storage.read_bytes("a")
    assert [s.path for s in storage.list("")] == ["a/b"]


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    folder.mkdir()
    (folder / "old").write_bytes(b"x")
    folder.chmod(0o500)
    made = os.getuid() != 0
    if not made:
        done = subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False)
        made = done.returncode == 0
    if not made:
        pytest.skip("neither modes nor chattr make a folder read-only here")
    yield folder
    if os.getuid() == 0:
        subprocess.run(["chattr", "-i", str(folder)], check=True)
    folder.chmod(0o700)


def test_a_read_only_folder_is_named_with_what_to_do(read_only: Path) -> None:
    storage = open_storage(str(read_only))
    for generation in (None, 0):
        with pytest.raises(StorageError, match=r"no permission .*choose another folder"):
            storage.write_bytes("a", b"x", if_generation=generation)
    with pytest.raises(StorageError, match="no permission"):
        storage.delete("old")
    assert storage.read_bytes("old") == b"x"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(
    small_disk: Path, tmp_path: Path
) -> None:
    storage = open_storage(str(small_disk))
    storage.write_bytes("a", b"old")
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    with pytest.raises(StorageError, match="the disk is full; free space") as problem:
        storage.write_bytes("a", bytes(1 << 20))
    assert problem.value.exit_code == 2
    with pytest.raises(StorageError, match="the disk is full"):
        storage.upload(tmp_path / "big", "b")
    assert storage.read_bytes("a") == b"old"
    assert [path.name for path in small_disk.iterdir()] == ["a"]
    storage.write_bytes("a", b"new")
    assert storage.read_bytes("a") == b"new"


def test_what_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write_bytes("x/a", b"done", if_generation=0)
    (tmp_path / "x" / ".writing-k3j2").write_bytes(b"half")
    assert [s.path for s in storage.list("")] == ["x/a"]


def test_a_lister_survives_files_that_vanish(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    context = multiprocessing.get_context("spawn")
    churner = context.Process(target=churn, args=(str(tmp_path),))
    churner.start()
    while churner.is_alive():
        assert {s.path for s in storage.list("parts")} <= {f"parts/{i}" for i in range(40)}
    churner.join(120)
    assert churner.exitcode == 0


def churn(root: str) -> None:
    folder = Path(root) / "parts"
    folder.mkdir(exist_ok=True)
    for _ in range(60):
        for i in range(40):
            (folder / f"{i}").touch()
        for i in range(40):
            (folder / f"{i}").unlink()
