"""Reads the regions' safety configs from files, folders and ``gs://`` addresses."""

from __future__ import annotations

from collections.abc import Iterable

from cosalign.domain.errors import DataError, SafetyConfigError, TaxonomyError
from cosalign.domain.run_config import TaxonomyGroup
from cosalign.domain.safety_config import SafetyConfig, parse_safety_config
from cosalign.domain.taxonomy import Taxonomy, load_taxonomy, parse_taxonomy, shipped_taxonomies
from cosalign.store.storage import list_uris, read_uri


def taxonomy_text(file: str) -> str:
    """The text of a taxonomy file, local or ``gs://``: pods see no other.

    Raises:
        TaxonomyError: There is no such file.
    """
    try:
        return read_uri(file).decode("utf-8", "replace")
    except DataError:
        raise TaxonomyError(f"{file}: no such taxonomy file; correct taxonomy.files") from None


def run_taxonomy(group: TaxonomyGroup) -> Taxonomy:
    """The taxonomy that a run config names.

    Raises:
        TaxonomyError: No file holds it.
    """
    return load_taxonomy(group.name, group.version, group.files, taxonomy_text)


def known_taxonomies(files: Iterable[str] = ()) -> dict[str, Taxonomy]:
    """The shipped taxonomies and those of some files, by ``"name version"``."""
    shipped = [parse_taxonomy(text, "shipped taxonomy") for text in shipped_taxonomies().values()]
    given = [parse_taxonomy(taxonomy_text(file), file) for file in files]
    return {f"{t.name} {t.version}": t for t in (*shipped, *given)}


def read_safety_configs(
    addresses: Iterable[str], taxonomies: dict[str, Taxonomy]
) -> list[SafetyConfig]:
    """All configs of some files or folders, sorted by name.

    Raises:
        SafetyConfigError: A file is wrong, two have one name, or an address holds none.
    """
    found: dict[str, SafetyConfig] = {}
    for address in addresses:
        uris = list_uris(address, ".yaml")
        if not uris:
            raise SafetyConfigError(f"{address}: no *.yaml file there; correct the address")
        for uri in uris:
            config = parse_safety_config(read_uri(uri).decode("utf-8", "replace"), uri, taxonomies)
            if config.name in found:
                raise SafetyConfigError(
                    f"{uri}: metadata.name {config.name!r} is used by another file; rename one"
                )
            found[config.name] = config
    return [found[name] for name in sorted(found)]
