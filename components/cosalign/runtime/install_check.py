"""Tries an installation from within the cluster: run configs read, storage written and read back.

It is what ``helm test`` runs, in a run's smallest image and under a run's own account, so that a
missing permission is found in seconds and not after hours of a first run.

    python -m cosalign.runtime.install_check RUN_CONFIG... [--storage ADDRESS]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from uuid import uuid4

from cosalign.domain.errors import StorageError
from cosalign.runtime.exit_codes import run_and_exit_code
from cosalign.runtime.run_config import load_run_config
from cosalign.store.storage import open_storage

FOLDER = "install-check"


def storage_roots(files: Sequence[str]) -> list[str]:
    """The storage roots of some run configs, each once.

    Raises:
        ConfigError: A run config is wrong; the message names file and setting.
    """
    return list(dict.fromkeys(load_run_config(file).storage.root for file in files))


def try_storage(address: str) -> None:
    """Writes an object below an address, reads it back, and deletes it.

    Raises:
        StorageError: One of the three did not work, or gave back something else.
    """
    storage = open_storage(address)
    path, content = f"{FOLDER}/{uuid4().hex}", uuid4().bytes
    storage.write_bytes(path, content)
    try:
        found = storage.read_bytes(path)
    finally:
        storage.delete(path)
    if found != content:
        raise StorageError(f"{address}: read back something else than was written at {path}")


def parser() -> argparse.ArgumentParser:
    """What the program takes; argparse, since a run's smallest image holds no library for it."""
    made = argparse.ArgumentParser(prog="install_check", description=(__doc__ or "").split("\n")[0])
    made.add_argument("files", nargs="*", metavar="RUN_CONFIG")
    made.add_argument(
        "--storage", metavar="ADDRESS", help="a storage root beside those of run configs"
    )
    return made


def check(files: Sequence[str], storage: str | None) -> None:
    """Reads run configs, and writes to and reads from the storage that they name."""
    roots = storage_roots(files)
    for file in files:
        print(f"{file}: a run config")  # noqa: T201
    for address in dict.fromkeys([*roots, *([storage] if storage else [])]):
        try_storage(address)
        print(f"{address}: written, read, deleted")  # noqa: T201


if __name__ == "__main__":
    given = parser().parse_args()
    sys.exit(run_and_exit_code(lambda: check(given.files, given.storage)))
