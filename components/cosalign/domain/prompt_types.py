"""What a prompt is under a config, and how to take equally many of several kinds.

Source: arXiv 2410.08968, section 6 (allowed, partial and disallowed prompts).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

FREEFORM = "freeform"
"""The type of prompts under a free-form config: nothing says how its text treats them."""

ALLOWED = "allowed"
PROMPT_TYPES = (ALLOWED, "partial", "disallowed", FREEFORM)

T = TypeVar("T")


def prompt_type(risk_mask: int, allowed_mask: int) -> str:
    """The type of a prompt with risks S under an allowed set A.

    ``allowed`` if S is a subset of A (so also if S is empty), ``partial`` if S overlaps A without
    being a subset, else ``disallowed``.
    """
    if not risk_mask & ~allowed_mask:
        return ALLOWED
    return "partial" if risk_mask & allowed_mask else "disallowed"


def in_turn(queues: Sequence[Sequence[T]]) -> list[T]:
    """The first of each queue, then the second of each, and so on for as long as they last."""
    placed = [
        (place, kind, item) for kind, queue in enumerate(queues) for place, item in enumerate(queue)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]
