"""Which image runs which step, unless a run's parameters say otherwise.

A cluster names images by digest; the defaults carry this version's tag, so that a compiled pipeline
says what it was made with.
"""

from __future__ import annotations

from cosalign.runtime.version import VERSION

__all__ = ["COMMAND_IMAGE_ENTRIES", "VERSION", "image_reference"]

COMMAND_IMAGE_ENTRIES = (
    "cosalign.pipelines.command_line",
    "cosalign.pipelines.submit_command",
    "cosalign.pipelines.upload_command",
    "cosalign.retraining.commands",
    "cosalign.retraining.config_commands",
    "cosalign.retraining.costs_command",
    "cosalign.retraining.migrate_command",
    "cosalign.retraining.reconcile_commands",
    "cosalign.runtime.config_commands",
)
"""What the image that holds the command line is for; other commands need what it does not hold."""


def image_reference(name: str) -> str:
    """The image of a component, ``cosalign-synthesis`` for instance, with this version's tag."""
    return f"{name}:{VERSION}"
