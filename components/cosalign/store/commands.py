"""``cosalign ledger``: look at ledgers, check them, compact them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cosalign.store.ledger import Ledger

_NAMES = ("responses", "verdicts")


@click.group()
def ledger() -> None:
    """Look after the ledgers of paid work."""


def _ledgers(root: str) -> list[tuple[str, Ledger]]:
    from cosalign.domain.schemas import RESPONSE_LEDGER, VERDICT_LEDGER
    from cosalign.store.ledger import Ledger
    from cosalign.store.storage import open_storage

    storage = open_storage(root)
    schemas = dict(zip(_NAMES, (RESPONSE_LEDGER, VERDICT_LEDGER), strict=True))
    return [(name, Ledger(storage, name, schema)) for name, schema in schemas.items()]


@ledger.command("stats")
@click.argument("root")
def stats(root: str) -> None:
    """Count parts, rows and keys under a storage root."""
    for name, found in _ledgers(root):
        figures = "\t".join(f"{key} {value}" for key, value in vars(found.stats()).items())
        click.echo(f"{name}\t{figures}")


@ledger.command("verify")
@click.argument("root")
def verify(root: str) -> None:
    """Name torn parts; exit code 2 if there are any."""
    from cosalign.domain.errors import DataError

    torn = [path for _, found in _ledgers(root) for path in found.verify()]
    for path in torn:
        click.echo(path)
    if torn:
        raise DataError(
            f"{len(torn)} parts are torn; delete these files and run again: only their rows are "
            "made anew"
        )
    click.echo("all parts are readable")


@ledger.command("compact")
@click.argument("root")
def compact(root: str) -> None:
    """Merge the parts of each ledger into one; erased rows and duplicates go."""
    for name, found in _ledgers(root):
        before, after = found.stats(), found.compact()
        click.echo(f"{name}\tparts {before.parts} -> {after.parts}\trows {after.rows}")
