"""What trained a model: machine, libraries, code. It is told to people and decides nothing.

A stage writes it down when its model is stored, so that a card made later, on another machine, says
what happened and not what would happen now.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cosalign.domain.fingerprint import Json

REVISION_VARIABLE = "COSALIGN_REVISION"
"""The commit that an image was built from."""
IMAGE_VARIABLE = "COSALIGN_IMAGE"
"""The image by digest, where whoever starts it says so; a container cannot know it."""
_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft")


def training_provenance() -> dict[str, Json]:
    """Machine, libraries and code of this process.

    Returns:
        ``hardware`` (``device``, ``devices``, ``processes``, ``cores``), ``versions`` of libraries,
        and ``code`` (``version``, ``revision``, ``image``), null where a thing is not known.
    """
    return {"hardware": _hardware(), "versions": _versions(), "code": code_identity()}


def code_identity() -> dict[str, str | None]:
    """Version, revision and image of the running code."""
    return {
        "version": _version("cosalign"),
        "revision": os.environ.get(REVISION_VARIABLE) or None,
        "image": os.environ.get(IMAGE_VARIABLE) or None,
    }


def _hardware() -> dict[str, Json]:
    import torch

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    gpus = torch.cuda.device_count()
    return {
        "device": torch.cuda.get_device_name(0) if gpus else _cpu_name(Path("/proc/cpuinfo")),
        "devices": processes if gpus else 1,
        "processes": processes,
        "cores": len(os.sched_getaffinity(0)),
    }


def _cpu_name(file: Path) -> str:
    text = file.read_text("utf-8", "replace") if file.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _versions() -> dict[str, Json]:
    found = {name: _version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **{n: v for n, v in found.items() if v}}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
