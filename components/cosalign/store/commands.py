"""``cosalign ledger``: look at ledgers, check them, compact them, erase from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cosalign.store.erasure_plan import ErasurePlan, Selection
    from cosalign.store.ledger import Ledger
    from cosalign.store.storage import Storage


@click.group()
def ledger() -> None:
    """Look after the ledgers of paid work."""


def _ledgers(root: str) -> list[tuple[str, Ledger]]:
    from cosalign.domain.schemas import LEDGERS
    from cosalign.store.ledger import Ledger
    from cosalign.store.storage import open_storage

    storage = open_storage(root)
    return [(name, Ledger(storage, name, schema)) for name, schema in LEDGERS.items()]


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


@ledger.command("erase")
@click.argument("root")
@click.option("--prompt", "prompts", multiple=True, metavar="ID", help="A prompt, by id.")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="All prompts of a source.")
@click.option("--region", "regions", multiple=True, metavar="NAME",
              help="A region's policies, and what was answered under them alone.")  # fmt: skip
@click.option("--older-than", "before", metavar="DATE", help="What was made before; ISO 8601.")
@click.option("--apply", "applied", is_flag=True, help="Erase; without it, only say what would go.")
@click.option("--by", metavar="NAME", help="On whose word; needed with --apply.")
@click.option("--reason", metavar="TEXT", help="Why; needed with --apply.")
@click.option("--no-compact", is_flag=True, help="Leave erased bytes to the next compaction.")
def erase_command(
    root: str, before: str | None, applied: bool, no_compact: bool, **options: Any
) -> None:
    """Erase texts from ledgers and tables, on record; without --apply, say what would go.

    Prompts that are named, by id or by source, are read by no later run. Tables that hold a text
    go as a whole, and are made anew from the ledgers by a full run. Models stay, and are listed.
    """
    from cosalign.domain.errors import UserError
    from cosalign.domain.safety_config import moment_of
    from cosalign.store.erasure_plan import Selection, plan_erasure
    from cosalign.store.erasures import finish_erasures
    from cosalign.store.storage import open_storage

    named = [frozenset(options[name]) for name in ("prompts", "sources", "regions")]
    if not (any(named) or before):
        raise UserError("say what to erase: --prompt, --source, --region or --older-than")
    word = (options["by"] or "", options["reason"] or "")
    if applied and not all(word):
        raise UserError("--apply needs --by and --reason, which the audit log keeps")
    try:
        moment = moment_of(before) if before else None
    except ValueError:
        raise UserError(f"--older-than {before!r}: write an ISO 8601 date, 2026-12-31") from None
    storage = open_storage(root)
    if applied:
        for name in finish_erasures(storage):
            click.echo(f"finished {name}, which somebody had begun")
    prompts, sources, regions = named
    selection = Selection(prompts, sources, regions, moment)
    plan = plan_erasure(storage, selection)
    _show_plan(plan)
    if applied:
        _apply(storage, plan, selection, word, not no_compact)
    else:
        click.echo("nothing was erased; add --apply, --by and --reason")


def _show_plan(plan: ErasurePlan) -> None:
    click.echo(f"prompts\t{len(plan.prompts)}")
    for name, keys in plan.keys.items():
        click.echo(f"ledger {name}\t{len(keys)} rows")
    for path in sorted(plan.tables):
        click.echo(f"file\t{path}")
    for model in sorted(plan.models):
        click.echo(f"stays\t{model}, trained on what goes")


def _apply(
    storage: Storage, plan: ErasurePlan, selection: Selection, word: tuple[str, str], compact: bool
) -> None:
    from datetime import UTC, datetime

    from cosalign.store.erasures import Erasure, erase

    asked = {"prompts": str(len(selection.prompts)), "sources": ", ".join(selection.sources),
             "regions": ", ".join(selection.regions),
             "before": selection.before.isoformat() if selection.before else ""}  # fmt: skip
    erasure = Erasure(
        by=word[0], reason=word[1], at=datetime.now(UTC).isoformat(timespec="seconds"),
        selection={name: said for name, said in asked.items() if said not in ("", "0")},
        prompts=tuple(sorted(plan.prompts)), tables=tuple(sorted(plan.tables)),
        keys={name: tuple(sorted(k.hex() for k in keys)) for name, keys in plan.keys.items()},
        models=tuple(sorted(plan.models)), compact=compact,
    )  # fmt: skip
    click.echo(f"erased, on record as {erase(storage, erasure)}")
