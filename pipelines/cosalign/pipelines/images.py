"""Which image runs which step, decided in one place when a pipeline is compiled.

The components name their image without a tag, so that they know nothing of versions or registries;
the compilation writes the full reference. The version is a constant and not read from the installed
distribution, whose metadata may be missing or stale: the compiled file would then differ from
machine to machine. A test holds the constant equal to ``pyproject.toml``.
"""

from __future__ import annotations

VERSION = "0.1.0"


def image_reference(name: str) -> str:
    """The image of a component, ``cosalign-synthesis`` for instance, with this version's tag."""
    return f"{name}:{VERSION}"
