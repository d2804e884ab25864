"""What the gate said of a model, as it is stored: ``gate.json`` beside an evaluation.

The evaluation step writes it, a promotion rests on it, and whoever reconciles reads from it which
regions let a model pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.validation import StrictModel, validated
from cosalign.store.model_pointer import GateResult
from cosalign.store.storage import Storage

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
