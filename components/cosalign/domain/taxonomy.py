"""The versioned risk taxonomy: names, definitions and the bit of each category.

Bit ``i`` of a mask is category ``i`` of the file (law 2). The last category is the catch-all that
no config can ever allow. The digest covers everything a judge or a model reads (names, titles,
definitions, order), so a table whose digest differs was made under other questions.

What a version supersedes is no part of the digest: no judge reads it, and it may be declared after
the fact, when verdicts are there already.

A taxonomy may bring its own templates, the wordings by which its configs are rendered: the shipped
ones quote whole definitions, which is right for policies about harm and too much to read for a
taxonomy of one-word topics or a very small model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from cosalign.domain.errors import TaxonomyError, nearest
from cosalign.domain.fingerprint import fingerprint
from cosalign.domain.supersession import Name, Supersedes, Version
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml

MAX_CATEGORIES = 32


class Category(StrictModel):
    """One kind of risk.

    Attributes:
        name: Identifier in configs and reports.
        title: How a config names it to the model.
        definition: What falls under it, as facts about a text.
    """

    name: Name
    title: str = Field(min_length=1, max_length=120)
    definition: str = Field(min_length=1, max_length=2000)


class Template(StrictModel):
    """One wording of a config; see ``config_templates.yaml``.

    Attributes:
        id: Part of a rendered config's identity.
        item: Renders one allowed category, from ``{title}`` and ``{definition}``.
        item_forbidden: Renders one category that is not allowed, and is not the catch-all. Where
            given, every category is stated, allowed or not, in one random order.
        separator: Stands between the items.
        some: The config, with ``{categories}`` for the items.
        none: The config that allows nothing; needed where forbidden categories go unstated.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    item: str
    item_forbidden: str | None = None
    separator: str = "\n"
    some: str
    none: str | None = None

    @field_validator("item", "item_forbidden", "some")
    @classmethod
    def _fills(cls, value: str | None, info: ValidationInfo) -> str | None:
        known = {"categories"} if info.field_name == "some" else {"title", "definition"}
        found = {name for _, name, _, _ in Formatter().parse(value or "") if name is not None}
        if found - known or (value is not None and not found):
            raise ValueError(f"must name {' or '.join(sorted(known))} in braces, nothing else")
        return value

    @model_validator(mode="after")
    def _says_none(self) -> Self:
        if self.none is None and self.item_forbidden is None:
            raise ValueError("give `none`, or `item_forbidden` to state what is not allowed")
        return self


class Taxonomy(StrictModel):
    """An ordered set of risk categories, the last of which is the catch-all.

    Attributes:
        templates: Wordings of its configs; the shipped ones where empty.
        supersedes: How its categories come from those of an earlier version.
    """

    kind: Literal["RiskTaxonomy"]
    name: Name
    version: Version
    categories: tuple[Category, ...] = Field(min_length=2, max_length=MAX_CATEGORIES)
    templates: tuple[Template, ...] = ()
    supersedes: Supersedes | None = None

    @field_validator("categories")
    @classmethod
    def _unique(cls, value: tuple[Category, ...]) -> tuple[Category, ...]:
        names = [category.name for category in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the category {twice[0]!r} stands twice")
        return value

    @field_validator("templates")
    @classmethod
    def _distinct(cls, value: tuple[Template, ...]) -> tuple[Template, ...]:
        ids = [template.id for template in value]
        if len(set(ids)) < len(ids):
            raise ValueError(f"each template needs its own id; found {ids}")
        return value

    @model_validator(mode="after")
    def _says_where_all_comes_from(self) -> Self:
        if self.supersedes is not None:
            self.supersedes.check_against(self.name, self.version, self.names)
        return self

    @cached_property
    def digest(self) -> str:
        """Identity of the taxonomy, 64 hex digits."""
        # Left out where empty, so that taxonomies without templates keep their identity.
        absent = {"supersedes"} if self.templates else {"supersedes", "templates"}
        return fingerprint("taxonomy", self.model_dump(mode="json", exclude=absent))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Category names in bit order."""
        return tuple(category.name for category in self.categories)

    @property
    def full_mask(self) -> int:
        """The mask of all categories."""
        return (1 << len(self.categories)) - 1

    @property
    def catch_all(self) -> int:
        """The mask of the catch-all, the last bit."""
        return 1 << (len(self.categories) - 1)

    @property
    def allowable_mask(self) -> int:
        """The mask of all categories that a config may allow: all but the catch-all."""
        return self.full_mask & ~self.catch_all

    def mask_of(self, names: Iterable[str]) -> int:
        """The mask of a set of category names.

        Raises:
            TaxonomyError: A name is not in the taxonomy; the nearest one is named.
        """
        mask = 0
        for name in names:
            if name not in self.names:
                raise TaxonomyError(
                    f"{name!r} is no category of taxonomy {self.name} {self.version}"
                    f"{nearest(name, self.names)}"
                )
            mask |= 1 << self.names.index(name)
        return mask

    def names_of(self, mask: int) -> tuple[str, ...]:
        """The category names of a mask, in bit order."""
        return tuple(name for i, name in enumerate(self.names) if mask >> i & 1)

    def bits_of(self, mask: int) -> tuple[int, ...]:
        """The category indices of a mask, ascending."""
        return tuple(i for i in range(len(self.categories)) if mask >> i & 1)


def parse_taxonomy(text: str, source: str) -> Taxonomy:
    """Reads a taxonomy from YAML text; ``source`` names it in messages.

    Raises:
        TaxonomyError: Fields are unknown, missing or wrong.
    """
    return validated(Taxonomy, parse_yaml(text, source, TaxonomyError), source, TaxonomyError)


def shipped_taxonomies() -> dict[tuple[str, str], str]:
    """The taxonomies that ship with the package: (name, version) to YAML text."""
    folder = resources.files("cosalign.domain") / "taxonomies"
    texts = [item.read_text("utf-8") for item in folder.iterdir() if item.name.endswith(".yaml")]
    found = (parse_taxonomy(text, "shipped taxonomy") for text in texts)
    return {(t.name, t.version): text for t, text in zip(found, texts, strict=True)}


def local_text(file: str) -> str:
    """The text of a local taxonomy file.

    Raises:
        TaxonomyError: There is no such file.
    """
    path = Path(file)
    if not path.is_file():
        raise TaxonomyError(f"{file}: no such taxonomy file; correct taxonomy.files")
    return path.read_text("utf-8", "replace")


def load_taxonomy(
    name: str,
    version: str,
    files: Iterable[str] = (),
    read: Callable[[str], str] = local_text,
) -> Taxonomy:
    """The taxonomy of a name and version, from the given files or from those that ship.

    Args:
        name: Its name.
        version: Its version.
        files: Taxonomy files beside the shipped ones.
        read: Gives the text of one; a layer above may know of more places than this one.

    Raises:
        TaxonomyError: No file holds it.
    """
    known = []
    for file in files:
        taxonomy = parse_taxonomy(read(file), file)
        known.append(f"{taxonomy.name} {taxonomy.version}")
        if (taxonomy.name, taxonomy.version) == (name, version):
            return taxonomy
    shipped = shipped_taxonomies()
    if (name, version) in shipped:
        return parse_taxonomy(shipped[name, version], f"shipped taxonomy {name}")
    known += [f"{n} {v}" for n, v in shipped]
    raise TaxonomyError(
        f"taxonomy {name} {version} is not known{nearest(f'{name} {version}', known)}"
    )
