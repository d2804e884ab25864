"""``cosalign compile``: write the compiled pipelines, or check that they are current."""

from __future__ import annotations

from pathlib import Path

import click

from cosalign.domain.errors import StorageError, UserError
from cosalign.pipelines.compilation import GRAPHS, compile_pipeline
from cosalign.pipelines.given_images import with_images


@click.command("compile")
@click.argument("name", required=False, type=click.Choice(list(GRAPHS)))
@click.option("--check", is_flag=True, help="Write nothing; fail if a file is not current.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write or check one pipeline as the one file (.yaml) that KFP's client and UI take; "
    "cosalign unless NAME says otherwise.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Make the images in this file, dist/images.yaml for instance, the pipeline's own; with "
    "--output.",
)
def compile_command(
    name: str | None, check: bool, output: Path | None, images: Path | None
) -> None:
    """Compile the pipelines, or NAME alone, to KFP's JSON."""
    files: dict[Path, str] = {}
    if output is not None:
        compiled = compile_pipeline(name or next(iter(GRAPHS)))
        files[output] = (with_images(compiled, images) if images else compiled).package()
    elif images is not None:
        raise UserError(
            "--images: what ships names no registry; say with --output FILE where to write"
        )
    else:
        for graph in [name] if name else GRAPHS:
            files.update(compile_pipeline(graph).files(graph))
    for target, text in files.items():
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
