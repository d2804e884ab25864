"""Who may allow what: honest changes pass, and every forged or replayed approval is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.retraining.approval_world import (
    KNOWN,
    NOW,
    World,
    approvers_file,
    config,
    person,
    world,
)

from cosalign.domain.config_change import NoReader, PolicyReading
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.retraining.admission import Accepted, Admission, Reason, admit
from cosalign.retraining.approvals import SignedStatement
from cosalign.retraining.approvers import Role, parse_approvers

STRICT, LOOSE = config([]), config(["violence"])
AUTHOR: tuple[str, Role] = ("ada", "author")
BOB: tuple[str, Role] = ("bob", "approver")
CY: tuple[str, Role] = ("cy", "approver")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(
        tmp_path_factory.mktemp("keys"),
        dora={"regions": ["fr"]},
        earl={"regions": ["*"], "roles": ["author"]},
        fay={"regions": ["*"], "roles": ["approver"]},
    )


def verdict(
    people: World,
    desired: SafetyConfig | None,
    accepted: Accepted,
    *approvals: SignedStatement,
    **more: Any,
) -> Admission:
    arguments = {"moment": NOW, "reading": None, **more}
    return admit(
        desired,
        accepted,
        approvals,
        people.approvers,
        arguments["moment"],
        arguments["reading"],
        taxonomies=KNOWN,
    )


def test_a_loosening_takes_two_people_beside_its_author(people: World) -> None:
    proposed = people.statement(STRICT, LOOSE)
    by = [AUTHOR, BOB, CY]
    found = [
        verdict(people, LOOSE, Accepted(STRICT), people.signed(proposed, *by[:count]))
        for count in range(4)
    ]
    assert [v.accepted for v in found] == [False, False, False, True]
    assert [v.reason for v in found] == [
        Reason.AUTHOR_UNPROVEN, Reason.APPROVALS_MISSING, Reason.APPROVALS_MISSING, Reason.APPROVED,
    ]  # fmt: skip
    assert "1 missing of 2 approvals" in found[2].message
    assert (found[3].author, found[3].approvers) == ("ada", ("bob", "cy"))
    assert [v.statement for v in found] == [None, None, None, proposed.digest]


def test_a_tightening_takes_one(people: World) -> None:
    proposed = people.signed(people.statement(LOOSE, STRICT), AUTHOR, BOB)
    assert verdict(people, STRICT, Accepted(LOOSE), proposed).accepted


def test_to_stop_using_a_config_asks_for_nobody(people: World) -> None:
    found = verdict(people, None, Accepted(LOOSE, "a" * 64))
    assert (found.accepted, found.reason, found.statement) == (True, Reason.REMOVED, "a" * 64)


def test_what_is_in_force_needs_nobody(people: World) -> None:
    found = verdict(people, LOOSE, Accepted(LOOSE, "a" * 64))
    assert (found.accepted, found.reason, found.statement) == (True, Reason.UNCHANGED, "a" * 64)
    remarked = config(["violence"], description="Other words.")
    assert verdict(people, remarked, Accepted(LOOSE)).reason is Reason.UNCHANGED


def test_nobody_proposed_it(people: World) -> None:
    found = verdict(people, LOOSE, Accepted(STRICT))
    assert (found.accepted, found.reason) == (False, Reason.APPROVALS_MISSING)
    assert "2 approvals" in found.message
    assert "violence" in found.message


def full(people: World, **forged: Any) -> SignedStatement:
    """A loosening that everybody signed, but for what is forged in it."""
    return people.signed(people.statement(STRICT, LOOSE, **forged), AUTHOR, BOB, CY)


def moved(people: World, **statement: Any) -> SignedStatement:
    """Signatures of one statement beside another that was changed after they were made."""
    signed = full(people)
    other = people.statement(STRICT, LOOSE, **statement)
    return SignedStatement(other.statement, other.digest, signed.signatures)


def only(*by: tuple[str, Role]) -> Callable[[World], SignedStatement]:
    return lambda people: people.signed(people.statement(STRICT, LOOSE), *by)


ATTACKS: dict[str, tuple[Callable[[World], SignedStatement], Reason]] = {
    "another digest": (lambda p: full(p, demands="0" * 64), Reason.APPROVED_OTHERWISE),
    "other terms": (lambda p: full(p, after="0" * 64), Reason.APPROVED_OTHERWISE),
    "from other terms": (lambda p: full(p, before="0" * 64), Reason.APPROVED_OTHERWISE),
    "as if it were new": (lambda p: full(p, before=None), Reason.APPROVED_OTHERWISE),
    "another name": (lambda p: full(p, config="bank"), Reason.APPROVALS_MISSING),
    "another region": (lambda p: full(p, regions=["fr"]), Reason.APPROVED_OTHERWISE),
    "another namespace": (lambda p: full(p, namespace="test"), Reason.APPROVED_OTHERWISE),
    "another cluster": (lambda p: full(p, installation="test"), Reason.APPROVED_OTHERWISE),
    "another step of the history": (
        lambda p: full(p, previous="0" * 64), Reason.APPROVAL_REPLAYED,
    ),
    "called a tightening": (lambda p: full(p, effect="tightens"), Reason.LOOSENS),
    "called an edit": (lambda p: full(p, effect="edits"), Reason.LOOSENS),
    "expired": (lambda p: full(p, valid_until=NOW.isoformat()), Reason.APPROVAL_OUT_OF_DATE),
    "from the future": (
        lambda p: full(p, issued=(NOW + timedelta(hours=1)).isoformat()),
        Reason.APPROVAL_OUT_OF_DATE,
    ),
    "prolonged after it was signed": (
        lambda p: moved(p, valid_until="2030-01-01"), Reason.AUTHOR_UNPROVEN,
    ),
    "another author put in": (lambda p: moved(p, author="fay"), Reason.AUTHOR_UNPROVEN),
    "the author approves": (only(AUTHOR, ("ada", "approver"), BOB), Reason.APPROVALS_MISSING),
    "one person twice": (only(AUTHOR, BOB, BOB), Reason.APPROVALS_MISSING),
    "signed as an author": (only(AUTHOR, BOB, ("cy", "author")), Reason.APPROVALS_MISSING),
    "another one's name as author": (only(BOB, CY), Reason.AUTHOR_UNPROVEN),
    "of another region": (only(AUTHOR, BOB, ("dora", "approver")), Reason.APPROVALS_MISSING),
    "who may only propose": (only(AUTHOR, BOB, ("earl", "approver")), Reason.APPROVALS_MISSING),
    "who may only approve": (
        lambda p: p.signed(
            p.statement(STRICT, LOOSE, author="fay"), ("fay", "author"), BOB, CY
        ),
        Reason.AUTHOR_UNPROVEN,
    ),
    "of nobody": (only(AUTHOR, BOB, ("mallory", "approver")), Reason.APPROVER_UNKNOWN),
    "no signature": (
        lambda p: replace(only(AUTHOR, BOB)(p), signatures=("garbage",)), Reason.AUTHOR_UNPROVEN,
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_forged_or_borrowed_approval_admits(people: World, attack: str) -> None:
    forge, reason = ATTACKS[attack]
    found = verdict(people, LOOSE, Accepted(STRICT), forge(people))
    assert (found.accepted, found.reason) == (False, reason)
    assert found.statement is None
    assert found.message


def test_a_good_approval_counts_whatever_lies_beside_it(people: World) -> None:
    forged = [forge(people) for forge, _ in ATTACKS.values()]
    assert verdict(people, LOOSE, Accepted(STRICT), *forged, full(people), *forged).accepted


def test_an_old_approval_cannot_be_used_after_a_tightening(people: World) -> None:
    loosening = full(people)
    first = verdict(people, LOOSE, Accepted(STRICT), loosening)
    tightening = people.signed(
        people.statement(LOOSE, STRICT, previous=first.statement), AUTHOR, BOB
    )
    second = verdict(people, STRICT, Accepted(LOOSE, first.statement), tightening)
    assert (first.accepted, second.accepted) == (True, True)
    # The configs are as they were before the loosening; its approval is not.
    again = verdict(people, LOOSE, Accepted(STRICT, second.statement), loosening, tightening)
    assert (again.accepted, again.reason) == (False, Reason.APPROVAL_REPLAYED)


def test_what_once_added_a_config_does_not_add_it_again(people: World) -> None:
    added = people.signed(people.statement(None, LOOSE), AUTHOR, BOB, CY)
    first = verdict(people, LOOSE, Accepted(None), added)
    gone = verdict(people, None, Accepted(LOOSE, first.statement))
    assert (first.accepted, gone.accepted) == (True, True)
    again = verdict(people, LOOSE, Accepted(None, gone.statement), added)
    assert (again.accepted, again.reason) == (False, Reason.APPROVAL_REPLAYED)
    anew = people.statement(None, LOOSE, previous=gone.statement)
    signed = people.signed(anew, AUTHOR, BOB, CY)
    assert verdict(people, LOOSE, Accepted(None, gone.statement), added, signed).accepted


def test_a_config_that_moves_needs_people_of_both_regions(people: World) -> None:
    moving = config([], region="fr")
    proposed = people.statement(STRICT, moving)
    german = people.signed(proposed, AUTHOR, BOB)
    assert not verdict(people, moving, Accepted(STRICT), german).accepted
    everywhere = people.statement(STRICT, moving, author="earl")
    both = people.signed(everywhere, ("earl", "author"), ("fay", "approver"))
    assert verdict(people, moving, Accepted(STRICT), both).accepted


@pytest.mark.parametrize(
    ("dates", "reason"),
    [
        ({"effectiveFrom": "2026-06-02"}, Reason.NOT_YET_EFFECTIVE),
        ({"effectiveFrom": "2026-06-01T12:00:00Z"}, Reason.APPROVED),
        ({"expires": "2026-06-01T12:00:00Z"}, Reason.EXPIRED),
        ({"expires": "2026-06-01T12:00:01Z"}, Reason.APPROVED),
    ],
)
def test_dates_are_honoured(people: World, dates: dict[str, str], reason: Reason) -> None:
    dated = config(["violence"], **dates)
    proposed = people.signed(people.statement(STRICT, dated), AUTHOR, BOB, CY)
    found = verdict(people, dated, Accepted(STRICT), proposed)
    assert (found.accepted, found.reason) == (reason is Reason.APPROVED, reason)


def test_what_is_in_force_ends_when_it_expires(people: World) -> None:
    dated = config(["violence"], expires="2026-07-01")
    assert verdict(people, dated, Accepted(dated)).accepted
    later = verdict(people, dated, Accepted(dated), moment=NOW + timedelta(days=60))
    assert (later.accepted, later.reason) == (False, Reason.EXPIRED)


def test_a_key_that_is_no_longer_valid_approves_nothing(tmp_path: Path) -> None:
    keys = world(tmp_path).keys
    ended = {"key": keys.public("bob"), "validUntil": "2026-05-31"}
    file = approvers_file([person(keys, "ada"), {**person(keys, "bob"), "keys": [ended]}])
    people = World(keys, parse_approvers(file, "approvers.yaml"))
    proposed = people.signed(people.statement(LOOSE, STRICT), AUTHOR, BOB)
    found = verdict(people, STRICT, Accepted(LOOSE), proposed)
    assert (found.accepted, found.reason) == (False, Reason.APPROVALS_MISSING)
    assert "not valid at this time" in found.message


@dataclass(frozen=True)
class Reads(NoReader):
    """Finds the same in every policy."""

    found: int

    def read(self, config: SafetyConfig, taxonomy: Taxonomy) -> PolicyReading:  # noqa: ARG002
        return PolicyReading(may=taxonomy.full_mask, surely=0, found=self.found)


def test_never_allowable_risks_stay_so_whoever_signs(people: World) -> None:
    prose = config("All is fine.")
    proposed = people.signed(people.statement(STRICT, prose), AUTHOR, BOB, CY)
    assert verdict(people, prose, Accepted(STRICT), proposed, reading=Reads(0)).accepted
    catch_all = Reads(KNOWN["cosa 1"].catch_all)
    found = verdict(people, prose, Accepted(STRICT), proposed, reading=catch_all)
    assert (found.accepted, found.reason) == (False, Reason.NEVER_ALLOWABLE)
    smuggled = replace(LOOSE, allowed_mask=KNOWN["cosa 1"].full_mask)
    found = verdict(people, smuggled, Accepted(STRICT), full(people))
    assert found.reason is Reason.NEVER_ALLOWABLE


@pytest.mark.parametrize("reading", [None, NoReader()])
def test_prose_that_nobody_read_is_not_admitted_whoever_signs(
    people: World, reading: NoReader | None
) -> None:
    prose = config("All is fine.")
    proposed = people.signed(people.statement(STRICT, prose), AUTHOR, BOB, CY)
    found = verdict(people, prose, Accepted(STRICT), proposed, reading=reading)
    assert (found.accepted, found.reason) == (False, Reason.NOT_READ)
    assert "cosalign judge read" in found.message
    waived = World(people.keys, replace(people.approvers, required=False))
    assert verdict(waived, prose, Accepted(STRICT), reading=reading).reason is Reason.NOT_READ
    # What is in force was read when it was admitted, perhaps by an earlier judge.
    assert verdict(people, prose, Accepted(prose), reading=reading).reason is Reason.UNCHANGED
    owned = config("All is fine.", owner="Dora")
    edit = people.signed(people.statement(prose, owned), AUTHOR, BOB)
    assert verdict(people, owned, Accepted(prose), edit, reading=reading).accepted


def test_an_installation_may_waive_approvals_and_still_honours_dates(people: World) -> None:
    free = World(people.keys, replace(people.approvers, required=False))
    found = verdict(free, LOOSE, Accepted(STRICT))
    assert (found.accepted, found.reason) == (True, Reason.APPROVALS_WAIVED)
    dated = config(["violence"], effectiveFrom="2026-06-02")
    assert verdict(free, dated, Accepted(STRICT)).reason is Reason.NOT_YET_EFFECTIVE


def test_reasons_are_reasons_of_kubernetes() -> None:
    assert all(reason.value.isalpha() and reason.value[0].isupper() for reason in Reason)
