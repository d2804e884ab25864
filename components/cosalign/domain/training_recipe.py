"""Training recipes: named settings with the reason for each, as files.

A run names one (``training.recipe``) and the machine it has (``training.layout``), and overrides
what it likes. What trains is what results from that; the names are no part of any identity, so
equal settings are the same training whatever they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from cosalign.domain.errors import ConfigError, nearest
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml


class Recipe(StrictModel):
    """One recipe.

    Attributes:
        summary: One line.
        reason: Why these values, and where they are from.
        settings: What goes into ``training``, on any machine.
        layouts: What goes in besides, by machine: processes and micro batches, which decide how
            fast and in how much memory, and not what is learnt.
    """

    summary: str
    reason: str
    settings: dict[str, Any]
    layouts: dict[str, dict[str, Any]]


@cache
def shipped_recipes() -> Mapping[str, Recipe]:
    """All recipes by name."""
    folder = resources.files("cosalign.domain") / "training_recipes"
    found = {}
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name.endswith(".yaml"):
            raw = parse_yaml(item.read_text("utf-8"), item.name, ConfigError)
            found[item.name.removesuffix(".yaml")] = validated(Recipe, raw, item.name, ConfigError)
    return found


def shipped_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        ConfigError: No such recipe ships.
    """
    recipes = shipped_recipes()
    if name not in recipes:
        raise ConfigError(f"no training recipe {name!r} ships{nearest(name, recipes)}")
    return recipes[name]


def with_recipe(training: Mapping[str, Any]) -> dict[str, Any]:
    """The ``training`` group as written, over the recipe and the layout that it names.

    Raises:
        ConfigError: It names a recipe or layout that does not ship, or a layout and no recipe.
    """
    name, layout = training.get("recipe"), training.get("layout")
    if name is None:
        if layout is not None:
            raise ConfigError(f"layout {layout!r} is one of a recipe's; name training.recipe too")
        return dict(training)
    recipe = shipped_recipe(str(name))
    if layout is not None and layout not in recipe.layouts:
        raise ConfigError(
            f"recipe {name!r} has no layout {layout!r}{nearest(layout, recipe.layouts)}"
        )
    machine = recipe.layouts[layout] if layout is not None else {}
    return _over(_over(recipe.settings, machine), training)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _over(old, value) if nested else value  # type: ignore[arg-type]
    return merged
