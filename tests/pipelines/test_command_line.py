"""The ``cosalign`` command: fast help, exit codes, messages."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from cosalign.domain.errors import CosalignError, EngineUnavailable, UserError
from cosalign.pipelines import command_line
from cosalign.pipelines.command_line import COMMANDS, main
from cosalign.pipelines.images import VERSION

HEAVY = ("kfp", "torch", "pyarrow", "pydantic", "numpy", "transformers", "vllm", "google.cloud")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_and_version_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import json, sys; from cosalign.pipelines.command_line import main;"
        f"main({arguments!r}); print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    imported = set(json.loads(done.stderr.splitlines()[-1]))
    assert "click" in imported
    assert imported.isdisjoint(HEAVY)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and entry.help in shown for name, entry in COMMANDS.items())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert VERSION in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_of_the_table_exists_and_has_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    assert f"cosalign {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["rum"], "No such command 'rum'"), (["run"], "--profile"), (["run", "--what"], "--what")],
)
def test_wrong_usage_exits_2_with_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def failing(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("fail", callback=fail)


@pytest.mark.parametrize(
    ("error", "code", "traceback"),
    [
        (UserError("wrong value 3: write 4"), 2, False),
        (EngineUnavailable("the engine went away"), 75, False),
        (CosalignError("a defect"), 70, True),
        (RuntimeError("a defect"), 70, True),
        (KeyboardInterrupt(), 130, False),
        (click.Abort(), 130, False),
        (click.ClickException("a click error"), 1, False),
    ],
)
def test_errors_become_exit_codes_and_only_defects_show_a_traceback(
    error: BaseException,
    code: int,
    traceback: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command_line.LazyCommand, "load", lambda _: failing(error))
    assert main(["run"]) == code
    shown = capsys.readouterr().err
    assert ("Traceback" in shown) is traceback
    assert str(error) in shown


def test_a_command_of_another_image_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for missing, code in (("cosalign.absent", 2), ("absent", 70)):
        absent = command_line.LazyCommand(f"{missing}.commands:run", "Gone.")
        monkeypatch.setitem(command_line.COMMANDS, "run", absent)
        assert main(["run"]) == code
        shown = capsys.readouterr().err
        assert ("Traceback" in shown) is (code == 70)
        assert f"needs {missing}, which this image" in shown or code == 70


def test_the_installed_command_passes_the_exit_code_on() -> None:
    code = "import sys; from cosalign.pipelines.command_line import main; sys.exit(main(['rum']))"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode
        == 2
    )
