"""``cosalign promote``, ``rollback``, ``models`` and ``report``: what people decide by, and do."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cosalign.evaluation.promotion import Author
    from cosalign.store.gate_file import ModelRef, StoredGate
    from cosalign.store.model_pointer import Entry
    from cosalign.store.storage import Storage

_SHORT = 12

_root = click.option("--root", default="cosalign-out", show_default=True, help="Storage root.")
_cache = click.option(
    "--cache", default="~/.cache/cosalign", show_default=True, help="Local folder for models."
)
_by = click.option("--by", metavar="NAME", help="Who decides; the system's user by default.")
_reason = click.option("--reason", metavar="TEXT", help="Why, for the history.")


@click.command("promote")
@click.argument("named", metavar="RUN|MODEL_MANIFEST")
@_root
@_cache
@_by
@_reason
@click.option("--name", metavar="NAME", help="Promote under this name; the gate's by default.")
@click.option("--override", metavar="REASON", help="Promote against the gate's word, and say why.")
def promote_command(
    named: str, root: str, cache: str, by: str | None, reason: str | None, name: str | None,
    override: str | None,
) -> None:  # fmt: skip
    """Make a model the current one.

    RUN is a run's id, an evaluation's fingerprint, or the address of its manifest.json: the model
    is the candidate of that evaluation's gate. MODEL_MANIFEST is the address of a
    model-manifest.json; the gates that the model stood before are looked up in the storage.
    """
    from cosalign.evaluation.promotion import promote
    from cosalign.store.model_pointer import ModelPointer
    from cosalign.store.storage import open_storage

    storage = open_storage(root)
    model, gates = _candidate(storage, named)
    chosen = name or next((gate.file.name for gate in gates), "main")
    pointer = ModelPointer(storage, chosen)
    author = _author(by, reason, override)
    entry = promote(pointer, model, gates, author, Path(cache).expanduser())
    if entry is None:
        click.echo(f"{chosen}: {model.digest[:_SHORT]} is current already")
    else:
        click.echo(f"{chosen}: {_line(entry)}")


@click.command("rollback")
@_root
@_cache
@_by
@_reason
@click.option("--name", default="main", show_default=True, metavar="NAME", help="Which name.")
@click.option("--to", "number", type=int, metavar="N", help="The entry to go back to.")
def rollback_command(
    root: str, cache: str, by: str | None, reason: str | None, name: str, number: int | None
) -> None:
    """Make an earlier model current again: the one before, or that of entry N.

    One rollback after another walks back through the models.
    """
    from cosalign.evaluation.promotion import roll_back
    from cosalign.store.model_pointer import ModelPointer
    from cosalign.store.storage import open_storage

    pointer = ModelPointer(open_storage(root), name)
    author = _author(by, reason, None)
    click.echo(f"{name}: {_line(roll_back(pointer, number, author, Path(cache).expanduser()))}")


@click.command("models")
@_root
@click.option("--name", default="main", show_default=True, metavar="NAME", help="Which name.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with full digests.")
def models_command(root: str, name: str, as_json: bool) -> None:
    """List what was promoted, oldest first; a star marks the current model."""
    from cosalign.store.model_pointer import ModelPointer
    from cosalign.store.storage import open_storage

    pointer = ModelPointer(open_storage(root), name)
    history = pointer.history()
    current = pointer.current()
    if as_json:
        entries = [entry.model_dump(mode="json") for entry in history]
        number = current.number if current else None
        click.echo(json.dumps({"name": name, "current": number, "history": entries}, indent=2))
        return
    if not history:
        click.echo(f"nothing was promoted as {name!r} yet; see cosalign promote --help")
    for entry in history:
        star = "*" if current and entry.number == current.number else " "
        click.echo(f"{star} {_line(entry)}")
    if history and (current is None or current.number < history[-1].number):
        click.echo("the last entry's pointer was not swung (a writer died); the next write does it")


@click.group("report")
def report_group() -> None:
    """Look at evaluations."""


@report_group.command("compare")
@click.argument("named", nargs=-1, required=True, metavar="RUN[:SYSTEM]...")
@_root
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("comparison.html"),
    show_default=True,
    help="Where the page goes; the same as JSON lies beside it.",
)
def compare_command(named: tuple[str, ...], root: str, output: Path) -> None:
    """Put runs side by side, each against the first.

    A run is named as for promote; the system is its gate's candidate by default. Differences are
    paired: the same prompt under the same config, where both answers could be judged.
    """
    from cosalign.evaluation.comparison import compare, read_compared
    from cosalign.evaluation.comparison_page import comparison_lines, render_comparison
    from cosalign.store.storage import open_storage, write_uri

    storage = open_storage(root)
    found = compare(read_compared(storage, named))
    write_uri(str(output), render_comparison(found).encode())
    beside = output.with_suffix(".json")
    text = json.dumps(found, indent=2, sort_keys=True, allow_nan=False)
    write_uri(str(beside), f"{text}\n".encode())
    for line in comparison_lines(found):
        click.echo(line)
    click.echo(f"\npage: {output}\nJSON: {beside}")


def _candidate(storage: Storage, named: str) -> tuple[ModelRef, list[StoredGate]]:

    from cosalign.domain.errors import UserError
    from cosalign.evaluation.finished_evaluations import find_evaluation, storage_of
    from cosalign.evaluation.promotion import gates_of
    from cosalign.inference.model_manifest import MANIFEST_FILE
    from cosalign.store.gate_file import read_gate

    if named.endswith(MANIFEST_FILE):
        model = _manifest_model(named)
        return model, gates_of(storage, model.digest)
    manifest = find_evaluation(storage, named)
    if "gate" not in manifest.files:
        raise UserError(
            f"{named}: its evaluation had no gate, for gate.candidate was not among its systems"
        )
    gate = read_gate(storage_of(manifest), manifest.files["gate"])
    return gate.file.model, [gate]


def _manifest_model(address: str) -> ModelRef:
    from cosalign.inference.model_manifest import read_model_manifest
    from cosalign.store.gate_file import ModelRef
    from cosalign.store.storage import open_storage

    folder = open_storage(address.rpartition("/")[0] or ".")
    return ModelRef(uri=folder.uri, digest=read_model_manifest(folder).digest)


def _author(by: str | None, reason: str | None, override: str | None) -> Author:
    from cosalign.domain.errors import UserError
    from cosalign.evaluation.promotion import Author

    if override is not None and not override.strip():
        raise UserError("--override needs a reason: the history keeps it")
    return Author(by or getpass.getuser(), reason, override)


def _line(entry: Entry) -> str:
    """An entry for people: number, what, which, when, by whom, the gate's word, and why."""
    action = f"rollback to {entry.target}" if entry.target else entry.action
    gate = "no gate" if entry.gate is None else "passed" if entry.gate.passed else "failed"
    if entry.override is not None:
        gate += ", overridden"
    why = f"  ({entry.override or entry.reason})" if entry.override or entry.reason else ""
    return (
        f"{entry.number}  {action:<13}  {entry.digest[:_SHORT]}  {entry.at}  {entry.by}  "
        f"gate {gate}{why}"
    )
