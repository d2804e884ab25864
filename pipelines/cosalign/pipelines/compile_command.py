"""``cosalign compile``: write the compiled pipeline, or check that it is current."""

from __future__ import annotations

from pathlib import Path

import click

from cosalign.domain.errors import StorageError, UserError
from cosalign.pipelines.compilation import compile_pipeline, compiled_path

_PIPELINE = "cosalign"


@click.command("compile")
@click.option("--check", is_flag=True, help="Write nothing; fail if the file is not current.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write or check; the checked-in one by default.",
)
def compile_command(check: bool, output: Path | None) -> None:
    """Compile the pipeline to KFP's JSON."""
    target = compiled_path(_PIPELINE) if output is None else output
    text = compile_pipeline(_PIPELINE)
    if check:
        _check(target, text, output is not None)
    else:
        _write(target, text)


def _check(target: Path, text: str, named: bool) -> None:
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        click.echo(f"{target}: current")
        return
    state = "is not current" if target.is_file() else "does not exist"
    command = f"cosalign compile --output {target}" if named else "cosalign compile"
    raise UserError(f"{target} {state}: run `{command}` and commit the result")


def _write(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise StorageError(
            f"{target}: {problem.strerror}; choose a place with --output FILE"
        ) from None
    click.echo(f"wrote {target}")
