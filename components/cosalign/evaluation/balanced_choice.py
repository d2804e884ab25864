"""How items are chosen for an evaluation so that each type of prompt gets its share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from cosalign.domain.fingerprint import seed_of
from cosalign.domain.prompt_types import PROMPT_TYPES, in_turn


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
    queues: dict[str, list[T]] = {kind: [] for kind in PROMPT_TYPES}
    for item in candidates:
        queues[item.prompt_type].append(item)
    for queue in queues.values():
        queue.sort(key=lambda item: seed_of("evaluation-prompt", [seed, item.prompt_id]))
    chosen = in_turn(list(queues.values()))[:count]
    return sorted(chosen, key=lambda item: item.prompt_id)
