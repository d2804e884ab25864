"""``cosalign config diff``, ``propose``, ``approve``, ``verify`` and ``bundle``.

They add to the commands that check and show configs. What a command prints holds no text of a
policy or a prompt unless it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cosalign.runtime.config_commands import config

if TYPE_CHECKING:
    from cosalign.domain.config_change import ConfigChange, PolicyReader, Taxonomies
    from cosalign.domain.safety_config import SafetyConfig
    from cosalign.retraining.approvers import Approvers
    from cosalign.retraining.config_sources import Step

__all__ = ["config"]

EXIT_CODES = {"edits": 10, "tightens": 11, "loosens": 12}

_taxonomy_files = click.option(
    "--taxonomy-file", "taxonomy_files", multiple=True, help="A taxonomy file to know."
)
_readings = click.option(
    "--readings",
    metavar="ROOT",
    help="Storage root with readings of prose (cosalign judge read); --root's where unset.",
)
_profile = click.option(
    "--profile",
    metavar="NAME|FILE",
    help="The run config of reconcile: readings count as its judge makes them; all where unset.",
)
_approvers = click.option(
    "--approvers", required=True, metavar="FILE", help="Who may propose and approve."
)
_key = click.option(
    "--key",
    default="~/.ssh/id_ed25519",
    show_default=True,
    help="Your SSH key; the public one of a key that an agent holds.",
)


def _step_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say which step of which config is meant."""
    options = [
        click.argument("file"),
        click.option("--old", metavar="FILE", help="The version in force; none for none."),
        click.option("--root", metavar="ROOT", help="Storage root that keeps what is accepted."),
        click.option(
            "--model", default="main", show_default=True, help="Name of the accepted set."
        ),
        click.option("--previous", metavar="DIGEST", help="The statement in force; none for none."),
        click.option("--namespace", metavar="NAME", help="Where FILE does not name it."),
        _taxonomy_files,
        _readings,
        _profile,
        _approvers,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@config.command("diff")
@click.argument("old")
@click.argument("new")
@_taxonomy_files
@_readings
@_profile
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--show-texts", is_flag=True, help="Print the policies themselves too.")
def diff_command(
    old: str,
    new: str,
    taxonomy_files: tuple[str, ...],
    readings: str | None,
    profile: str | None,
    as_json: bool,
    show_texts: bool,
) -> int:
    """Say what changes between two versions of a config, and who has to approve it.

    OLD and NEW are files, local or gs://; `none` for no version. Ends with exit code 0 where
    nothing has to be approved, 10 for an edit, 11 where it tightens, 12 where it loosens.
    """
    from cosalign.domain.config_change import config_change
    from cosalign.domain.errors import UserError
    from cosalign.retraining.config_sources import read_version
    from cosalign.runtime.safety_config_files import known_taxonomies

    taxonomies = known_taxonomies(taxonomy_files)
    before, after = (read_version(address, taxonomies).config for address in (old, new))
    named = {side.name for side in (before, after) if side is not None}
    if len(named) != 1:
        raise UserError(f"{old} and {new} have to hold one config, by one name; found {named}")
    change = config_change(before, after, taxonomies, _reader(readings, profile, taxonomies))
    texts = {"old": before, "new": after} if show_texts else {}
    if as_json:
        click.echo(json.dumps({**change_plain(change), **_texts(texts)}, indent=2))
    else:
        for line in change_lines(change):
            click.echo(line)
        for side, text in _texts(texts).items():
            click.echo(f"\n{side}:\n{text}")
    return EXIT_CODES[change.effect.value] if change.approvals else 0


@config.command("propose")
@_step_options
@click.option("--author", required=True, metavar="NAME", help="You, as the approvers file has it.")
@_key
def propose_command(author: str, key: str, **options: Any) -> None:
    """Propose a change of a config as its author, and sign the proposal.

    Writes the statement and your signature into NAME.approvals beside FILE; commit them with it.
    """
    from cosalign.retraining.approvers import read_approvers
    from cosalign.retraining.proposals import propose

    approvers = read_approvers(options.pop("approvers"))
    step, change = _step_and_change(options, approvers)
    signed = propose(
        change, step.new.config, approvers, author, step.accepted.statement,
        step.accepted.namespace, datetime.now(UTC),
    )  # fmt: skip
    for line in change_lines(change):
        click.echo(line)
    click.echo(f"statement: {step.folder.keep(signed)}")
    click.echo(f"signature: {step.folder.sign(signed, 'author', Path(key))}")


@config.command("approve")
@_step_options
@_key
def approve_command(key: str, **options: Any) -> None:
    """Approve a change that somebody else proposed.

    The change is computed anew here, from FILE and the version in force; a statement that says
    otherwise is not signed.
    """
    from cosalign.retraining.approvers import read_approvers
    from cosalign.retraining.proposals import statement_of

    approvers = read_approvers(options.pop("approvers"))
    step, change = _step_and_change(options, approvers)
    previous = step.accepted.statement
    found = statement_of(change, step.approvals, approvers.installation, previous)
    click.echo(f"proposed by {found.statement.author}, until {found.statement.valid_until}")
    for line in change_lines(change):
        click.echo(line)
    click.echo(f"signature: {step.folder.sign(found, 'approver', Path(key))}")


@config.command("verify")
@_step_options
@click.option("--at", metavar="TIME", help="As if it were then; ISO 8601.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify_command(at: str | None, as_json: bool, **options: Any) -> None:
    """Say whether a config would be admitted, and who proposed and approved it.

    Exit code 2 where it would not be.
    """
    from cosalign.domain.errors import UserError
    from cosalign.domain.safety_config import moment_of
    from cosalign.retraining.admission import admit
    from cosalign.retraining.approvers import read_approvers
    from cosalign.retraining.config_sources import StepRequest, read_step
    from cosalign.runtime.safety_config_files import known_taxonomies

    taxonomies = known_taxonomies(options.pop("taxonomy_files"))
    readings = options.pop("readings") or options["root"]
    reader = _reader(readings, options.pop("profile"), taxonomies)
    approvers = read_approvers(options.pop("approvers"))
    step = read_step(StepRequest(**options), taxonomies, approvers)
    moment = moment_of(at) if at else datetime.now(UTC)
    found = admit(
        step.new.config, step.accepted, step.approvals, approvers, moment, reader,
        taxonomies=taxonomies,
    )  # fmt: skip
    if as_json:
        plain = {
            "accepted": found.accepted, "reason": found.reason.value, "message": found.message,
            "author": found.author, "approvers": list(found.approvers),
            "statement": found.statement, "change": change_plain(found.change),
        }  # fmt: skip
        click.echo(json.dumps(plain, indent=2))
    else:
        for line in change_lines(found.change):
            click.echo(line)
    if not found.accepted:
        raise UserError(f"{found.change.name}: {found.reason.value}: {found.message}")
    if not as_json:
        click.echo(f"admitted: {found.reason.value}: {found.message}")


@config.command("bundle")
@click.argument("folder")
def bundle_command(folder: str) -> None:
    """Print the approvals in FOLDER (NAME.approvals) as one line.

    It goes into the annotation cosalign.dev/approvals of a SafetyConfig, or into a ConfigMap.
    """
    from cosalign.domain.errors import DataError
    from cosalign.retraining.approvals import as_bundle, read_approvals
    from cosalign.store.storage import open_storage

    parent, _, name = folder.rstrip("/").rpartition("/")
    found = read_approvals(open_storage(parent or "."), name)
    if not found:
        raise DataError(f"{folder}: no statement there; see cosalign config propose")
    click.echo(as_bundle(found))


@config.command("signers")
@click.argument("approvers")
def signers_command(approvers: str) -> None:
    """Print an approvers file in OpenSSH's form, for `ssh-keygen -Y verify -f`."""
    from cosalign.retraining.approvals import NAMESPACES
    from cosalign.retraining.approvers import allowed_signers, read_approvers

    click.echo(allowed_signers(read_approvers(approvers), NAMESPACES), nl=False)


def change_lines(change: ConfigChange) -> list[str]:
    """A change for people, without any text of a policy."""
    people = "nobody" if not change.approvals else f"{change.approvals} beside the author"
    head = (
        f"{change.name} ({', '.join(change.regions)}): {change.effect.value}; approvals: {people}"
    )
    return [head, *(
        f"  {part.field}\t{part.effect.value}{' (in doubt)' if part.doubt else ''}\t{part.says}"
        for part in change.parts
    )]  # fmt: skip


def change_plain(change: ConfigChange) -> dict[str, Any]:
    """A change as plain JSON, without any text of a policy."""
    return {
        "name": change.name, "regions": list(change.regions), "effect": change.effect.value,
        "approvals": change.approvals, "before": change.before, "after": change.after,
        "parts": [
            {"field": p.field, "effect": p.effect.value, "says": p.says, "doubt": p.doubt}
            for p in change.parts
        ],
    }  # fmt: skip


def _texts(sides: dict[str, SafetyConfig | None]) -> dict[str, str]:
    return {name: side.text or "" for name, side in sides.items() if side is not None}


def _reader(
    readings: str | None, profile: str | None, taxonomies: Taxonomies
) -> PolicyReader | None:
    from cosalign.judging.stored_readings import ReadAs, StoredReadings
    from cosalign.runtime.run_config import load_run_config
    from cosalign.store.storage import open_storage

    if readings is None:
        return None
    counted = None if profile is None else ReadAs.of(load_run_config(profile))
    return StoredReadings(open_storage(readings), taxonomies, counted)


def _step_and_change(options: dict[str, Any], approvers: Approvers) -> tuple[Step, ConfigChange]:
    from cosalign.domain.config_change import config_change
    from cosalign.retraining.config_sources import StepRequest, read_step
    from cosalign.runtime.safety_config_files import known_taxonomies

    taxonomies = known_taxonomies(options.pop("taxonomy_files"))
    readings = options.pop("readings") or options["root"]
    reader = _reader(readings, options.pop("profile"), taxonomies)
    step = read_step(StepRequest(**options), taxonomies, approvers)
    return step, config_change(step.accepted.config, step.new.config, taxonomies, reader)
