"""What a prompt is under a config, and how items are chosen so that each type gets its share.

Source: arXiv 2410.08968, section 6 (allowed, partial and disallowed prompts).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from cosalign.domain.fingerprint import seed_of

FREEFORM = "freeform"
"""The type of prompts under a free-form config: nothing says how its text treats them."""

ALLOWED = "allowed"
PROMPT_TYPES = (ALLOWED, "partial", "disallowed", FREEFORM)


class Typed(Protocol):
    """What can be chosen by type."""

    @property
    def prompt_id(self) -> str:
        """Identity of the prompt."""
        ...

    @property
    def prompt_type(self) -> str:
        """One of :data:`PROMPT_TYPES`."""
        ...


T = TypeVar("T", bound=Typed)


def prompt_type(risk_mask: int, allowed_mask: int) -> str:
    """The type of a prompt with risks S under an allowed set A.

    ``allowed`` if S is a subset of A (so also if S is empty), ``partial`` if S overlaps A without
    being a subset, else ``disallowed``.
    """
    if not risk_mask & ~allowed_mask:
        return ALLOWED
    return "partial" if risk_mask & allowed_mask else "disallowed"


def choose_balanced(candidates: Iterable[T], count: int | None, seed: int) -> list[T]:
    """Chooses items, one of each type in turn for as long as the types last.

    The order within a type is a hash of seed and prompt, so the choice depends on nothing else,
    and prompts chosen for one config tend to be chosen for others: answers under no config, and
    judgements of equal answers, are then shared.

    Args:
        candidates: What there is, in any order.
        count: How many at most; all where ``None``.
        seed: Seed of the choice.

    Returns:
        The chosen items, by prompt id.
    """
    queues: dict[str, list[T]] = {}
    for item in candidates:
        queues.setdefault(item.prompt_type, []).append(item)
    for queue in queues.values():
        queue.sort(key=lambda item: seed_of("evaluation-prompt", [seed, item.prompt_id]))
    return sorted(_in_turn(queues)[:count], key=lambda item: item.prompt_id)


def _in_turn(queues: dict[str, list[T]]) -> list[T]:
    """Items by their place in their queue first, then by type."""
    placed = [
        (place, PROMPT_TYPES.index(kind), item)
        for kind, queue in queues.items()
        for place, item in enumerate(queue)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]
