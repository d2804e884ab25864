"""From a gate's result to the ``current`` pointer: what may be promoted, and by whom.

A model is promoted on the strength of a ``gate.json``, which names the model by digest, every
check, and the model that it was held against. It is refused where the gate failed, where it never
stood before one, and where the current model has changed since: the comparison would be with a
model that is not current any more. A person may override each with a reason, which the history
keeps. The evaluation step may not: it promotes what passed, and nothing that was promoted before,
so that a retried or repeated run never undoes a rollback.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cosalign.domain.errors import DataError, ModelError, UserError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.validation import StrictModel, validated
from cosalign.inference.model_manifest import (
    MANIFEST_FILE,
    ModelManifest,
    read_model_manifest,
    verify_model,
)
from cosalign.inference.models import resolve_model
from cosalign.store.model_pointer import (
    Choice,
    Entry,
    GateResult,
    ModelPointer,
    first_promotion,
    rollback_target,
)
from cosalign.store.storage import Storage, open_storage

GATE_FILE = "gate.json"


class ModelRef(StrictModel):
    """A model in storage: its address and its digest."""

    uri: str
    digest: str


class GateFile(StrictModel):
    """What the evaluation step writes about its gate.

    Attributes:
        form: Version of this document's form.
        passed: The verdict.
        candidate: The evaluated system.
        reference: The system that it was held against.
        model: The candidate's model.
        rival: Digest of the promoted model that it was held against; ``None`` where none was
            promoted, or another reference was asked for.
        against_current: Whether the policy asks for the promoted model as reference.
        name: The name to promote under.
        policy: The rules.
        checks: See :class:`cosalign.evaluation.gate.Check`.
        items: SHA-256 of the evaluation table that all of it was computed from.
    """

    form: Literal["cosalign-gate/1"] = "cosalign-gate/1"
    passed: bool
    candidate: str
    reference: str
    model: ModelRef
    rival: str | None
    against_current: bool
    name: str
    policy: dict[str, Any]
    checks: tuple[dict[str, Any], ...]
    items: str

    def codes(self) -> tuple[str, ...]:
        """The failed checks as RULE:CODE, each once."""
        failed = [f"{c['rule']}:{c['code']}" for c in self.checks if not c["passed"]]
        return tuple(dict.fromkeys(failed))

    def as_bytes(self) -> bytes:
        """The document as it is stored."""
        plain = self.model_dump(mode="json")
        return f"{json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)}\n".encode()


@dataclass(frozen=True)
class StoredGate:
    """A gate's result, where it lies, and the SHA-256 of its bytes."""

    file: GateFile
    uri: str
    sha256: str

    def result(self) -> GateResult:
        """As the history keeps it."""
        return GateResult(
            passed=self.file.passed, uri=self.uri, sha256=self.sha256, codes=self.file.codes()
        )


@dataclass(frozen=True)
class Author:
    """Who asks, why, and why against the gate's word."""

    by: str
    reason: str | None = None
    override: str | None = None
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def read_gate(storage: Storage, path: str) -> StoredGate:
    """A gate's result from storage.

    Raises:
        DataError: It is missing, or it is none.
    """
    data, uri = storage.read_bytes(path), storage.uri_of(path)
    try:
        raw = json.loads(data)
    except ValueError:
        raise DataError(f"{uri}: not JSON; run the evaluation again") from None
    return StoredGate(validated(GateFile, raw, uri, DataError), uri, content_sha256(data))


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
        return None
    gate, objection = _weighed(gates, current)
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
    return pointer.record(choice, current.number if current else 0)


def promote_by_itself(pointer: ModelPointer, gate: StoredGate, by: str, cache: Path) -> bool:
    """Promotes what passed, once: the evaluation step's own promotion.

    Returns:
        Whether it was promoted now; not where the gate failed, nor where this model was promoted
        before, be it current or rolled back from.

    Raises:
        GenerationMismatch: The current model changed since the evaluation began; a retry measures
            against the new one.
    """
    if not gate.file.passed or first_promotion(pointer.history(), gate.file.model.digest):
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
    return pointer.record(choice, history[-1].number)


def _weighed(gates: Sequence[StoredGate], current: Entry | None) -> tuple[StoredGate | None, str]:
    """The gate that decides, and what it says against a promotion."""
    if not gates:
        return None, "it never stood before a gate; evaluate it first"
    failed = next((gate for gate in gates if not gate.file.passed), None)
    if failed is not None:
        return failed, objection_to(failed, current)
    return min(((gate, objection_to(gate, current)) for gate in gates), key=lambda found: found[1])


def objection_to(gate: StoredGate, current: Entry | None) -> str:
    """Why a model must not be promoted without a word; empty where nothing speaks against it."""
    if not gate.file.passed:
        return f"its gate failed ({', '.join(gate.file.codes())}), see {gate.uri}"
    now = current.digest if current else None
    if gate.file.against_current and gate.file.rival != now:
        then = gate.file.rival[:12] if gate.file.rival else "no model"
        return (
            f"its gate compared it with {then}, and the current model is "
            f"{now[:12] if now else 'none'}; evaluate it again"
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
