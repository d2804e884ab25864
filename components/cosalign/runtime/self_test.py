"""Is this image whole? ``python -m cosalign.scoring --self-test`` says so before a GPU is rented.

Imports stand inside functions, so an image that lacks a package starts well and fails when it first
needs it. The self-test imports everything that is reachable from the image's entry, and writes to
and reads from a storage folder, as the image's user.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib import import_module
from importlib.metadata import packages_distributions, version

from cosalign.domain.errors import CosalignError
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.runtime.import_walk import third_party_imports
from cosalign.runtime.version import VERSION
from cosalign.store.storage import open_storage

OPTIONAL = {"lm_eval": "evaluation.general"}
"""Packages that an image may be extended by, by the setting that needs them; no lock has them."""


def self_test(*entries: str) -> dict[str, str]:
    """Versions of all distributions that modules need, once every one of them was imported.

    Args:
        entries: Modules to begin with.

    Raises:
        CosalignError: A package is missing or broken; the message names each, and who imports it.
    """
    needed = {n: by for n, by in third_party_imports(*entries).items() if n not in OPTIONAL}
    broken = [f"{name} (for {by}): {said}" for name, by in needed.items()
              if (said := _fault(name)) is not None]  # fmt: skip
    if broken:
        raise CosalignError(f"this image is not whole: {'; '.join(broken)}")
    load_taxonomy("cosa", "1", ())
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(folder)
        storage.write_bytes("self-test", b"whole")
        if storage.read_bytes("self-test") != b"whole":
            raise CosalignError("a file was read back changed")
    owners = packages_distributions()
    found = {name for package in needed for name in owners.get(package, ())}
    return {name: version(name) for name in sorted(found)}


def print_self_test(name: str) -> None:
    """Runs the self-test of an image's component and prints what it found, as JSON."""
    packages = self_test(f"cosalign.{name}.__main__")
    report = {"component": name, "version": VERSION, "python": sys.version.split()[0],
              "packages": packages}  # fmt: skip
    print(json.dumps(report))  # noqa: T201  the report is what was asked for


def _fault(package: str) -> str | None:
    try:
        import_module(package)
    except Exception as problem:  # noqa: BLE001  whatever it is, the image does not work
        return f"{type(problem).__name__}: {problem}"
    return None
