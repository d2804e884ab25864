"""The audit log's rows on promotions and rollbacks: which model, of which data, on whose word.

What a released model was made from is read from its manifest as plain JSON: the manifest's own
reader needs what models need, and who records promotions may run where none can be loaded.
"""

from __future__ import annotations

import json

from cosalign.domain.fingerprint import Json
from cosalign.store.audit_log import AuditLog
from cosalign.store.history_audit import Row, artifact, record_history
from cosalign.store.model_pointer import Entry, ModelPointer
from cosalign.store.storage import Storage

MANIFEST_FILE = "model-manifest.json"
"""See ``inference/model_manifest.py``."""
EVENTS = {"promote": "Promoted", "rollback": "RolledBack"}


def record_choices(pointer: ModelPointer) -> int:
    """Gives every promotion and rollback that has none its row; gives how many were added.

    Args:
        pointer: Whose; the log is that of its storage root.
    """
    log = AuditLog(pointer.storage)
    return record_history(pointer, log, lambda entry, before: _row(pointer, entry, before))


def _row(pointer: ModelPointer, entry: Entry, before: Entry | None) -> Row:
    storage, gate = pointer.storage, entry.gate
    artifacts = artifact(storage, gate.uri) if gate else {}
    artifacts |= artifact(storage, f"{entry.uri}/{MANIFEST_FILE}")
    details: dict[str, Json] = {
        "model": entry.digest, "uri": entry.uri, "replaced": before.digest if before else None,
        "reason": entry.reason, "override": entry.override, "target": entry.target,
        "gate": gate.model_dump(mode="json") if gate else None, **_made_from(storage, entry),
    }  # fmt: skip
    return Row(EVENTS[entry.action], pointer.name, entry.by, entry.at, artifacts, details)


def _made_from(storage: Storage, entry: Entry) -> dict[str, Json]:
    """What a released model says that it was made from; nothing of a model that is none."""
    folder = entry.uri.removeprefix(f"{storage.uri}/")
    if folder == entry.uri or storage.stat(f"{folder}/{MANIFEST_FILE}") is None:
        return {}
    try:
        manifest = json.loads(storage.read_bytes(f"{folder}/{MANIFEST_FILE}"))
        return {
            "data": {name: table["sha256"] for name, table in manifest["tables"].items()},
            "configs": manifest["configs_digest"],
            "step": manifest["step"],
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # Torn; the digest among the artifacts is what counts.
