"""``cosalign benchmark``: build evaluation sets from a run's held-out prompts."""

from __future__ import annotations

import click


@click.group()
def benchmark() -> None:
    """Build benchmarks in the form of CoSAlign-Test."""


@benchmark.command("build")
@click.option("--composition", required=True, help="Table of configs and numbers of prompts, YAML.")
@click.option("--prompts", required=True, help="A run's prompts.parquet, local or gs://.")
@click.option("--out", required=True, help="Where it goes: .jsonl or .parquet, local or gs://.")
@click.option("--taxonomy", "name", default="cosa", show_default=True, help="Name of the taxonomy.")
@click.option("--taxonomy-version", "version", default="1", show_default=True)
@click.option("--taxonomy-file", "files", multiple=True, help="A taxonomy of one's own.")
@click.option("--allow-short", is_flag=True, help="Take what there is where prompts run out.")
def build(
    composition: str,
    prompts: str,
    out: str,
    name: str,
    version: str,
    files: tuple[str, ...],
    *,
    allow_short: bool,
) -> None:
    """Write a benchmark and, beside it, its manifest (OUT.manifest.json)."""
    import io
    import json

    import pyarrow.parquet as pq

    from cosalign.domain.errors import DataError
    from cosalign.domain.taxonomy import load_taxonomy
    from cosalign.evaluation.benchmark_build import (
        benchmark_bytes,
        benchmark_manifest,
        build_benchmark,
        parse_composition,
    )
    from cosalign.store.storage import open_storage, read_uri

    taxonomy = load_taxonomy(name, version, files)
    wanted = parse_composition(read_uri(composition).decode("utf-8", "replace"), composition)
    built = build_benchmark(wanted, pq.read_table(io.BytesIO(read_uri(prompts))), taxonomy)
    for config, what, missing in built.short:
        click.echo(f"{config}: {missing} prompts of {what} are missing", err=True)
    if built.short and not allow_short:
        raise DataError(
            f"{sum(entry[2] for entry in built.short)} prompts are missing; hold out more "
            "(prompts.held_out_share), ask for fewer, or say --allow-short"
        )
    data = benchmark_bytes(built.rows, parquet=out.endswith(".parquet"))
    folder, _, file = out.rpartition("/")
    storage = open_storage(folder or ".")
    manifest = benchmark_manifest(built, wanted, data, taxonomy)
    storage.write_bytes(file, data)
    text = json.dumps(manifest, indent=2, sort_keys=True)
    storage.write_bytes(f"{file}.manifest.json", f"{text}\n".encode())
    click.echo(f"{out}: {len(built.rows)} rows, sha256 {manifest['sha256'][:12]}")
