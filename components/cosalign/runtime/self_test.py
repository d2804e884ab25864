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


def print_self_test(name: str, *entries: str) -> None:
    """Runs the self-test of an image and prints what it found, as JSON.

    Args:
        name: The image's component.
        entries: Modules to begin with; the component's own entry if none are given.
    """
    packages = self_test(*(entries or (f"cosalign.{name}.__main__",)))
    report = {"component": name, "version": VERSION, "python": sys.version.split()[0],
              "packages": packages}  # fmt: skip
    print(json.dumps(report))  # noqa: T201  the report is what was asked for


def _fault(package: str) -> str | None:
    try:
        import_module(package)
        if package == "vllm":
            _import_kernels()
    except Exception as problem:  # noqa: BLE001  whatever it is, the image does not work
        return f"{type(problem).__name__}: {problem}"
    return None


def _import_kernels() -> None:
    """Imports vLLM's compiled part, which it lacks in silence until an engine starts.

    Only on CPUs: that of GPUs needs the driver, which a machine that builds images lacks.
    """
    # By name: a plain import here would count as one of every image's.
    platform = import_module("vllm.platforms").current_platform
    if not platform.is_cpu():
        return
    platform.import_kernels()
    if not hasattr(import_module("torch").ops._C, "init_cpu_memory_env"):
        raise ImportError(
            "its compiled part does not load; vLLM's warning names the missing system library"
        )
