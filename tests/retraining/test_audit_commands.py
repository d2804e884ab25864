"""``cosalign audit``: what people see of the log, and the exit codes that scripts go by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosalign.pipelines.command_line import main
from cosalign.store.audit_log import AuditLog, entry_path
from cosalign.store.storage import open_storage


@pytest.fixture
def root(tmp_path: Path) -> str:
    log = AuditLog(open_storage(str(tmp_path)))
    log.append("ConfigAccepted", "shop", by="ada", approvers=["bob"], digest="d" * 64)
    log.append("Promoted", "main", by="cy", model="e" * 64)
    return str(tmp_path)


def test_show_prints_what_is_asked_for(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "show", "--root", root]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[2:5] for line in lines] == [
        ["ConfigAccepted", "shop", "ada"],
        ["Promoted", "main", "cy"],
    ]
    assert 'approvers=["bob"] digest=dddddddddddd' in lines[0]
    for option in (["--event", "Promoted"], ["--subject", "main"], ["--after", "1"]):
        assert main(["audit", "show", "--root", root, "--json", *option]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line)["details"] == {"model": "e" * 64}


def test_verify_prints_what_to_expect_next_time(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "verify", "--root", root]) == 0
    whole, expect = capsys.readouterr().out.splitlines()
    assert whole.startswith("2 entries")
    anchor = expect.removeprefix("expect ")
    assert main(["audit", "verify", "--root", root, "--expect", anchor, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tip"] == anchor
    storage = open_storage(root)
    storage.delete(entry_path(2))
    storage.delete("audit/tip.json")
    assert main(["audit", "verify", "--root", root]) == 0
    assert main(["audit", "verify", "--root", root, "--expect", anchor]) == 2
    found = capsys.readouterr()
    assert "00000002.json: was verified before and is not there" in found.out
    assert "1 faults" in found.err


@pytest.mark.parametrize("anchor", ["2", "x:y", "2:abc"])
def test_an_anchor_that_is_none_is_refused(
    root: str, capsys: pytest.CaptureFixture[str], anchor: str
) -> None:
    assert main(["audit", "verify", "--root", root, "--expect", anchor]) == 2
    assert "NUMBER:DIGEST" in capsys.readouterr().err


def test_a_log_that_is_gone_or_elsewhere_is_not_called_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "verify", "--root", str(tmp_path / "elsewhere")]) == 2
    found = capsys.readouterr()
    assert "whole" not in found.out
    assert f"{tmp_path / 'elsewhere'}: there is no audit log here" in found.err
