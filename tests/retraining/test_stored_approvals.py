"""What is in force rests on approvals that are stored: a set that only says so is not believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.retraining.approval_world import KNOWN, Keys, approvers_file, config, person
from tests.retraining.approval_world import World as People
from tests.retraining.reconcile_world import WAIVED, World, document

from cosalign.domain.errors import DataError
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import parse_taxonomy
from cosalign.pipelines.command_line import main as cosalign
from cosalign.retraining.admitted_configs import Verdict
from cosalign.retraining.approvals import ANNOTATION, SignedStatement, as_bundle
from cosalign.retraining.approvers import Role, parse_approvers
from cosalign.retraining.stored_approvals import approvers_path, asks_for_approvals, keep_statement
from cosalign.store.accepted_configs import AcceptedConfig, AcceptedSet, accepted_config
from cosalign.store.audit_log import AuditEntry, AuditLog

EVERYBODY: tuple[tuple[str, Role], ...] = (
    ("ada", "author"), ("bob", "approver"), ("cy", "approver"),
)  # fmt: skip
LASTING = {"issued": "2026-01-01T00:00:00+00:00", "valid_until": "2099-01-01"}


@dataclass
class Town:
    """A reconciled world whose configs people have to approve."""

    world: World
    people: People
    file: str

    def wants(self, *risks: str, signed: SignedStatement | None = None, **spec: Any) -> Verdict:
        """Asks for the config ``shop`` of region de, and looks."""
        plain = document("shop", *risks, region="de", **spec)
        if signed is not None:
            plain["metadata"]["annotations"] = {ANNOTATION: as_bundle([signed])}
        self.world.wants(plain)
        return self.look()

    def look(self) -> Verdict:
        (verdict,) = self.world.reconciler().tick().verdicts
        return verdict

    def signed(
        self,
        new: list[str],
        old: SafetyConfig | None = None,
        previous: str | None = None,
        **spec: Any,
    ) -> SignedStatement:
        statement = self.people.statement(old, config(new, **spec), previous=previous, **LASTING)
        return self.people.signed(statement, *EVERYBODY)

    @property
    def accepted(self) -> AcceptedConfig | None:
        found = AcceptedSet(self.world.storage).current()
        return found.find("shop") if found else None

    def plant(self, statement: str | None, *risks: str, **given: Any) -> None:
        """Writes an accepted set by hand, as who may write to the bucket can."""
        form = config(list(risks))
        plain = document("shop", *risks, region="de")
        entry = accepted_config(form, plain, "2026-01-01", ("bob", "cy"), statement)
        accepted = AcceptedSet(self.world.storage)
        head = accepted.head()
        accepted.publish(
            [entry.model_copy(update=given)], "reconcile", "2026-01-01",
            approvers_file=head.approvers_file if head else None,
        )  # fmt: skip

    def rows(self, event: str) -> list[AuditEntry]:
        return [e for e in AuditLog(self.world.storage).entries() if e.event == event]

    def verify(self) -> int:
        return cosalign(["audit", "verify", "--root", self.world.root])


@pytest.fixture
def town(tmp_path: Path) -> Town:
    (tmp_path / "keys").mkdir()
    keys = Keys(tmp_path / "keys")
    file = approvers_file([person(keys, name) for name in ("ada", "bob", "cy")])
    people = People(keys, parse_approvers(file, "approvers"))
    return Town(World(str(tmp_path / "root"), approvers=file), people, file)


def test_what_went_without_approvals_is_on_record_and_needs_them_once_they_are_asked_for(
    town: Town,
) -> None:
    town.world.approvers = WAIVED
    assert town.wants("violence").reason == "ApprovalsWaived"
    assert town.look().reason == "Unchanged"
    (row,) = town.rows("ConfigAdmittedWithoutApproval")
    assert (row.subject, row.details["demands"]) == ("shop", config(["violence"]).digest)
    (path,) = row.artifacts
    assert town.world.storage.read_bytes(path).decode() == WAIVED
    assert town.verify() == 0
    town.world.approvers = town.file
    found = town.look()
    assert (found.accepted, found.reason) == (False, "ApprovalsMissing")
    assert "not in force, since it was accepted without approvals" in found.message
    assert town.accepted is None
    assert len(town.rows("ConfigUnproven")) == 1
    assert town.wants("violence", signed=town.signed(["violence"])).reason == "Approved"
    assert town.look().reason == "Unchanged"
    assert town.accepted is not None
    assert town.accepted.approvers == ("bob", "cy")
    assert len(town.rows("ConfigUnproven")) == 1
    assert town.verify() == 0


def test_a_change_that_was_waived_does_not_borrow_the_approval_before_it(town: Town) -> None:
    first = town.signed(["violence"])
    assert town.wants("violence", signed=first).accepted
    town.world.approvers = WAIVED
    assert town.wants("violence", "privacy_violations").reason == "ApprovalsWaived"
    assert town.wants("violence").reason == "ApprovalsWaived"
    assert len(town.rows("ConfigAdmittedWithoutApproval")) == 2
    town.world.approvers = town.file
    assert town.wants("violence", signed=first).reason == "ApprovalReplayed"
    assert town.accepted is None
    anew = town.signed(["violence"], previous=first.digest)
    assert town.wants("violence", signed=anew).reason == "Approved"
    assert town.verify() == 0


def test_the_log_says_who_could_approve_and_when_that_changed(town: Town) -> None:
    town.wants("violence", signed=town.signed(["violence"]))
    digest = town.people.approvers.digest
    for event in ("ConfigApproved", "ConfigsAccepted"):
        (row,) = town.rows(event)
        assert row.details["approvers_file"] == digest
        assert row.artifacts[approvers_path(digest)] == digest
    town.look()
    later = approvers_file([person(town.people.keys, name) for name in ("ada", "bob", "cy", "di")])
    town.world.approvers = later
    town.look()
    town.look()
    (changed,) = town.rows("ApproversChanged")
    assert changed.details["approvers_file"] == parse_approvers(later, "later").digest
    town.world.storage.write_bytes(approvers_path(digest), b"people: []")
    assert town.verify() == 2


def test_who_leaves_takes_nothing_out_of_force(town: Town) -> None:
    town.wants("violence", signed=town.signed(["violence"]))
    keys = town.people.keys
    town.world.approvers = approvers_file([person(keys, name) for name in ("cy", "di")])
    assert town.look().reason == "Unchanged"
    assert town.accepted is not None


def of_nobody(town: Town) -> str:
    """Approvals of strangers, and a file, put beside the others, by which they may."""
    keys = Keys(town.people.keys.folder.parent)
    strangers = People(keys, town.people.approvers)
    statement = strangers.statement(None, config(["violence"]), **LASTING)
    signed = strangers.signed(statement, *EVERYBODY)
    file = approvers_file([person(keys, name) for name in ("ada", "bob", "cy")])
    digest = parse_approvers(file, "strangers").digest
    town.world.storage.write_bytes(approvers_path(digest), file.encode())
    keep_statement(town.world.storage, signed)
    return signed.digest


def of_another(town: Town, **forged: Any) -> str:
    signed = town.people.signed(
        town.people.statement(None, config(["violence"]), **LASTING, **forged), *EVERYBODY
    )
    keep_statement(town.world.storage, signed)
    return signed.digest


def too_few(town: Town) -> str:
    statement = town.people.statement(None, config(["violence"]), **LASTING)
    signed = town.people.signed(statement, *EVERYBODY[:2])
    keep_statement(town.world.storage, signed)
    return signed.digest


def torn(town: Town) -> str:
    town.world.storage.write_bytes(f"approvals/{'1' * 64}.json", b"{")
    return "1" * 64


FORGERIES: Mapping[str, Callable[[Town], str | None]] = {
    "on no statement": lambda _: None,
    "on a statement that is nowhere": lambda _: "0" * 64,
    "on a torn one": torn,
    "by strangers": of_nobody,
    "by one of two": too_few,
    "about another version": lambda town: of_another(town, after="0" * 64),
    "about another config": lambda town: of_another(town, config="bank"),
    "in another namespace": lambda town: of_another(town, namespace="test"),
    "for another installation": lambda town: of_another(town, installation="test"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_planted_set_is_not_believed_and_is_found_by_the_audit(
    town: Town, capsys: pytest.CaptureFixture[str], forgery: str
) -> None:
    assert not town.wants("violence").accepted
    assert town.verify() == 0
    town.plant(FORGERIES[forgery](town), "violence")
    found = town.look()
    assert (found.accepted, found.reason) == (False, "ApprovalsMissing")
    assert "not in force" in found.message
    assert town.accepted is None
    assert town.world.started == []
    (row,) = town.rows("ConfigUnproven")
    assert row.details["approvers"] == ["bob", "cy"]
    capsys.readouterr()
    assert town.verify() == 2
    said = capsys.readouterr().out
    assert "accepted/main/history/00000002.json" in said
    assert "config shop is said to be approved by bob, cy, and the log holds no such" in said


def test_a_version_that_was_approved_once_does_not_come_back_unseen(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    loose = town.signed(["violence"])
    assert town.wants("violence", signed=loose).accepted
    strict = town.signed([], config(["violence"]), loose.digest)
    assert town.wants(signed=strict).accepted
    assert town.verify() == 0
    town.plant(loose.digest, "violence")
    capsys.readouterr()
    assert town.verify() == 2
    assert "which was for another step of its history" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"approvers": ()}, "was admitted without approvals, and the log does not say so"),
        ({"approvers": ("cy", "dan")}, "was approved by others"),
        ({"document": {"metadata": {"name": "shop"}, "spec": {}}}, "cannot be read"),
        ({"document": {"metadata": {"name": "shop"}}}, "holds no spec"),
    ],
)
def test_what_a_set_says_otherwise_than_the_log_is_found(
    town: Town, capsys: pytest.CaptureFixture[str], given: dict[str, Any], says: str
) -> None:
    signed = town.signed(["violence"])
    assert town.wants("violence", signed=signed).accepted
    town.plant(signed.digest, "violence", **given)
    assert not town.wants("violence").accepted
    capsys.readouterr()
    assert town.verify() == 2
    assert says in capsys.readouterr().out


def test_a_root_knows_whether_approvals_are_asked_for(town: Town) -> None:
    storage = town.world.storage
    assert not asks_for_approvals(storage, "main")
    town.world.approvers = WAIVED
    town.wants("violence")
    assert not asks_for_approvals(storage, "main")
    town.world.approvers = town.file
    town.look()
    assert asks_for_approvals(storage, "main")
    storage.delete(approvers_path(town.people.approvers.digest))
    assert asks_for_approvals(storage, "main")


def test_sets_from_before_the_approvers_file_was_kept_are_no_fault(town: Town) -> None:
    form = config([])
    entry = accepted_config(form, document("shop", region="de"), "2026-01-01")
    AcceptedSet(town.world.storage).publish([entry], "reconcile", "2026-01-01")
    assert not asks_for_approvals(town.world.storage, "main")
    town.world.approvers = WAIVED
    assert town.wants().reason == "Unchanged"
    assert town.verify() == 0


TOPICS = """
kind: RiskTaxonomy
name: topics
version: "1"
categories:
  - {name: beer, title: Beer, definition: "%s"}
  - {name: rest, title: Rest, definition: All else.}
"""


@pytest.mark.parametrize("waived", [False, True])
def test_a_taxonomy_that_was_edited_in_place_stops_everything(
    town: Town, monkeypatch: pytest.MonkeyPatch, waived: bool
) -> None:
    mild = parse_taxonomy(TOPICS % "Of beer, without alcohol.", "topics")
    monkeypatch.setitem(KNOWN, "topics 1", mild)
    known = dict(KNOWN)
    town.world.taxonomies = known
    town.world.source = replace(town.world.source, taxonomies=known)
    if waived:
        town.world.approvers = WAIVED
    spec: dict[str, Any] = {"taxonomy": {"name": "topics", "version": "1"}}
    signed = town.signed(["beer"], **spec)
    assert town.wants("beer", signed=signed, **spec).accepted
    started, before = town.world.started, AcceptedSet(town.world.storage).current()
    known["topics 1"] = parse_taxonomy(TOPICS % "Of beer, and of how to poison it.", "topics")
    for wanted in (["beer"], []):
        with pytest.raises(DataError, match="taxonomy topics 1 was edited in place"):
            town.wants(*wanted, signed=signed, **spec)
    assert town.world.started == started
    assert AcceptedSet(town.world.storage).current() == before
    # To stop using the config asks for nothing.
    town.world.wants(document("other"))
    town.world.reconciler().tick()
    assert town.accepted is None
