"""``cosalign config diff, propose, approve, verify`` as people at several desks use them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.retraining.approval_world import Keys, approvers_file, person

from cosalign.domain.safety_config import parse_safety_config
from cosalign.pipelines.command_line import main
from cosalign.retraining.approvals import parse_bundle, read_approvals
from cosalign.retraining.stored_approvals import keep_statement
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.store.accepted_configs import AcceptedConfig, AcceptedSet, accepted_config
from cosalign.store.storage import open_storage

KNOWN = known_taxonomies()


@dataclass
class Desk:
    """A checkout with a config's old version beside the new one, and the people's keys."""

    folder: Path
    keys: Keys

    def write(self, file: str, form: list[str] | str, **spec: Any) -> str:
        key = "text" if isinstance(form, str) else "allowedRisks"
        document = {
            "apiVersion": "cosalign.dev/v1alpha1",
            "kind": "SafetyConfig",
            "metadata": {"name": "shop"},
            "spec": {
                "taxonomy": {"name": "cosa", "version": "1"},
                "region": "de",
                key: form,
                **spec,
            },
        }
        path = self.folder / file
        path.write_text(yaml.safe_dump(document))
        return str(path)

    def run(self, command: str, *arguments: str, key: str | None = None) -> int:
        options = ["--approvers", str(self.folder / "approvers.json")]
        options += ["--key", str(self.keys.made[key])] if key else []
        return main(["config", command, *arguments, *options])


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "keys").mkdir()
    keys = Keys(tmp_path / "keys")
    people = [person(keys, name) for name in ("ada", "bob", "cy")]
    (tmp_path / "approvers.json").write_text(approvers_file(people))
    return Desk(tmp_path, keys)


@pytest.mark.parametrize(
    ("old", "new", "code", "effect"),
    [
        ([], [], 0, "same"),
        (["violence"], [], 11, "tightens"),
        ([], ["violence"], 12, "loosens"),
        (None, [], 10, "edits"),
        (["violence"], None, 0, "tightens"),
        ("Swords may be spoken of.", "Swords and beer may be spoken of.", 12, "loosens"),
    ],
)
def test_diff_says_the_effect_by_exit_code_and_json(
    desk: Desk, capsys: pytest.CaptureFixture[str], old: Any, new: Any, code: int, effect: str
) -> None:
    files = [
        "none" if form is None else desk.write(f"{name}.yaml", form)
        for name, form in (("old", old), ("new", new))
    ]
    assert main(["config", "diff", *files]) == code
    lines = capsys.readouterr().out
    assert f"shop (de): {effect}" in lines
    assert "Swords" not in lines
    assert main(["config", "diff", *files, "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert (found["effect"], found["name"]) == (effect, "shop")
    assert main(["config", "diff", *files, "--show-texts"]) == code
    assert ("Swords" in capsys.readouterr().out) == isinstance(new, str)


def test_diff_refuses_two_configs(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = desk.write("one.yaml", []), desk.write("other.yaml", [])
    Path(other).write_text(Path(other).read_text().replace("shop", "bank"))
    assert main(["config", "diff", one, other]) == 2
    assert main(["config", "diff", "none", "none"]) == 2
    assert "one config" in capsys.readouterr().err


def test_a_loosening_goes_from_desk_to_desk(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = desk.write("old.yaml", []), desk.write("new.yaml", ["violence"])
    step = (new, "--old", old)
    assert desk.run("approve", *step, key="bob") == 2
    assert "no statements propose this change" in capsys.readouterr().err
    assert desk.run("propose", *step, "--author", "ada", key="ada") == 0
    assert desk.run("approve", *step, key="bob") == 0
    assert desk.run("verify", *step) == 2
    assert "ApprovalsMissing: 1 missing of 2 approvals" in capsys.readouterr().err
    assert desk.run("approve", *step, key="ada") == 0  # signed, and worth nothing
    assert desk.run("verify", *step) == 2
    assert "ada is the author" in capsys.readouterr().err
    assert desk.run("approve", *step, key="cy") == 0
    assert desk.run("verify", *step) == 0
    assert "Approved: approved by bob, cy" in capsys.readouterr().out
    assert desk.run("verify", *step, "--at", "2099-01-01") == 2
    assert desk.run("verify", *step, "--json") == 0
    assert main(["config", "bundle", str(desk.folder / "shop.approvals")]) == 0
    bundle = capsys.readouterr().out.splitlines()[-1]
    (signed,) = parse_bundle(bundle, "bundle")
    assert len(signed.signatures) == 4


def test_history_goes_on_from_statement_to_statement(desk: Desk) -> None:
    none, strict, loose = (
        "none",
        desk.write("strict.yaml", []),
        desk.write("loose.yaml", ["violence"]),
    )
    steps = [(strict, none), (loose, strict), (strict, loose)]
    for new, old in steps:
        step = (new, "--old", old)
        assert desk.run("propose", *step, "--author", "ada", key="ada") == 0
        for name in ("bob", "cy"):
            assert desk.run("approve", *step, key=name) == 0
        assert desk.run("verify", *step) == 0
    # The second approval lies there still; it was for another step of the history.
    assert desk.run("verify", loose, "--old", strict) == 2
    assert desk.run("propose", loose, "--old", strict, "--author", "ada", key="ada") == 0
    assert desk.run("verify", loose, "--old", strict) == 2
    for name in ("bob", "cy"):
        assert desk.run("approve", loose, "--old", strict, key=name) == 0
    assert desk.run("verify", loose, "--old", strict) == 0


def test_what_was_removed_is_added_again_by_a_statement_that_builds_on_its_history(
    desk: Desk,
) -> None:
    first, again = desk.write("first.yaml", []), desk.write("again.yaml", [], owner="Cy")
    for file in (first, again):
        step = (file, "--old", "none")
        assert desk.run("propose", *step, "--author", "ada", key="ada") == 0
        assert desk.run("approve", *step, key="bob") == 0
        assert desk.run("verify", *step) == 0
    found = [json.loads(f.read_text()) for f in (desk.folder / "shop.approvals").glob("*.json")]
    assert sorted(statement["previous"] is None for statement in found) == [False, True]
    assert desk.run("verify", "none", "--old", again) == 2


@pytest.mark.parametrize("approved", [True, False])
def test_what_is_in_force_may_come_from_the_root(desk: Desk, approved: bool) -> None:
    old, new = desk.write("old.yaml", ["violence"]), desk.write("new.yaml", [])
    storage = open_storage(str(desk.folder / "root"))
    assert desk.run("propose", old, "--root", storage.uri, "--author", "ada", key="ada") == 0
    for name in ("bob", "cy"):
        assert desk.run("approve", old, "--root", storage.uri, key=name) == 0
    (added,) = read_approvals(open_storage(str(desk.folder)), "shop.approvals")
    document = yaml.safe_load(Path(old).read_text())
    config = parse_safety_config(json.dumps(document), "old", KNOWN)
    entry: AcceptedConfig = accepted_config(
        config, document, "2026-06-01", ("bob", "cy"), added.digest
    )
    if approved:
        keep_statement(storage, added)
    AcceptedSet(storage).publish([entry], "reconcile", "2026-06-01")
    step = (new, "--root", storage.uri)
    assert desk.run("propose", *step, "--author", "ada", key="ada") == 0
    found = read_approvals(open_storage(str(desk.folder)), "shop.approvals")
    (proposed,) = (s.statement for s in found if s.digest != added.digest)
    assert proposed.previous == added.digest
    # What only says that it was approved is not in force, so all that is wanted is new.
    assert (proposed.before is not None) == approved
    assert desk.run("approve", *step, key="bob") == 0
    assert desk.run("verify", *step) == 0


def test_who_may_not_propose_is_told(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    new = desk.write("new.yaml", [])
    arguments = (new, "--old", "none", "--author", "eve")
    assert desk.run("propose", *arguments, key="ada") == 2
    assert "'eve' may not propose" in capsys.readouterr().err
    assert desk.run("propose", new, "--author", "ada", key="ada") == 2
    assert "what is in force?" in capsys.readouterr().err
    assert desk.run("propose", new, "--old", new, "--author", "ada", key="ada") == 2
    assert "nothing changes" in capsys.readouterr().err


def test_a_key_that_cannot_sign_is_named(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    new = desk.write("new.yaml", [])
    desk.keys.made["gone"] = desk.folder / "no such key"
    assert desk.run("propose", new, "--old", "none", "--author", "ada", key="gone") == 2
    assert "could not sign" in capsys.readouterr().err


def test_signers_are_printed_for_openssh(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "signers", str(desk.folder / "approvers.json")]) == 0
    out = capsys.readouterr().out
    (desk.folder / "allowed").write_text(out)
    command = ["ssh-keygen", "-Y", "find-principals", "-f", str(desk.folder / "allowed"), "-s"]
    namespace = "config-approval@cosalign.dev"
    (desk.folder / "sig").write_text(desk.keys.sign("bob", b"x", namespace))
    found = subprocess.run([*command, str(desk.folder / "sig")], capture_output=True, check=True)
    assert found.stdout.decode().strip() == "bob"
