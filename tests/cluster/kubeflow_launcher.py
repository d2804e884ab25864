"""Stands in for KFP's launcher inside a step's container: artifacts in, command, artifacts out.

Runs in the image under test, with the image's own Python and Google client and nothing of
cosalign's, as KFP's own binary does. What KFP's launcher does and this does too: every input
artifact is fetched to its path under ``/gcs`` before the command starts, folders of outputs are
made, and only after a command that ended well are output artifacts stored, then what the task wrote
about itself (KFP sends that to its API server; here it goes to an address that the driver reads).

    python kubeflow_launcher.py EXECUTOR_INPUT FILES_ADDRESS COMMAND...
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from google.cloud import storage

Given = dict[str, Any]


def path_of(uri: str) -> Path:
    """Where KFP puts an artifact."""
    return Path("/gcs") / uri.removeprefix("gs://")


def artifacts_in(part: Given) -> Iterator[str]:
    """Addresses of the artifacts of an executor input's inputs or outputs."""
    for listed in part.get("artifacts", {}).values():
        for artifact in listed["artifacts"]:
            yield artifact["uri"]


def bucket_and_name(client: storage.Client, uri: str) -> tuple[storage.Bucket, str]:
    """The bucket of an address, and the name in it."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return client.bucket(bucket), name


def fetch(client: storage.Client, uri: str) -> None:
    """An artifact: one object, or all below it."""
    bucket, name = bucket_and_name(client, uri)
    blobs = [blob for blob in bucket.list_blobs(prefix=name)
             if blob.name == name or blob.name.startswith(f"{name}/")]  # fmt: skip
    if not blobs:
        raise SystemExit(f"launcher: no artifact at {uri}")
    for blob in blobs:
        target = path_of(f"gs://{bucket.name}/{blob.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(target)


def store(client: storage.Client, local: Path, uri: str) -> None:
    """A file or folder, if it is there; a task need not write every artifact."""
    bucket, name = bucket_and_name(client, uri)
    files = [local] if local.is_file() else [f for f in sorted(local.rglob("*")) if f.is_file()]
    for file in files:
        below = file.relative_to(local).as_posix()
        bucket.blob(name if below == "." else f"{name}/{below}").upload_from_filename(file)


def run(command: list[str]) -> int:
    """The command's exit code; told to end, it is told so too."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as child:

        def pass_on(signum: int, frame: FrameType | None) -> None:
            child.send_signal(signum)

        signal.signal(signal.SIGTERM, pass_on)
        code = child.wait()
    return code if code >= 0 else 128 - code


def main(given: Given, files: str, command: list[str]) -> int:
    """One task; gives the exit code of its command."""
    client = (
        storage.Client.create_anonymous_client()
        if os.environ.get("STORAGE_EMULATOR_HOST")
        else storage.Client()
    )
    outputs = given["outputs"]
    for uri in artifacts_in(given["inputs"]):
        fetch(client, uri)
    own = Path(outputs["outputFile"]).parent
    for folder in (own, *(path_of(uri).parent for uri in artifacts_in(outputs))):
        folder.mkdir(parents=True, exist_ok=True)
    code = run(command)
    if code:
        return code
    for uri in artifacts_in(outputs):
        store(client, path_of(uri), uri)
    store(client, own, files)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]))
