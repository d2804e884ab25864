"""What every storage holds, asked of each of them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cosalign.domain.errors import DataError, StorageError
from cosalign.store.storage import (
    GenerationMismatch,
    Storage,
    inside,
    list_uris,
    local_file,
    open_storage,
    read_uri,
    write_uri,
)
from cosalign.store.storage_clock import storage_time


def tree_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_written_is_read(storage: Storage) -> None:
    data = bytes(range(256)) * 5000
    storage.write_bytes("a/b c/ø.bin", data)
    assert storage.read_bytes("a/b c/ø.bin") == data


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.write_bytes("empty", b"")
    assert storage.read_bytes("empty") == b""
    stat = storage.stat("empty")
    assert stat is not None
    assert stat.size == 0


def test_writing_again_replaces(storage: Storage) -> None:
    storage.write_bytes("a", b"a long first content")
    storage.write_bytes("a", b"short")
    assert storage.read_bytes("a") == b"short"


def test_a_missing_object_is_named(storage: Storage) -> None:
    with pytest.raises(DataError, match=r"x/missing: no such (file|object)"):
        storage.read_bytes("x/missing")
    assert storage.stat("x/missing") is None


def test_stat_tells_size_and_the_generation_that_write_gave(storage: Storage) -> None:
    first = storage.write_bytes("a", b"12345")
    stat = storage.stat("a")
    assert stat is not None
    assert (stat.path, stat.size, stat.generation) == ("a", 5, first)
    second = storage.write_bytes("a", b"67890")
    assert second != first
    assert (found := storage.stat("a")) is not None
    assert found.generation == second


def test_times_are_the_storages_own_and_move_on(storage: Storage) -> None:
    before = storage_time(storage, "clock")
    storage.write_bytes("a", b"1")
    stat = storage.stat("a")
    assert stat is not None
    assert [found.updated for found in storage.list("")] == [stat.updated]
    assert before <= stat.updated <= storage_time(storage, "clock")
    assert storage.list("clock") == []


def test_a_list_is_recursive_sorted_and_bounded_by_folders(storage: Storage) -> None:
    for path in ("b/2", "b/10", "b/c/d", "bc/x", "a"):
        storage.write_bytes(path, path.encode())
    assert [(s.path, s.size) for s in storage.list("b")] == [("b/10", 4), ("b/2", 3), ("b/c/d", 5)]
    assert [s.path for s in storage.list("")] == ["a", "b/10", "b/2", "b/c/d", "bc/x"]
    assert storage.list("b/") == storage.list("b")
    assert storage.list("nothing/here") == []


def test_objects_named_like_lock_files_are_listed(storage: Storage) -> None:
    storage.write_bytes("poetry.lock", b"x", if_generation=0)
    assert [s.path for s in storage.list("")] == ["poetry.lock"]


def test_a_deleted_object_is_gone_and_may_be_deleted_again(storage: Storage) -> None:
    storage.write_bytes("a", b"x")
    storage.delete("a")
    assert storage.stat("a") is None
    assert storage.list("") == []
    storage.delete("a")
    storage.delete("never/there")


def test_generation_zero_means_that_it_must_not_exist(storage: Storage) -> None:
    storage.write_bytes("a", b"first", if_generation=0)
    with pytest.raises(GenerationMismatch, match="a was changed by another writer"):
        storage.write_bytes("a", b"second", if_generation=0)
    assert storage.read_bytes("a") == b"first"


def test_a_deleted_object_may_be_made_anew_under_generation_zero(storage: Storage) -> None:
    storage.write_bytes("a", b"first", if_generation=0)
    storage.delete("a")
    storage.write_bytes("a", b"second", if_generation=0)
    assert storage.read_bytes("a") == b"second"


def test_a_stale_generation_is_refused_and_the_present_one_accepted(storage: Storage) -> None:
    first = storage.write_bytes("a", b"first")
    second = storage.write_bytes("a", b"second", if_generation=first)
    with pytest.raises(GenerationMismatch) as problem:
        storage.write_bytes("a", b"third", if_generation=first)
    assert problem.value.exit_code == 75
    assert storage.read_bytes("a") == b"second"
    storage.write_bytes("a", b"third", if_generation=second)
    assert storage.read_bytes("a") == b"third"


def test_a_generation_demanded_of_a_missing_object_is_refused(storage: Storage) -> None:
    with pytest.raises(GenerationMismatch):
        storage.write_bytes("a", b"x", if_generation=12345)
    assert storage.stat("a") is None


def test_of_racing_threads_exactly_one_wins(storage: Storage) -> None:
    start, outcomes = threading.Barrier(6), list[str]()

    def race(name: str) -> None:
        start.wait()
        try:
            storage.write_bytes("prize", name.encode(), if_generation=0)
            outcomes.append(name)
        except GenerationMismatch:
            outcomes.append("lost")

    threads = [threading.Thread(target=race, args=(f"w{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if outcome != "lost"]
    assert len(outcomes) == 6
    assert len(winners) == 1
    assert storage.read_bytes("prize") == winners[0].encode()


def test_readers_see_the_old_or_the_new_object_and_nothing_between(storage: Storage) -> None:
    contents = [bytes([i]) * 300_000 for i in range(8)]
    storage.write_bytes("a", contents[0])
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(storage.read_bytes("a"))

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        storage.write_bytes("a", content)
    done.set()
    reader.join()
    assert seen
    assert set(seen) <= set(contents)


def test_a_file_goes_up_and_comes_down(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "up", tmp_path / "new" / "folder" / "down"
    source.write_bytes(b"x" * 100_000)
    storage.upload(source, "a/file")
    storage.download("a/file", target)
    assert storage.read_bytes("a/file") == target.read_bytes() == source.read_bytes()
    assert tree_of(target.parent) == {"down": source.read_bytes()}


def test_downloading_what_is_missing_leaves_nothing_behind(
    storage: Storage, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no such"):
        storage.download("missing", tmp_path / "down" / "file")
    assert tree_of(tmp_path / "down") == {}


def test_uploading_what_is_missing_is_refused(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file"):
        storage.upload(tmp_path / "nowhere", "a")
    assert storage.list("") == []


def test_trees_go_up_and_come_down(storage: Storage, tmp_path: Path) -> None:
    files = {f"part-{i}/file {j}.bin": bytes([i, j]) * 100 for i in range(5) for j in range(4)}
    for name, data in files.items():
        path = tmp_path / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    storage.upload_tree(tmp_path / "up", "models/x")
    assert {s.path for s in storage.list("models/x")} == {f"models/x/{name}" for name in files}
    storage.download_tree("models/x", tmp_path / "down")
    assert tree_of(tmp_path / "down") == files


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/outside"])
def test_no_path_leaves_the_root(storage: Storage, path: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for attempt in (
        lambda: storage.write_bytes(path, b"x"),
        lambda: storage.read_bytes(path),
        lambda: storage.stat(path),
        lambda: storage.delete(path),
        lambda: storage.list(path),
        lambda: storage.upload(source, path),
        lambda: storage.download(path, tmp_path / "target"),
        lambda: storage.uri_of(path),
    ):
        with pytest.raises(StorageError, match="leaves the storage root"):
            attempt()


@pytest.mark.parametrize("path", ["../x", "a/../x", "/etc/x"])
def test_a_path_is_checked_before_it_is_joined(path: str) -> None:
    with pytest.raises(StorageError, match="leaves the storage root /here"):
        inside(path, "/here")


def test_dots_in_names_are_no_escape(storage: Storage) -> None:
    storage.write_bytes("a..b/..c", b"x")
    assert storage.read_bytes("a..b/..c") == b"x"


def test_the_root_and_its_objects_have_addresses(storage: Storage) -> None:
    storage.write_bytes("a b/ø.txt", b"beer")
    assert open_storage(storage.uri).read_bytes("a b/ø.txt") == b"beer"
    assert read_uri(storage.uri_of("a b/ø.txt")) == b"beer"
    write_uri(storage.uri_of("a b/ø.txt"), b"wine")
    assert storage.read_bytes("a b/ø.txt") == b"wine"


def test_a_folders_addresses_by_suffix(storage: Storage) -> None:
    for name in ("x/a b.yaml", "x/deep/ø.yaml", "x/c.json"):
        storage.write_bytes(name, name.encode())
    found = list_uris(storage.uri_of("x"), ".yaml")
    assert [read_uri(uri).decode() for uri in found] == ["x/a b.yaml", "x/deep/ø.yaml"]
    assert list_uris(found[0], ".yaml") == [found[0]]


def test_two_roots_in_one_place_see_only_their_own(storage: Storage) -> None:
    one, other = open_storage(storage.uri_of("one")), open_storage(storage.uri_of("one-more"))
    one.write_bytes("a", b"1")
    other.write_bytes("a", b"2")
    assert [s.path for s in one.list("")] == ["a"]
    assert (one.read_bytes("a"), other.read_bytes("a")) == (b"1", b"2")


def test_a_local_file_stands_for_any_object(storage: Storage, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    storage.write_bytes("in/prompts.csv", b"one")
    uri = storage.uri_of("in/prompts.csv")
    first = local_file(uri, cache)
    assert (first.name, first.read_bytes()) == ("prompts.csv", b"one")
    # An unchanged object is not fetched again, a changed one is.
    assert local_file(uri, cache) == first
    storage.write_bytes("in/prompts.csv", b"another")
    assert local_file(uri, cache).read_bytes() == b"another"
    with pytest.raises(DataError, match=r"none\.csv: no such"):
        local_file(storage.uri_of("in/none.csv"), cache)
