"""The log's promises: one entry a number, nothing lost or forked, and no change goes unseen."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.errors import DataError, StorageError
from cosalign.domain.fingerprint import content_sha256
from cosalign.store.audit_log import AuditEntry, AuditLog, Record, entry_path
from cosalign.store.audit_verification import Anchor, Verification, verify_log
from cosalign.store.storage import GenerationMismatch, Storage, open_storage


@pytest.fixture(params=["file", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "file" else request.getfixturevalue("gcs_root")


@pytest.fixture
def log(root: str) -> AuditLog:
    return AuditLog(open_storage(root))


def subjects(log: AuditLog) -> list[str]:
    return [entry.subject for entry in log.entries()]


def filled(log: AuditLog, count: int = 5) -> AuditLog:
    for number in range(1, count + 1):
        log.append("ConfigAccepted", f"config-{number}", by="ada", digest=f"{number:064x}")
    return log


def faults(found: Verification) -> list[tuple[str, str]]:
    return [(fault.where.rpartition("/")[2], fault.says) for fault in found.faults]


def test_an_empty_log_is_whole(log: AuditLog) -> None:
    assert log.head() is None
    assert subjects(log) == []
    assert verify_log(log.storage) == Verification(0, None, 0, ())


def test_entries_follow_one_another(log: AuditLog) -> None:
    made = [log.append("RunSubmitted", f"run-{i}", by="ada", configs=["a", "b"]) for i in range(9)]
    assert [entry.number for entry in made] == list(range(1, 10))
    assert list(log.entries()) == made
    assert list(log.entries(after=7)) == made[7:]
    assert log.head() == AuditLog(log.storage).head() == made[-1]
    for before, entry in pairwise(made):
        assert entry.previous == content_sha256(log.storage.read_bytes(entry_path(before.number)))
    assert made[0].details == {"configs": ["a", "b"]}
    found = verify_log(log.storage)
    assert (found.entries, found.faults) == (9, ())
    assert found.tip == Anchor(9, content_sha256(log.storage.read_bytes(entry_path(9))))


def test_what_is_recorded_once_stands_there_once(log: AuditLog) -> None:
    assert log.find("Promoted", "main/1") is None
    first = log.append("Promoted", "main", identity="main/1")
    filled(log, 3)
    assert log.append("Promoted", "main", identity="main/1") == first
    assert log.find("Promoted", "main/1") == first
    assert log.append("Promoted", "main", identity="main/2").number == 5
    # Another event of the same identity is another thing.
    assert log.append("RolledBack", "main", identity="main/1").number == 6


class Dying:
    """Storage whose process dies at its n-th write."""

    def __init__(self, storage: Storage, writes: int) -> None:
        self._storage, self._left = storage, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
        if not self._left:
            raise KeyboardInterrupt(path)
        self._left -= 1
        return self._storage.write_bytes(path, data, if_generation=if_generation)


@pytest.mark.parametrize("writes", range(4))
def test_a_writer_that_died_anywhere_is_taken_up_by_the_next(log: AuditLog, writes: int) -> None:
    filled(log, 2)
    dying: Storage = Dying(log.storage, writes)
    with suppress(KeyboardInterrupt):  # With writes enough it lives.
        AuditLog(dying).append("Promoted", "main", identity="main/1")
    other = AuditLog(log.storage)
    other.append("RunEnded", "run-1")
    assert other.append("Promoted", "main", identity="main/1").subject == "main"
    assert sorted(subjects(other)) == ["config-1", "config-2", "main", "run-1"]
    assert verify_log(log.storage).faults == ()


def test_a_tip_that_lags_far_behind_is_only_slower(log: AuditLog) -> None:
    filled(log, 2)
    tip = log.storage.read_bytes("audit/tip.json")
    filled(log, 20)
    log.storage.write_bytes("audit/tip.json", tip)
    assert AuditLog(log.storage).append("RunEnded", "last").number == 23
    log.storage.delete("audit/tip.json")
    assert AuditLog(log.storage).append("RunEnded", "later").number == 24
    assert verify_log(log.storage).faults == ()


def test_a_write_whose_answer_was_lost_is_known_again(log: AuditLog) -> None:
    class Deaf(Dying):
        def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
            made = super().write_bytes(path, data, if_generation=if_generation)
            if "entries" in path:
                raise GenerationMismatch("412 on the retry")
            return made

    deaf: Storage = Deaf(log.storage, 99)
    AuditLog(deaf).append("RunEnded", "run-1")
    assert subjects(log) == ["run-1"]


@pytest.mark.parametrize("refusal", [GenerationMismatch, StorageError])
def test_a_tip_that_cannot_be_written_costs_nothing_but_requests(
    log: AuditLog, refusal: type[Exception]
) -> None:
    class Locked(Dying):
        def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
            if self._storage.stat(path) is not None:
                raise refusal("objects are locked, and never written again")
            return super().write_bytes(path, data, if_generation=if_generation)

    locked: Storage = Locked(log.storage, 99)
    for number in range(5):
        AuditLog(locked).append("RunEnded", f"run-{number}", identity=str(number % 4))
    assert subjects(log) == ["run-0", "run-1", "run-2", "run-3"]


def test_who_may_only_add_goes_on_behind_whoever_was_faster(log: AuditLog) -> None:
    class Adding(Dying):
        """Refuses access to what is there, as a store may where the account cannot replace."""

        def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:
            if path == entry_path(1):
                log.append("RunEnded", "run-1")
            if self._storage.stat(path) is not None:
                raise StorageError(f"{path}: access refused (403)")
            return super().write_bytes(path, data, if_generation=if_generation)

    adding: Storage = Adding(log.storage, 99)
    assert AuditLog(adding).append("Promoted", "main", identity="1").number == 2
    assert subjects(log) == ["run-1", "main"]

    class Refused(Dying):
        def write_bytes(self, path: str, data: bytes, *, if_generation: int | None = None) -> int:  # noqa: ARG002
            raise StorageError(f"{path}: access refused (403)")

    refused: Storage = Refused(log.storage, 99)
    with pytest.raises(StorageError, match="403"):
        AuditLog(refused).append("Promoted", "main")


def batch(*names: str) -> list[Record]:
    return [Record("ConfigApproved", name, identity=name) for name in names]


def test_many_are_recorded_at_once_and_each_once(log: AuditLog) -> None:
    log.append("ConfigApproved", "b", identity="b")
    assert log.append_all([]) == 0
    assert log.append_all(batch("a", "b", "c", "a")) == 2
    assert log.append_all(batch("c", "b", "a")) == 0
    assert AuditLog(log.storage).append_all(batch("d", "a")) == 1
    assert subjects(log) == ["b", "a", "c", "d"]
    assert log.find("ConfigApproved", "c") == list(log.entries())[2]
    assert log.append("ConfigApproved", "d", identity="d").number == 4
    assert verify_log(log.storage).faults == ()


def test_a_batch_that_died_anywhere_is_taken_up_by_the_next(log: AuditLog) -> None:
    filled(log, 2)
    names, writes, died = ("a", "b", "c"), 0, True
    while died:
        dying: Storage = Dying(log.storage, writes)
        died = False
        try:
            AuditLog(dying).append_all(batch(*(f"{name}{writes}" for name in names)))
        except KeyboardInterrupt:
            died = True
        other = AuditLog(log.storage)
        other.append("RunEnded", f"run-{writes}")
        other.append_all(batch(*(f"{name}{writes}" for name in names)))
        writes += 1
    assert writes > 6
    found = subjects(log)
    assert len(found) == len(set(found)) == 2 + 4 * writes
    assert verify_log(log.storage).faults == ()


def _race(root: str, name: str, rounds: int) -> None:
    """Records own events, and events that all writers know of."""
    log = AuditLog(open_storage(root))
    for number in range(rounds):
        log.append("RunEnded", f"{name}{number}")
        log.append("Promoted", f"main{number}", identity=str(number))
        log.append_all(batch(f"x{number}", f"y{number}"))


def test_racing_writers_lose_nothing_and_record_once_what_stands_once(root: str) -> None:
    rounds, names = 6, ("a", "b", "c")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_race, args=(root, name, rounds)) for name in names]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    log = AuditLog(open_storage(root))
    found = subjects(log)
    wanted = {f"{name}{i}" for name in names for i in range(rounds)}
    once = {f"{name}{i}" for name in ("main", "x", "y") for i in range(rounds)}
    assert len(found) == len(names) * rounds + len(once)
    assert set(found) == wanted | once
    for name in names:
        assert [s for s in found if s.startswith(name)] == [f"{name}{i}" for i in range(rounds)]
    assert verify_log(log.storage).faults == ()


def read(log: AuditLog, number: int) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(log.storage.read_bytes(entry_path(number)))
    return plain


def write(log: AuditLog, number: int, plain: dict[str, Any]) -> None:
    entry = AuditEntry.model_validate_json(json.dumps(plain))
    data = json.dumps(entry.model_dump(mode="json"), sort_keys=True) + "\n"
    log.storage.write_bytes(entry_path(number), data.encode())


def alter(log: AuditLog) -> None:
    write(log, 3, {**read(log, 3), "by": "eve"})


def alter_last(log: AuditLog) -> None:
    write(log, 5, {**read(log, 5), "by": "eve"})


def take_out(log: AuditLog) -> None:
    log.storage.delete(entry_path(3))


def close_up(log: AuditLog) -> None:
    """Takes an entry out and moves those behind it up."""
    for number in (3, 4):
        write(log, number, {**read(log, number + 1), "number": number})
    log.storage.delete(entry_path(5))


def swap(log: AuditLog) -> None:
    third, fourth = read(log, 3), read(log, 4)
    write(log, 3, fourth)
    write(log, 4, third)


def tear(log: AuditLog) -> None:
    log.storage.write_bytes(entry_path(3), b'{"number": 3')


def cut(log: AuditLog) -> None:
    log.storage.delete(entry_path(5))


def put_in(log: AuditLog) -> None:
    log.storage.write_bytes("audit/entries/3.json", log.storage.read_bytes(entry_path(3)))


def forge_tip(log: AuditLog) -> None:
    log.storage.write_bytes("audit/tip.json", b'{"number": 5, "digest": "00"}')


@pytest.mark.parametrize(
    ("harm", "where", "says"),
    [
        (alter, "00000004.json", "does not follow entry 3"),
        (alter_last, "tip.json", "names another entry 5"),
        (take_out, "00000003.json", "is missing"),
        (close_up, "00000003.json", "does not follow entry 2"),
        (swap, "00000003.json", "holds entry 4; the order was changed"),
        (tear, "00000003.json", "not JSON"),
        (cut, "tip.json", "names entry 5, which is not there"),
        (put_in, "3.json", "is no entry's name"),
        (forge_tip, "tip.json", "names another entry"),
    ],
)
def test_tampering_is_found_and_named(
    log: AuditLog, harm: Callable[[AuditLog], None], where: str, says: str
) -> None:
    harm(filled(log))
    found = faults(verify_log(log.storage))
    assert any(at == where and says in said for at, said in found), found


def test_nothing_is_added_to_a_log_that_was_cut(log: AuditLog) -> None:
    cut(filled(log))
    with pytest.raises(DataError, match="the log was cut"):
        AuditLog(log.storage).append("RunEnded", "run-1")


@pytest.mark.parametrize("harm", [alter, swap, tear, take_out])
def test_whoever_reads_an_altered_log_is_told(
    log: AuditLog, harm: Callable[[AuditLog], None]
) -> None:
    harm(filled(log))
    with pytest.raises(DataError):
        list(log.entries())


def test_an_end_cut_off_with_the_tip_is_seen_by_who_kept_an_anchor(log: AuditLog) -> None:
    anchor = verify_log(filled(log).storage).tip
    assert anchor is not None
    assert verify_log(log.storage, anchor).faults == ()
    cut(log)
    fourth = content_sha256(log.storage.read_bytes(entry_path(4)))
    tip = json.dumps({"number": 4, "digest": fourth}).encode()
    log.storage.write_bytes("audit/tip.json", tip)
    assert verify_log(log.storage).faults == ()
    assert faults(verify_log(log.storage, anchor)) == [
        ("00000005.json", "was verified before and is not there; the end was cut off")
    ]
    # Another end in its place, with a chain that fits.
    AuditLog(log.storage).append("ConfigAccepted", "config-5", by="eve")
    assert verify_log(log.storage).faults == ()
    assert "written anew" in faults(verify_log(log.storage, anchor))[0][1]


def test_an_entry_recorded_twice_by_force_is_named(log: AuditLog) -> None:
    log.append("Promoted", "main", identity="main/1")
    for stat in log.storage.list("audit/once"):
        log.storage.delete(stat.path)
    filled(log, 1)
    AuditLog(log.storage).append("Promoted", "main", identity="main/1")
    assert faults(verify_log(log.storage)) == [
        ("00000003.json", "records again what entry 1 records, which it may not")
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"data", None), (b"other", "was altered since entry 1"), (None, "is gone, and entry 1")],
)
def test_what_an_entry_rests_on_is_hashed_again(
    log: AuditLog, content: bytes | None, says: str | None
) -> None:
    log.storage.write_bytes("runs/1/report.json", b"data")
    log.append("RunEnded", "run-1", artifacts={"runs/1/report.json": content_sha256(b"data")})
    if content is None:
        log.storage.delete("runs/1/report.json")
    else:
        log.storage.write_bytes("runs/1/report.json", content)
    found = verify_log(log.storage)
    assert (found.artifacts, len(found.faults)) == (1, 0 if says is None else 1)
    assert all((says or "") in fault.says for fault in found.faults)
    assert verify_log(log.storage, artifacts=False).faults == ()


def test_what_was_erased_on_record_may_be_gone_but_not_altered(log: AuditLog) -> None:
    log.append("RunEnded", "run-1", artifacts={"a": content_sha256(b"a"), "b": "0" * 64})
    log.append("Erased", "prompt", paths=["a", "b"])
    log.storage.write_bytes("b", b"other")
    assert [where for where, _ in faults(verify_log(log.storage))] == ["b"]


def test_a_path_that_leaves_the_root_is_not_followed(log: AuditLog) -> None:
    log.append("RunEnded", "run-1")
    with pytest.raises(StorageError, match="leaves the storage root"):
        log.append("RunEnded", "run-2", artifacts={"../../etc/hostname": "0" * 64})
    write(log, 1, {**read(log, 1), "artifacts": {"../../etc/hostname": "0" * 64}})
    assert "is gone" in verify_log(log.storage).faults[-1].says
