"""From a gate's result to the ``current`` pointer: what may be promoted, and by whom.

A model is promoted on the strength of a ``gate.json``, which names the model by digest, every
check, and the model that it was held against. It is refused where the gate failed, where it never
stood before one, and where the current model has changed since: the comparison would be with a
model that is not current any more. A person may override each with a reason, which the history
keeps. The evaluation step may not: it promotes what passed, and nothing that was promoted before,
so that a retried or repeated run never undoes a rollback. Each promotion and rollback has its row
in the audit log; a row that a crash prevented is added by whoever comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cosalign.domain.errors import ModelError, UserError
from cosalign.inference.model_manifest import (
    MANIFEST_FILE,
    ModelManifest,
    read_model_manifest,
    verify_model,
)
from cosalign.inference.models import resolve_model
from cosalign.store.gate_file import GATE_FILE, ModelRef, StoredGate, read_gate
from cosalign.store.model_pointer import (
    Choice,
    Entry,
    ModelPointer,
    first_promotion,
    rollback_target,
)
from cosalign.store.promotion_audit import record_choices
from cosalign.store.storage import Storage, open_storage


@dataclass(frozen=True)
class Author:
    """Who asks, why, and why against the gate's word."""

    by: str
    reason: str | None = None
    override: str | None = None
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def gates_of(storage: Storage, digest: str) -> list[StoredGate]:
    """Every gate that a model stood before in this storage."""
    paths = [s.path for s in storage.list("steps/evaluation") if s.path.endswith(f"/{GATE_FILE}")]
    found = (read_gate(storage, path) for path in paths)
    return [gate for gate in found if gate.file.model.digest == digest]


def promote(
    pointer: ModelPointer, model: ModelRef, gates: Sequence[StoredGate], author: Author, cache: Path
) -> Entry | None:
    """Makes a model the current one.

    Args:
        pointer: Whose pointer moves.
        model: Which model.
        gates: What gates said of it; where there are several, none may have failed, and one has to
            have compared it with the current model.
        author: Who asks.
        cache: Local folder for models fetched to be checked.

    Returns:
        The new entry; ``None`` where the model is current already.

    Raises:
        UserError: The gate is against it and nobody overrides it.
        ModelError: It is not stored, or not the model that was evaluated.
        GenerationMismatch: Another promotion came first.
    """
    current = pointer.settle()
    if current is not None and current.digest == model.digest:
        record_choices(pointer)  # Whoever promoted it may have died before its row.
        return None
    before = first_promotion(pointer.history(), model.digest)
    gate, objection = _weighed(gates, current, before)
    if objection and author.override is None:
        raise UserError(
            f"{model.digest[:12]} is not promoted: {objection}. To promote it all the same, say "
            "why with --override REASON, which the history keeps"
        )
    check_stored(model, cache)
    choice = Choice(
        action="promote", uri=model.uri, digest=model.digest, by=author.by, at=author.at,
        reason=author.reason, override=author.override if objection else None,
        gate=gate.result() if gate else None,
    )  # fmt: skip
    return _recorded(pointer, pointer.record(choice, current.number if current else 0))


def promote_by_itself(pointer: ModelPointer, gate: StoredGate, by: str, cache: Path) -> bool:
    """Promotes what passed, once: the evaluation step's own promotion.

    Returns:
        Whether it was promoted now; not where the gate failed, nor where this model was promoted
        before, be it current or rolled back from.

    Raises:
        GenerationMismatch: The current model changed since the evaluation began; a retry measures
            against the new one.
    """
    if not gate.file.passed:
        return False
    if first_promotion(pointer.history(), gate.file.model.digest):
        record_choices(pointer)
        return False
    current = pointer.settle()
    if gate.file.against_current and gate.file.rival != (current.digest if current else None):
        raise pointer.moved()
    return promote(pointer, gate.file.model, [gate], Author(by), cache) is not None


def roll_back(pointer: ModelPointer, number: int | None, author: Author, cache: Path) -> Entry:
    """Makes an earlier model current again.

    Args:
        pointer: Whose pointer moves.
        number: The entry to go back to; where ``None``, the model before the current one.
        author: Who asks.
        cache: Local folder for models fetched to be checked.

    Raises:
        DataError: There is no such entry.
        ModelError: Its model is not stored any more, or was altered.
        GenerationMismatch: Another promotion came first.
    """
    pointer.settle()
    history = pointer.history()
    target = rollback_target(history, number)
    if target.digest == history[-1].digest:
        raise UserError(f"entry {target.number} holds the current model already")
    check_stored(ModelRef(uri=target.uri, digest=target.digest), cache)
    choice = Choice(
        action="rollback", uri=target.uri, digest=target.digest, by=author.by, at=author.at,
        reason=author.reason, target=target.number, gate=target.gate,
    )  # fmt: skip
    return _recorded(pointer, pointer.record(choice, history[-1].number))


def _recorded(pointer: ModelPointer, entry: Entry) -> Entry:
    """The entry, once it and all before it have their rows in the audit log."""
    record_choices(pointer)
    return entry


def _weighed(
    gates: Sequence[StoredGate], current: Entry | None, before: Entry | None
) -> tuple[StoredGate | None, str]:
    """The gate that decides, and what it says against a promotion."""
    if not gates:
        return None, "it never stood before a gate; evaluate it first"
    failed = next((gate for gate in gates if not gate.file.passed), None)
    if failed is not None:
        return failed, _objection(failed, current, before)
    weighed = ((gate, _objection(gate, current, before)) for gate in gates)
    return min(weighed, key=lambda found: found[1])


def _objection(gate: StoredGate, current: Entry | None, before: Entry | None) -> str:
    """Why a model must not be promoted without a word; empty where nothing speaks against it."""
    if not gate.file.passed:
        return f"its gate failed ({', '.join(gate.file.codes())}), see {gate.uri}"
    now = current.digest if current else None
    if gate.file.against_current and gate.file.rival != now:
        then = gate.file.rival[:12] if gate.file.rival else "no model"
        # A model that was promoted is held against the one that it replaced then, whenever it is
        # evaluated: no new evaluation leads back to it.
        advice = (
            "evaluate it again"
            if before is None
            else f"it was current before: `cosalign rollback --to {before.number}`"
        )
        return (
            f"its gate compared it with {then}, and the current model is "
            f"{now[:12] if now else 'none'}; {advice}"
        )
    return ""


def check_stored(model: ModelRef, cache: Path) -> None:
    """Refuses a model that is not there, or is another one than its digest says.

    A model that training released is held against its manifest, file by file, where it lies; any
    other one is fetched and hashed.

    Raises:
        ModelError: Which it is.
    """
    released = _released(model.uri)
    found = released.digest if released else resolve_model(model.uri, cache).digest
    if found != model.digest:
        raise ModelError(
            f"{model.uri}: holds the model {found[:12]}, and {model.digest[:12]} was meant; it was "
            "altered since, train or fetch it again"
        )


def _released(uri: str) -> ModelManifest | None:
    """The manifest of a model in storage, whose files it fits; ``None`` where there is none."""
    if not (uri.startswith(("gs://", "file://")) or Path(uri).is_dir()):
        return None
    folder = open_storage(uri)
    if folder.stat(MANIFEST_FILE) is None:
        return None
    manifest = read_model_manifest(folder)
    verify_model(folder, manifest)
    return manifest
