"""``cosalign audit``: what the audit log says, and whether it is whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cosalign.store.audit_verification import Anchor

_root = click.option("--root", default="cosalign-out", show_default=True, help="Storage root.")
_SHORT = 12


@click.group()
def audit() -> None:
    """Read the audit log, and see whether it was altered."""


@audit.command("show")
@_root
@click.option("--after", default=0, show_default=True, help="Entries behind this number.")
@click.option("--event", metavar="NAME", help="Entries of one event.")
@click.option("--subject", metavar="NAME", help="Entries about one subject.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
def show_command(
    root: str, after: int, event: str | None, subject: str | None, as_json: bool
) -> None:
    """Print entries, oldest first."""
    from cosalign.store.audit_log import AuditLog
    from cosalign.store.storage import open_storage

    for entry in AuditLog(open_storage(root)).entries(after):
        if (event not in (None, entry.event)) or (subject not in (None, entry.subject)):
            continue
        if as_json:
            click.echo(json.dumps(entry.model_dump(mode="json"), sort_keys=True))
            continue
        details = " ".join(f"{key}={_brief(value)}" for key, value in entry.details.items())
        click.echo(
            f"{entry.number}\t{entry.at}\t{entry.event}\t{entry.subject}\t{entry.by}\t{details}"
        )


@audit.command("verify")
@_root
@click.option(
    "--expect",
    metavar="NUMBER:DIGEST",
    help="The newest entry as an earlier verification printed it, kept elsewhere.",
)
@click.option("--no-artifacts", is_flag=True, help="Do not hash again what entries name.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify_command(root: str, expect: str | None, no_artifacts: bool, as_json: bool) -> None:
    """Read the whole log and name what was altered; exit code 2 if anything was or there is none.

    Everything that ever was accepted is held against the approval that the log has of it.

    An end that was cut off together with the pointer to it can only be seen with --expect: keep
    what this command prints where the log's writers cannot reach it.
    """
    from cosalign.domain.errors import DataError
    from cosalign.retraining.accepted_audit import AcceptedAudit
    from cosalign.store.audit_verification import verify_log
    from cosalign.store.storage import open_storage

    anchor = None if expect is None else _anchor(expect)
    storage, audit = open_storage(root), AcceptedAudit()
    found = verify_log(storage, anchor, artifacts=not no_artifacts, watch=audit.note)
    found = replace(found, faults=(*found.faults, *audit.faults(storage)))
    tip = f"{found.tip.number}:{found.tip.digest}" if found.tip else None
    if as_json:
        faults = [{"where": fault.where, "says": fault.says} for fault in found.faults]
        plain = {
            "entries": found.entries, "artifacts": found.artifacts, "tip": tip, "faults": faults,
        }  # fmt: skip
        click.echo(json.dumps(plain, indent=2))
    else:
        for fault in found.faults:
            click.echo(f"{fault.where}: {fault.says}")
    if found.faults:
        raise DataError(
            f"the audit log or what it rests on was altered: {len(found.faults)} faults; restore "
            "what they name from the bucket's versions, and find out who could write there"
        )
    if tip is None:
        raise DataError(
            f"{root}: there is no audit log here; correct --root, or, where there was one, restore "
            "it from the bucket's versions: nothing that promotes or accepts leaves it empty"
        )
    if not as_json:
        click.echo(f"{found.entries} entries, {found.artifacts} objects that they rest on: whole")
        click.echo(f"expect {tip}")


def _anchor(given: str) -> Anchor:
    from cosalign.domain.errors import UserError
    from cosalign.store.audit_verification import Anchor

    number, _, digest = given.partition(":")
    if not number.isdigit() or len(digest) != 64:  # noqa: PLR2004  hex digits of SHA-256
        raise UserError(
            f"--expect {given!r}: write NUMBER:DIGEST as cosalign audit verify prints it"
        )
    return Anchor(int(number), digest)


def _brief(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    is_digest = len(text) == 64 and all(c in "0123456789abcdef" for c in text)  # noqa: PLR2004
    return text[:_SHORT] if is_digest else text
