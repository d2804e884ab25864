"""Which of the processes that train together this is, and how they agree.

Everything that leaves the machine, or that several would write, is done by the first rank while the
others wait; what one rank alone knows (which checkpoint is whole, that it was told to stop) has to
become known to all before they act on it, or they would wait for one another for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One of ``world`` processes; a training in one process is rank 0 of 1.

    Attributes:
        rank: This process, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes for all."""
        return self.rank == 0

    @property
    def first_of_node(self) -> bool:
        """Whether this one writes to its machine's disk for the others there."""
        return self.first or os.environ.get("LOCAL_RANK") == "0"

    def wait(self) -> None:
        """Returns once all ranks have come here."""
        if self.world > 1:
            import torch

            torch.distributed.barrier()

    def agreed(self, value: T) -> T:
        """The first rank's value, on all of them."""
        if self.world == 1:
            return value
        import torch

        shared = [value]
        torch.distributed.broadcast_object_list(shared)
        return shared[0]

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank; all of them have to ask."""
        return any(self.gathered(flag))

    def gathered(self, value: T) -> list[T]:
        """What each rank says, in their order, on all of them; small and picklable."""
        if self.world == 1:
            return [value]
        import torch

        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def in_turn(self, action: Callable[[], T]) -> T:
        """Does it on one rank of each node first, then on the others: a download happens once."""
        result = action() if self.first_of_node else None
        self.wait()
        return action() if result is None else result

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's share; shares of sorted items are alike."""
        return items[self.rank :: self.world]


def this_process() -> Ranks:
    """The rank of this process, once it has joined the others (see ``world``)."""
    import torch

    group = torch.distributed
    if not (group.is_available() and group.is_initialized()):
        return Ranks()
    return Ranks(group.get_rank(), group.get_world_size())
