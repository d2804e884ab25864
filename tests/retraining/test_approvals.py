"""The approvers file, statements and where they lie: one meaning each, wherever they come from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.retraining.approval_world import NOW, World, approvers_file, config, person, world

from cosalign.domain.errors import DataError, UserError
from cosalign.retraining.approvals import (
    ANNOTATION,
    NAMESPACES,
    SignedStatement,
    approvals_of_object,
    as_bundle,
    merged,
    parse_bundle,
    parse_statement,
    read_approvals,
    require_one,
    statement_stem,
)
from cosalign.retraining.approvers import (
    ApproversError,
    allowed_signers,
    parse_approvers,
    read_approvers,
)
from cosalign.store.storage import Storage


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("keys"))


def loosening(people: World) -> SignedStatement:
    proposed = people.statement(config([]), config(["violence"]))
    return people.signed(proposed, ("ada", "author"), ("bob", "approver"))


def test_the_approvers_file_is_read_from_anywhere(people: World, storage: Storage) -> None:
    text = approvers_file([person(people.keys, "ada")])
    storage.write_bytes("approvers.yaml", text.encode())
    assert list(read_approvers(storage.uri_of("approvers.yaml")).people) == ["ada"]


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "two names that differ in case": ({"name": "Ada"}, {}, "one name"),
    "one name twice": ({"name": "ada"}, {}, "one name"),
    "no region": ({"regions": []}, {}, "regions"),
    "a role that there is not": ({"roles": ["boss"]}, {}, "roles"),
    "a torn key": ({"keys": [{"key": "ssh-rsa AAAA"}]}, {}, "torn"),
    "a private key": ({"keys": [{"key": "-----BEGIN KEY-----"}]}, {}, "no kind of key"),
    "a date that is none": ({"keys": [{"key": "", "validUntil": "soon"}]}, {}, "no ISO 8601 date"),
    "a field that there is not": ({}, {"instalation": "x"}, "did you mean 'installation'"),
}
"""What is wrong of Bob, who stands beside Ada; what else is wrong; what is said."""


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_approvers_file_is_refused_in_words(people: World, case: str) -> None:
    fields, more, says = WRONG[case]
    listed = [person(people.keys, "ada"), person(people.keys, "bob") | fields]
    with pytest.raises(ApproversError, match=says):
        parse_approvers(approvers_file(listed, **more), "approvers.yaml")


def test_a_key_is_one_persons(people: World) -> None:
    ada = person(people.keys, "ada")
    with pytest.raises(ApproversError, match="'ada' and 'eve' have one key"):
        parse_approvers(approvers_file([ada, ada | {"name": "eve"}]), "approvers.yaml")


def test_that_nobody_may_approve_has_to_be_said(people: World) -> None:
    with pytest.raises(ApproversError, match="nobody may approve"):
        parse_approvers(approvers_file([]), "approvers.yaml")
    assert not parse_approvers(approvers_file([], required=False), "approvers.yaml").required


def test_a_person_may_have_several_keys_and_is_one(people: World) -> None:
    ada = person(people.keys, "ada")
    both = ada | {"keys": [*ada["keys"], {"key": people.keys.public("ada at home")}]}
    found = parse_approvers(approvers_file([both]), "approvers.yaml")
    assert len(found.people["ada"].keys) == 2


def test_openssh_itself_can_check_an_approval(people: World, tmp_path: Path) -> None:
    signed = loosening(people)
    (tmp_path / "allowed").write_text(allowed_signers(people.approvers, NAMESPACES))
    (tmp_path / "sig").write_text(signed.signatures[1])
    command = ["ssh-keygen", "-Y", "verify", "-f", str(tmp_path / "allowed"), "-I", "bob"]
    command += ["-n", NAMESPACES["approver"], "-s", str(tmp_path / "sig")]
    data = signed.statement.as_bytes()
    assert subprocess.run(command, input=data, check=False, capture_output=True).returncode == 0
    assert subprocess.run(command, input=b"other", check=False, capture_output=True).returncode != 0


def test_a_folder_and_a_bundle_hold_the_same(people: World, storage: Storage) -> None:
    signed = loosening(people)
    stem = f"shop.approvals/{statement_stem(signed.digest)}"
    storage.write_bytes(f"{stem}.json", signed.statement.as_bytes())
    for number, text in enumerate(signed.signatures):
        storage.write_bytes(f"{stem}.{number}.sig", text.encode())
    storage.write_bytes("shop.approvals/README.md", b"not ours")
    assert read_approvals(storage, "shop.approvals") == (signed,)
    assert read_approvals(storage, "bank.approvals") == ()
    assert parse_bundle(as_bundle([signed]), "bundle") == (signed,)
    carried = {"metadata": {"name": "shop", "annotations": {ANNOTATION: as_bundle([signed])}}}
    assert approvals_of_object(carried) == (signed,)
    assert approvals_of_object({"metadata": {"name": "shop"}}) == ()


def test_approvals_of_several_places_stand_together(people: World) -> None:
    proposed = people.statement(config([]), config(["violence"]))
    author = people.signed(proposed, ("ada", "author"))
    bob = people.signed(proposed, ("bob", "approver"))
    (one,) = merged([author], [bob], [author])
    assert set(one.signatures) == {*author.signatures, *bob.signatures}
    assert require_one([one], one.digest[:6]) == one
    with pytest.raises(UserError, match="0 statements"):
        require_one([one], "zzz")


@pytest.mark.parametrize("form", ["pretty", "reordered", "doubled key", "more", "torn", "a list"])
def test_a_statement_can_be_read_in_one_way_only(people: World, form: str) -> None:
    data = loosening(people).statement.as_bytes()
    plain = json.loads(data)
    forms = {
        "pretty": json.dumps(plain, indent=2).encode(),
        "reordered": json.dumps(dict(reversed(plain.items()))).encode(),
        "doubled key": data.replace(b'{"after"', b'{"config":"bank","after"'),
        "more": json.dumps({**plain, "note": "x"}).encode(),
        "torn": data[:-20],
        "a list": b"[]",
    }
    with pytest.raises(DataError, match="shop"):
        parse_statement(forms[form], "shop")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"form": "cosalign-approvals/2"}', "{"])
def test_a_bundle_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="shop"):
        parse_bundle(text, "shop")


def test_statements_say_when(people: World) -> None:
    assert loosening(people).statement.issued == NOW.isoformat()
