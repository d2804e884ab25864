"""The audit log of a reconciled world: every decision has its row, once, whoever died meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from tests.inference.released import manifest_of
from tests.retraining.approval_world import (
    Keys,
    approvers_file,
    config,
    person,
)
from tests.retraining.approval_world import (
    World as People,
)
from tests.retraining.reconcile_world import Crash, DyingStorage, World, document, promote
from tests.retraining.test_reconcile_crashes import LEFT_BEHIND

from cosalign.inference.model_manifest import manifest_bytes
from cosalign.inference.models import resolve_model
from cosalign.retraining.accepted_audit import WAIVED
from cosalign.retraining.approvals import ANNOTATION, as_bundle, parse_bundle, verify_signatures
from cosalign.retraining.approvers import parse_approvers
from cosalign.store.audit_log import AuditEntry, AuditLog
from cosalign.store.audit_verification import verify_log
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.promotion_audit import record_choices
from cosalign.store.storage import Storage, open_storage

BANK = document("eu-bank", "financial_crime_theft")


def rows(root: str) -> list[AuditEntry]:
    return list(AuditLog(open_storage(root)).entries())


def events(root: str) -> list[str]:
    return [entry.event for entry in rows(root)]


@pytest.fixture
def people(tmp_path: Path) -> People:
    (tmp_path / "keys").mkdir()
    keys = Keys(tmp_path / "keys")
    file = approvers_file([person(keys, name) for name in ("ada", "bob", "cy")])
    return People(keys, parse_approvers(file, "approvers"))


def shop(people: People, *risks: str) -> dict[str, Any]:
    """The config ``shop`` of region de, with the approvals that add it."""
    proposed = people.statement(None, config(list(risks)), issued="2026-01-01T00:00:00+00:00",
                                valid_until="2099-01-01")  # fmt: skip
    signed = people.signed(proposed, ("ada", "author"), ("bob", "approver"), ("cy", "approver"))
    plain = document("shop", *risks, region="de")
    plain["metadata"]["annotations"] = {ANNOTATION: as_bundle([signed])}
    return plain


def test_from_a_config_to_a_model_everything_is_on_record(tmp_path: Path, people: People) -> None:
    file = approvers_file([person(people.keys, name) for name in ("ada", "bob", "cy")])
    world = World(str(tmp_path / "root"), approvers=file)
    world.wants(shop(people, "violence"), BANK)
    world.ticks()
    found = rows(world.root)
    assert [entry.event for entry in found][:3] == [
        "ConfigApproved", "ConfigRefused", "ConfigsAccepted",
    ]  # fmt: skip
    approved, refused = found[0], found[1]
    assert (refused.subject, refused.details["reason"]) == ("eu-bank", "ApprovalsMissing")
    assert (approved.subject, approved.by) == ("shop", "ada")
    assert approved.details["approvers"] == ["bob", "cy"]
    assert approved.details["effect"] == "loosens"
    kinds = [entry.event for entry in found]
    assert kinds.count("ConfigRefused") == kinds.count("ConfigApproved") == 1
    for event in ("RunClaimed", "RunSubmitted", "Promoted", "RunEnded"):
        assert kinds.count(event) == 1
    ended = next(entry for entry in found if entry.event == "RunEnded")
    assert (ended.details["ending"], ended.details["promoted"]) == ("succeeded", True)
    verified = verify_log(world.storage)
    assert verified.faults == ()
    assert verified.artifacts > 5
    # Whoever looks later can check the signatures themselves.
    path = f"approvals/{approved.identity}.json"
    (signed,) = parse_bundle(world.storage.read_bytes(path).decode(), path)
    checked = verify_signatures(signed, people.approvers, world.reconciler().tick().moment)
    assert (checked.author, checked.approvers) == ("ada", ("bob", "cy"))


def test_nothing_new_leaves_no_row(tmp_path: Path) -> None:
    world = World(str(tmp_path))
    world.wants(BANK)
    world.ticks()
    before = events(world.root)
    world.ticks(3)
    assert events(world.root) == before
    world.wants()
    world.ticks(1)
    last = rows(world.root)[-1]
    assert (last.event, last.details["withdrawn"]) == ("ConfigsAccepted", ["/eu-bank"])


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after a write"])
def test_who_dies_anywhere_leaves_one_row_a_decision(tmp_path: Path, after: bool) -> None:
    world = World(str(tmp_path))
    world.settings = LEFT_BEHIND
    world.wants(BANK)
    at = 0
    while True:
        at += 1
        dying = DyingStorage(world.storage, at, after)
        try:
            world.reconciler(cast("Storage", dying)).tick()
        except Crash:
            continue
        if not dying.died:
            break
    world.ticks()
    found = rows(world.root)
    histories = [h.history() for h in (world.reconciler().accepted, world.reconciler().pointer,
                                       *world.reconciler()._lanes)]  # fmt: skip
    recorded = [entry.identity for entry in found if entry.event != WAIVED]
    assert len(recorded) == len(set(recorded)) == sum(len(h) for h in histories)
    assert [entry.subject for entry in found if entry.event == WAIVED] == ["eu-bank"]
    assert verify_log(world.storage).faults == ()


def test_each_attempt_that_is_refused_is_on_record(tmp_path: Path, people: People) -> None:
    file = approvers_file([person(people.keys, name) for name in ("ada", "bob", "cy")])
    world = World(str(tmp_path / "root"), approvers=file)

    def refused(plain: dict[str, Any]) -> list[str]:
        """Reasons on record once a config was wanted for two looks."""
        world.wants(plain)
        world.ticks(2)
        found = [entry for entry in rows(world.root) if entry.event == "ConfigRefused"]
        return [str(entry.details["reason"]) for entry in found]

    assert refused(document("shop", "no_such_risk", region="de")) == ["Invalid"]
    assert refused(document("shop", "other_harms", region="de")) == ["Invalid"] * 2
    unsigned = document("shop", "violence", region="de")
    missing = [*["Invalid"] * 2, "ApprovalsMissing"]
    assert refused(unsigned) == missing
    added = shop(people, "violence")
    assert refused(added) == missing
    (signed,) = parse_bundle(added["metadata"]["annotations"][ANNOTATION], "added")
    world.wants(BANK)
    world.ticks(1)
    # Gone, and wanted once more without approvals: that is another attempt.
    assert refused(unsigned).count("ApprovalsMissing") == 3
    assert world.reconciler().tick().accepted.last_statement("shop") == signed.digest


def test_rows_that_a_crash_prevented_are_added_in_order(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    for name in "abc":
        promote(storage, "main", f"double:{name}")
    pointer = ModelPointer(storage, "main")
    assert record_choices(pointer) == 3
    assert record_choices(pointer) == 0
    found = rows(str(tmp_path))
    assert [entry.details["uri"] for entry in found] == ["double:a", "double:b", "double:c"]
    assert [entry.details["replaced"] for entry in found] == [
        None, found[0].details["model"], found[1].details["model"],
    ]  # fmt: skip
    assert verify_log(storage).faults == ()


def test_a_released_models_row_says_what_it_was_made_from(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    model = resolve_model("double:a", tmp_path)
    storage.write_bytes("training/1/model-manifest.json", manifest_bytes(manifest_of(model)))
    promote(storage, "main", storage.uri_of("training/1"))
    record_choices(ModelPointer(storage, "main"))
    (entry,) = rows(str(tmp_path))
    assert entry.details["data"] == {"pairs": "6" * 64}
    assert (entry.details["configs"], entry.details["step"]) == ("7" * 64, "0" * 64)
    assert "training/1/model-manifest.json" in entry.artifacts
    storage.write_bytes("training/1/model-manifest.json", b"{}")
    (fault,) = verify_log(storage).faults
    assert fault.where.endswith("training/1/model-manifest.json")


def test_an_altered_history_is_found_by_the_rows_that_rest_on_it(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    promote(storage, "main", "double:a")
    record_choices(ModelPointer(storage, "main"))
    path = "models/main/history/00000001.json"
    altered = {**json.loads(storage.read_bytes(path)), "by": "eve"}
    storage.write_bytes(path, json.dumps(altered).encode())
    (fault,) = verify_log(storage).faults
    assert fault.where.endswith(path)
    assert "was altered since entry 1" in fault.says
