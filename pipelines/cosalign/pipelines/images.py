"""Which image runs which step, unless a run's parameters say otherwise.

A cluster names images by digest; the defaults carry this version's tag, so that a compiled pipeline
says what it was made with.
"""

from __future__ import annotations

from cosalign.runtime.version import VERSION

__all__ = ["VERSION", "image_reference"]


def image_reference(name: str) -> str:
    """The image of a component, ``cosalign-synthesis`` for instance, with this version's tag."""
    return f"{name}:{VERSION}"
