"""``cosalign config`` and ``cosalign profile``: show settings, check files."""

from __future__ import annotations

import click


@click.group()
def config() -> None:
    """Check and show safety configs."""


@config.command("validate")
@click.argument("addresses", nargs=-1, required=True)
@click.option("--taxonomy-file", "taxonomy_files", multiple=True, help="A taxonomy file to know.")
def validate(addresses: tuple[str, ...], taxonomy_files: tuple[str, ...]) -> None:
    """Check safety config files or folders of them, local or gs://."""
    from cosalign.runtime.safety_config_files import known_taxonomies, read_safety_configs

    for found in read_safety_configs(addresses, known_taxonomies(taxonomy_files)):
        click.echo(f"{found.name}\tregion {found.region}\t{found.kind}\t{found.digest}")


@config.command("render")
@click.argument("address")
@click.option("--taxonomy-file", "taxonomy_files", multiple=True, help="A taxonomy file to know.")
@click.option("--rendering", default=0, show_default=True, help="Which rendering, from 0.")
def render(address: str, taxonomy_files: tuple[str, ...], rendering: int) -> None:
    """Print the system prompt that a safety config becomes."""
    from cosalign.domain.config_rendering import render_safety_config
    from cosalign.runtime.safety_config_files import known_taxonomies, read_safety_configs

    taxonomies = known_taxonomies(taxonomy_files)
    by_digest = {taxonomy.digest: taxonomy for taxonomy in taxonomies.values()}
    for found in read_safety_configs([address], taxonomies):
        click.echo(render_safety_config(found, by_digest[found.taxonomy_digest], rendering).text)


@click.command()
@click.argument("name", default="small")
@click.option("--set", "overrides", multiple=True, help="Override one value: group.key=value.")
def profile(name: str, overrides: tuple[str, ...]) -> None:
    """Print a profile, every default filled in."""
    from cosalign.runtime.run_config import dump_run_config, load_run_config

    click.echo(dump_run_config(load_run_config(name, overrides)), nl=False)
