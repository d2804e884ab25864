"""The accepted set's promises: whole or not at all, once where equal, closed where torn."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.errors import DataError
from cosalign.domain.safety_config import parse_safety_config
from cosalign.domain.taxonomy import Taxonomy, parse_taxonomy, shipped_taxonomies
from cosalign.store.accepted_configs import (
    AcceptedConfig,
    AcceptedConfigs,
    AcceptedSet,
    accepted_config,
)
from cosalign.store.storage import GenerationMismatch, open_storage

CURRENT = "accepted/main/current.json"
EARLY, LATE = "2026-11-01T08:00:00+00:00", "2026-11-02T08:00:00+00:00"


@pytest.fixture(params=["file", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "file" else request.getfixturevalue("gcs_root")


@pytest.fixture
def accepted(root: str) -> AcceptedSet:
    return AcceptedSet(open_storage(root))


def taxonomies() -> dict[str, Taxonomy]:
    found = [parse_taxonomy(text, "shipped") for text in shipped_taxonomies().values()]
    return {f"{t.name} {t.version}": t for t in found}


def config(name: str, *risks: str, namespace: str | None = None, **more: Any) -> AcceptedConfig:
    document: dict[str, Any] = {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": name, "labels": {"from": "a chart"}},
        "spec": {
            "taxonomy": {"name": "cosa", "version": "1"},
            "region": name[:2],
            "allowedRisks": list(risks),
        },
    }
    if namespace:
        document["metadata"]["namespace"] = namespace
    parsed = parse_safety_config(json.dumps(document), name, taxonomies())
    given: dict[str, Any] = {"accepted_at": EARLY, **more}
    return accepted_config(parsed, document, **given)


def names(found: AcceptedConfigs | None) -> list[str]:
    return [config.name for config in found.configs] if found else []


def test_nothing_is_accepted_until_a_set_is_published(accepted: AcceptedSet) -> None:
    assert accepted.current() is None
    made = accepted.publish([config("no-school"), config("at-fair", "violence")], "ada", EARLY)
    assert accepted.current() == made
    assert (made.number, names(made)) == (1, ["at-fair", "no-school"])


def test_an_empty_set_accepts_nothing_and_is_a_set_all_the_same(accepted: AcceptedSet) -> None:
    accepted.publish([config("no-school")], "ada", EARLY)
    made = accepted.publish([], "ada", LATE)
    assert accepted.current() == made
    assert made.configs == ()
    assert made.number == 2


def test_a_config_reads_back_as_it_was_written(accepted: AcceptedSet) -> None:
    given = config("at-fair", "violence", namespace="austria", approvers=("bo", "cy"))
    found = accepted.publish([given], "ada", EARLY).find("at-fair", "austria")
    assert found == given
    assert found is not None
    assert found.document["metadata"] == {"name": "at-fair", "namespace": "austria"}
    parsed = parse_safety_config(json.dumps(found.document), "stored", taxonomies())
    assert (parsed.digest, parsed.region) == (found.digest, found.region)


def test_namespaces_keep_configs_of_one_name_apart(accepted: AcceptedSet) -> None:
    pair = [config("fair", namespace="b"), config("fair", namespace="a")]
    made = accepted.publish(pair, "ada", EARLY)
    assert [c.namespace for c in made.configs] == ["a", "b"]
    assert made.find("fair") is None
    with pytest.raises(DataError, match="two configs are called 'fair' in namespace a"):
        accepted.publish([*pair, config("fair", "violence", namespace="a")], "ada", EARLY)


def test_an_equal_set_is_not_written_again(accepted: AcceptedSet) -> None:
    first = accepted.publish([config("a-b"), config("c-d")], "ada", EARLY)
    again = accepted.publish(
        [config("c-d", accepted_at=LATE), config("a-b", accepted_at=LATE)], "bo", LATE
    )
    assert again == first
    assert len(accepted.history()) == 1


def test_a_config_keeps_the_time_of_its_acceptance_until_it_changes(accepted: AcceptedSet) -> None:
    accepted.publish([config("a-b"), config("c-d")], "ada", EARLY)
    later = [config("a-b", accepted_at=LATE), config("c-d", "violence", accepted_at=LATE)]
    made = accepted.publish([*later, config("e-f", accepted_at=LATE)], "ada", LATE)
    assert [c.accepted_at for c in made.configs] == [EARLY, LATE, LATE]


def test_who_decided_against_an_older_set_is_refused(accepted: AcceptedSet) -> None:
    accepted.publish([config("a-b")], "ada", EARLY, expected=0)
    with pytest.raises(GenerationMismatch, match="another reconcile came first"):
        accepted.publish([config("c-d")], "bo", LATE, expected=0)
    assert names(accepted.current()) == ["a-b"]
    assert names(accepted.publish([config("c-d")], "bo", LATE, expected=1)) == ["c-d"]


def test_a_statement_outlives_the_config_that_was_admitted_on_it(accepted: AcceptedSet) -> None:
    accepted.publish([config("a-b", statement="1" * 64), config("c-d")], "ada", EARLY)
    gone = accepted.publish([], "ada", LATE)
    assert (gone.last_statement("a-b"), gone.last_statement("c-d")) == ("1" * 64, None)
    other = accepted.publish([config("c-d")], "ada", LATE)
    assert other.last_statement("a-b") == "1" * 64
    back = accepted.publish([config("a-b", statement="2" * 64)], "ada", LATE)
    assert back.last_statement("a-b") == "2" * 64
    assert back.withdrawn == {}


def test_a_model_that_follows_it_changes_nothing_of_its_acceptance(accepted: AcceptedSet) -> None:
    accepted.publish([config("a-b")], "ada", EARLY)
    followed = config("a-b", accepted_at=LATE).model_copy(update={"followed_by": "5" * 64})
    made = accepted.publish([followed], "ada", LATE)
    assert (made.number, made.configs[0].accepted_at) == (2, EARLY)
    assert made.configs[0].followed_by == "5" * 64
    assert accepted.publish([followed], "ada", LATE).number == 2


@pytest.mark.parametrize("harm", ["torn", "empty", "config", "digest", "not in the history"])
def test_what_is_torn_or_was_altered_is_not_taken_for_accepted(
    accepted: AcceptedSet, harm: str
) -> None:
    accepted.publish([config("a-b"), config("c-d")], "ada", EARLY)
    data = accepted.storage.read_bytes(CURRENT)
    plain = json.loads(data)
    if harm == "torn":
        data = data[: len(data) // 2]
    elif harm == "empty":
        data = b""
    elif harm == "config":
        plain["configs"][0]["document"]["spec"]["allowedRisks"] = ["violence"]
        data = json.dumps(plain).encode()
    elif harm == "digest":
        data = json.dumps({**plain, "digest": "0" * 64}).encode()
    else:
        data = json.dumps({**plain, "by": "eve"}).encode()
    accepted.storage.write_bytes(CURRENT, data)
    with pytest.raises(DataError):
        accepted.current()
    with pytest.raises(DataError):
        accepted.publish([config("a-b")], "ada", LATE)


def test_a_pointer_to_an_entry_that_is_gone_is_no_accepted_set(accepted: AcceptedSet) -> None:
    accepted.publish([config("a-b")], "ada", EARLY)
    accepted.storage.delete("accepted/main/history/00000001.json")
    with pytest.raises(DataError):
        accepted.current()


def test_a_crash_between_entry_and_pointer_is_healed_by_the_next_publisher(
    accepted: AcceptedSet,
) -> None:
    accepted.publish([config("a-b")], "ada", EARLY)
    before = accepted.storage.read_bytes(CURRENT)
    accepted.publish([config("c-d")], "ada", LATE)
    accepted.storage.write_bytes(CURRENT, before)
    assert names(accepted.current()) == ["a-b"]
    accepted.publish([config("c-d")], "bo", LATE)
    assert names(accepted.current()) == ["c-d"]
    assert len(accepted.history()) == 2


def test_a_reader_beside_a_writer_sees_whole_sets_in_order(root: str) -> None:
    """Each set holds as many configs as its number, so a mixture would show."""
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        reader = AcceptedSet(open_storage(root))
        while not done.is_set():
            found = reader.current()
            if found is not None:
                seen.append((found.number, len(found.configs)))

    thread = threading.Thread(target=read)
    thread.start()
    writer = AcceptedSet(open_storage(root))
    for count in range(1, 9):
        writer.publish([config(f"r{i}-x") for i in range(count)], "ada", EARLY)
    done.set()
    thread.join()
    assert all(number == count for number, count in seen)
    assert seen == sorted(seen)


def race(root: str, make: Callable[[int], list[AcceptedConfig]], writers: int) -> AcceptedSet:
    def publish(number: int) -> None:
        accepted = AcceptedSet(open_storage(root))
        while True:
            try:
                accepted.publish(make(number), f"writer {number}", EARLY)
            except GenerationMismatch:
                continue
            return

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return AcceptedSet(open_storage(root))


def test_many_publishers_of_one_set_write_it_once(root: str) -> None:
    found = race(root, lambda _: [config("a-b"), config("c-d")], writers=6)
    assert [len(entry.configs) for entry in found.history()] == [2]


def test_publishers_of_different_sets_lose_none_of_them(root: str) -> None:
    found = race(root, lambda number: [config(f"r{number}-x")], writers=6)
    published = sorted(names(entry)[0] for entry in found.history())
    assert published == [f"r{i}-x" for i in range(6)]
