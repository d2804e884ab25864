from __future__ import annotations

import pytest
from click.testing import CliRunner, Result
from tests.store.ledger_rows import drinks, key, parts, row

from cosalign.domain.errors import DataError
from cosalign.store.commands import ledger
from cosalign.store.storage import Storage


def run(*arguments: str) -> Result:
    return CliRunner().invoke(ledger, arguments)


@pytest.fixture
def filled(storage: Storage) -> Storage:
    book = drinks(storage)
    book.append([row(1), row(2), row(3, "", failure="timed out")])
    book.append([row(1), row(4)])
    book.erase([key(4)])
    return storage


def test_stats_count_what_both_ledgers_hold(filled: Storage) -> None:
    done = run("stats", filled.uri)
    assert done.exit_code == 0
    responses, verdicts, references, continuations = done.output.splitlines()
    size = sum(stat.size for stat in filled.list("ledgers/responses/parts"))
    assert responses.split("\t") == [
        "responses",
        "parts 2",
        "rows 4",
        "keys 2",
        "failures 1",
        f"bytes {size}",
        "erased 1",
    ]
    for name, line in (("verdicts", verdicts), ("references", references)):
        assert line.startswith(f"{name}\tparts 0\trows 0")
    assert continuations.startswith("continuations\t")


def test_verify_says_that_all_is_well(filled: Storage) -> None:
    done = run("verify", filled.uri)
    assert (done.exit_code, done.output) == (0, "all parts are readable\n")


def test_verify_names_torn_parts(filled: Storage) -> None:
    torn = parts(filled)[0]
    filled.write_bytes(torn, b"PAR1")
    done = run("verify", filled.uri)
    assert done.output == f"{torn}\n"
    assert isinstance(done.exception, DataError)
    assert "1 parts are torn; delete these files" in str(done.exception)
    assert done.exception.exit_code == 2


def test_compact_tells_what_it_merged(filled: Storage) -> None:
    done = run("compact", filled.uri)
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "responses\tparts 2 -> 1\trows 3",
        *(f"{name}\tparts 0 -> 0\trows 0" for name in ("verdicts", "references", "continuations")),
    ]
    assert len(parts(filled)) == 1


def test_no_command_prints_a_text(filled: Storage) -> None:
    for command in ("stats", "verify", "compact"):
        assert "brewery" not in run(command, filled.uri).output
