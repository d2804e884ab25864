"""The pointer's promises: one winner a number, nothing lost, and a crash at any point heals."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest

from cosalign.domain.errors import DataError
from cosalign.store.model_pointer import (
    Choice,
    Entry,
    ModelPointer,
    first_promotion,
    rival_of,
    rollback_target,
)
from cosalign.store.storage import GenerationMismatch, Storage, open_storage

OpenStorage = Callable[[], Storage]


@pytest.fixture(params=["file", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "file" else request.getfixturevalue("gcs_root")


@pytest.fixture
def pointer(root: str) -> ModelPointer:
    return ModelPointer(open_storage(root), "main")


def choice(name: str, **more: object) -> Choice:
    plain = {"action": "promote", "uri": f"double:{name}", "digest": name, "by": "ada", "at": "now"}
    return Choice.model_validate({**plain, **more})


def digests(pointer: ModelPointer) -> list[str]:
    return [entry.digest for entry in pointer.history()]


def test_nothing_is_current_until_something_is_promoted(pointer: ModelPointer) -> None:
    assert pointer.current() is None
    assert pointer.history() == []
    first = pointer.record(choice("a"), 0)
    assert pointer.current() == first
    assert (first.number, first.previous) == (1, None)
    second = pointer.record(choice("b", reason="better"), 1)
    assert pointer.current() == second
    assert pointer.history() == [first, second]


def test_names_have_pointers_of_their_own(root: str) -> None:
    storage = open_storage(root)
    ModelPointer(storage, "main").record(choice("a"), 0)
    assert ModelPointer(storage, "eu").current() is None


def test_who_chose_against_an_old_state_is_refused_and_leaves_no_trace(
    pointer: ModelPointer,
) -> None:
    pointer.record(choice("a"), 0)
    with pytest.raises(GenerationMismatch, match="another promotion or rollback came first"):
        pointer.record(choice("b"), 0)
    assert digests(pointer) == ["a"]


def test_a_crash_between_entry_and_pointer_is_healed_by_the_next_writer(
    pointer: ModelPointer,
) -> None:
    pointer.record(choice("a"), 0)
    pointer_as_it_was = pointer.storage.read_bytes("models/main/current.json")
    pointer.record(choice("b"), 1)
    pointer.storage.write_bytes("models/main/current.json", pointer_as_it_was)
    # Readers of the pointer still see the old model; the history knows already.
    assert [e.digest for e in (pointer.current(), pointer.head()) if e] == ["a", "b"]
    with pytest.raises(GenerationMismatch):
        pointer.record(choice("c"), 1)
    assert (pointer.record(choice("c"), 2).number, digests(pointer)) == (3, ["a", "b", "c"])


def test_a_crash_before_the_first_pointer_is_healed_too(pointer: ModelPointer) -> None:
    pointer.record(choice("a"), 0)
    pointer.storage.delete("models/main/current.json")
    assert pointer.current() is None
    healed = pointer.settle()
    assert healed == pointer.current()
    assert healed is not None
    assert healed.digest == "a"


def test_a_writer_that_slept_does_not_move_the_pointer_back(pointer: ModelPointer) -> None:
    class Sleeper:
        """Lets another writer finish between this writer's entry and its swing."""

        def __init__(self, storage: Storage) -> None:
            self._storage = storage

        def __getattr__(self, name: str) -> object:
            return getattr(self._storage, name)

        def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
            made = self._storage.write_bytes(path, data, if_generation=if_generation)
            if path.endswith("00000001.json"):
                other = ModelPointer(self._storage, "main")
                other.record(choice("b"), 1)
            return made

    sleeper: Storage = Sleeper(pointer.storage)  # type: ignore[assignment]
    ModelPointer(sleeper, "main").record(choice("a"), 0)
    now = pointer.current()
    assert now is not None
    assert (now.digest, digests(pointer)) == ("b", ["a", "b"])


def test_a_write_whose_answer_was_lost_is_known_again(pointer: ModelPointer) -> None:
    class Deaf:
        """Writes an entry, and then reports the race that a client's own retry would lose."""

        def __init__(self, storage: Storage) -> None:
            self._storage = storage

        def __getattr__(self, name: str) -> object:
            return getattr(self._storage, name)

        def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
            made = self._storage.write_bytes(path, data, if_generation=if_generation)
            if "history" in path:
                raise GenerationMismatch("412 on the retry")
            return made

    deaf: Storage = Deaf(pointer.storage)  # type: ignore[assignment]
    assert ModelPointer(deaf, "main").record(choice("a"), 0) == pointer.current()


def test_a_pointer_that_was_tampered_with_is_noticed(pointer: ModelPointer) -> None:
    entry = pointer.record(choice("a"), 0)
    other = entry.model_copy(update={"digest": "evil"}).model_dump_json()
    pointer.storage.write_bytes("models/main/current.json", other.encode())
    with pytest.raises(DataError, match=r"current.json is not entry 1"):
        pointer.history()


@pytest.mark.parametrize("harm", ["altered", "taken out", "torn"])
def test_a_history_that_was_tampered_with_is_noticed(pointer: ModelPointer, harm: str) -> None:
    for number, name in enumerate("abc"):
        pointer.record(choice(name), number)
    path = "models/main/history/00000002.json"
    entry = json.loads(pointer.storage.read_bytes(path))
    if harm == "altered":
        pointer.storage.write_bytes(path, json.dumps({**entry, "by": "eve"}).encode())
    elif harm == "torn":
        pointer.storage.write_bytes(path, b'{"number": 2, ')
    else:
        pointer.storage.delete(path)
    with pytest.raises(DataError, match=r"0000000[23]"):
        pointer.history()


def _race(root: str, name: str, rounds: int) -> None:
    """Promotes again and again, each time against what is current; losers look again."""
    pointer = ModelPointer(open_storage(root), "main")
    done = 0
    while done < rounds:
        head = pointer.settle()
        try:
            pointer.record(choice(f"{name}{done}"), head.number if head else 0)
            done += 1
        except GenerationMismatch:
            continue


def test_of_racing_writers_one_wins_each_number_and_none_is_lost(root: str) -> None:
    rounds, names = 5, ("a", "b")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_race, args=(root, name, rounds)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    pointer = ModelPointer(open_storage(root), "main")
    history = pointer.history()
    assert [entry.number for entry in history] == list(range(1, 2 * rounds + 1))
    wanted = {f"{name}{i}" for name in names for i in range(rounds)}
    assert {entry.digest for entry in history} == wanted
    for name in names:
        own = [entry.digest for entry in history if entry.digest.startswith(name)]
        assert own == [f"{name}{i}" for i in range(rounds)]
    assert pointer.current() == history[-1]


def entries(*names: str) -> list[Entry]:
    return [
        Entry(**choice(name).model_dump(), number=i, nonce="n", previous=None)
        for i, name in enumerate(names, 1)
    ]


@pytest.mark.parametrize(
    ("history", "digest", "rival"),
    [
        ("", "a", None),
        ("a", "b", "a"),
        ("a", "a", None),  # evaluated again after it was promoted: as the first time
        ("ab", "b", "a"),
        ("aba", "b", "a"),  # rolled back from
        ("abac", "a", None),
        ("abc", "d", "c"),
    ],
)
def test_a_model_is_held_against_what_it_replaces_or_replaced(
    history: str, digest: str, rival: str | None
) -> None:
    found = rival_of(entries(*history), digest)
    assert (found.digest if found else None) == rival


@pytest.mark.parametrize(
    ("history", "number", "target"),
    [("ab", None, 1), ("abc", None, 2), ("abcb", None, 1), ("abc", 1, 1), ("abca", 2, 2)],
)
def test_a_rollback_walks_back_through_the_models(
    history: str, number: int | None, target: int
) -> None:
    assert rollback_target(entries(*history), number).number == target


@pytest.mark.parametrize(("history", "number"), [("", None), ("a", None), ("ab", 3), ("ab", 0)])
def test_there_has_to_be_something_to_roll_back_to(history: str, number: int | None) -> None:
    with pytest.raises(DataError):
        rollback_target(entries(*history), number)


def test_the_first_promotion_is_the_one_that_made_it_current() -> None:
    found = first_promotion(entries("a", "b", "a"), "a")
    assert found is not None
    assert found.number == 1
    assert first_promotion(entries("a"), "z") is None
