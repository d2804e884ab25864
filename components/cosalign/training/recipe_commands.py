"""``cosalign recipes``: which training recipes ship, and what one comes to."""

from __future__ import annotations

import click

from cosalign.domain.training_recipe import shipped_recipe, shipped_recipes


@click.group()
def recipes() -> None:
    """Show the training recipes that ship."""


@recipes.command("list")
def list_recipes() -> None:
    """Names, layouts and a line on each."""
    for name, recipe in shipped_recipes().items():
        click.echo(f"{name}\t{', '.join(recipe.layouts)}\t{recipe.summary}")


@recipes.command()
@click.argument("name")
@click.option("--layout", default=None, help="The machine: cpu, 1-gpu, 4-gpu or 8-gpu.")
def show(name: str, layout: str | None) -> None:
    """Print a recipe's reason, and the settings that it comes to, every default filled in."""
    from cosalign.domain.errors import ConfigError
    from cosalign.domain.run_config import TrainingGroup
    from cosalign.domain.validation import validated
    from cosalign.domain.yaml_text import dump_yaml

    recipe = shipped_recipe(name)
    named = {"recipe": name, **({"layout": layout} if layout else {})}
    group = validated(TrainingGroup, named, "training", ConfigError)
    click.echo(f"# {recipe.summary}\n# {recipe.reason}")
    click.echo(dump_yaml({"training": group.model_dump(mode="json")}), nl=False)
