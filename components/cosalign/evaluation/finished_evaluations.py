"""Finds an evaluation that ended: by its run, by its fingerprint, or by its manifest's address.

A local run leaves ``runs/ID/summary.json``, which names the fingerprint of each step. A run on a
cluster leaves only the steps' own folders, so a fingerprint, or its beginning, finds one too.
"""

from __future__ import annotations

import json
import re

from cosalign.domain.errors import UserError
from cosalign.runtime.step import StepManifest, parse_manifest
from cosalign.store.storage import Storage, open_storage, read_uri

STEPS = "steps/evaluation"
_PREFIX = re.compile(r"[0-9a-f]{6,64}")


def find_evaluation(storage: Storage, named: str) -> StepManifest:
    """The manifest of a finished evaluation.

    Args:
        storage: The storage root that runs and fingerprints are looked for in.
        named: A run's id, the beginning of an evaluation's fingerprint (6 hex digits at the least),
            or the address of its ``manifest.json``.

    Raises:
        UserError: There is none, or more than one.
    """
    if named.endswith(".json"):
        return parse_manifest(read_uri(named), named)
    if "/" not in named and storage.stat(f"runs/{named}/summary.json") is not None:
        return _manifest(storage, _of_run(storage, named))
    matches = _fingerprints(storage, named) if _PREFIX.fullmatch(named) else []
    if len(matches) == 1:
        return _manifest(storage, matches[0])
    if matches:
        raise UserError(f"{named}: {len(matches)} evaluations begin so; write more digits")
    raise UserError(
        f"{storage.uri} holds no run and no evaluation {named!r}; name a run's id, an evaluation's "
        "fingerprint or the address of its manifest.json, and the storage with --root"
    )


def _of_run(storage: Storage, run_id: str) -> str:
    summary = json.loads(storage.read_bytes(f"runs/{run_id}/summary.json"))
    fingerprint = summary.get("fingerprints", {}).get("evaluation")
    if not fingerprint:
        raise UserError(
            f"run {run_id!r} has no finished evaluation; run it again, or name an evaluation by "
            "its fingerprint"
        )
    return str(fingerprint)


def _fingerprints(storage: Storage, prefix: str) -> list[str]:
    paths = (stat.path.split("/") for stat in storage.list(STEPS))
    ended = {parts[2] for parts in paths if len(parts) == 4 and parts[3] == "manifest.json"}  # noqa: PLR2004
    return sorted(name for name in ended if name.startswith(prefix))


def _manifest(storage: Storage, fingerprint: str) -> StepManifest:
    path = f"{STEPS}/{fingerprint}/manifest.json"
    return parse_manifest(storage.read_bytes(path), storage.uri_of(path))


def storage_of(manifest: StepManifest) -> Storage:
    """The storage that a manifest's paths are in."""
    return open_storage(manifest.storage)
