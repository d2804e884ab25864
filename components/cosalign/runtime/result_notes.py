"""From a run config's digest to the results of the run: one small note a step.

A run's id is KFP's affair, and a step of a cluster does not know it; the digest of its config it
does. So each step that ends notes where its result lies under that digest, and whoever started the
run finds it: the end of the run, which puts it into ``outcome.json``, or a program that reconciles.
A task that KFP took from its cache would note nothing; the evaluation is never cached.
"""

from __future__ import annotations

import json

from cosalign.store.storage import Storage

STEPS = ("evaluation", "training")
"""Steps whose manifest leads to a whole run, the best one first."""


def note_result(storage: Storage, config_digest: str, folder: str) -> None:
    """Notes where a step's result lies.

    Args:
        storage: The storage root.
        config_digest: SHA-256 of the run config.
        folder: The result's folder, ``steps/NAME/FINGERPRINT``.
    """
    path = _path(config_digest, folder.split("/")[1])
    data = f"{json.dumps({'result': folder})}\n".encode()
    if storage.stat(path) is None or storage.read_bytes(path) != data:
        storage.write_bytes(path, data)


def run_record_uri(storage: Storage, config_digest: str) -> str | None:
    """Address of the manifest that leads to all results of a run; ``None`` before it trained."""
    for step in STEPS:
        path = _path(config_digest, step)
        if storage.stat(path) is not None:
            folder = json.loads(storage.read_bytes(path))["result"]
            return storage.uri_of(f"{folder}/manifest.json")
    return None


def _path(config_digest: str, step: str) -> str:
    return f"records/{config_digest}/{step}.json"
