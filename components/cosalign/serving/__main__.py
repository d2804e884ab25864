"""Container entry of the serving image: the gateway, and what stands beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from cosalign.runtime.exit_codes import run_and_exit_code
from cosalign.runtime.self_test import print_self_test
from cosalign.runtime.version import VERSION
from cosalign.serving.commands import gateway


def main(argv: Sequence[str]) -> int:
    """Runs a command; gives the exit code."""
    if list(argv) == ["--version"]:
        click.echo(VERSION)
        return 0
    if list(argv) == ["--self-test"]:
        return run_and_exit_code(lambda: print_self_test("serving"))
    codes: list[int] = []

    def invoke() -> None:
        try:
            gateway.main(list(argv), prog_name="python -m cosalign.serving", standalone_mode=False)
        except click.ClickException as problem:
            problem.show()
            codes.append(problem.exit_code)

    return run_and_exit_code(invoke) or (codes[0] if codes else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
