from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from cosalign.domain.errors import CosalignError, DataError, StorageUnavailable
from cosalign.runtime.exit_codes import run_and_exit_code


def raising(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "traceback", "message"),
    [
        (DataError("rows are torn"), 2, False, "cosalign: error: rows are torn"),
        (StorageUnavailable("no answer; retry"), 75, False, "cosalign: error: no answer; retry"),
        (CosalignError("impossible"), 70, True, "cosalign: error: impossible"),
        (ValueError("beer"), 70, True, "ValueError: beer"),
        (OSError(errno.ENOSPC, "full", "/a/b"), 2, False, "the disk is full (/a/b); free space"),
        (OSError(errno.EDQUOT, "quota"), 2, False, "the disk is full (writing); free space"),
        (OSError(errno.EIO, "broken"), 70, True, "broken"),
        (KeyboardInterrupt(), 130, False, "interrupted; run again to go on"),
    ],
)
def test_errors_become_exit_codes_and_one_message(
    error: BaseException,
    code: int,
    traceback: bool,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_and_exit_code(raising(error)) == code
    said = capsys.readouterr()
    assert message in said.err
    assert ("Traceback" in said.err) == traceback
    assert said.out == ""


def test_success_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_and_exit_code(lambda: None) == 0
    assert capsys.readouterr().err == ""
