"""Nodes that train together and share only storage: each stores what lies on its own disk.

A checkpoint's files are where their ranks wrote them, and its marker must name all of them. So the
first rank of each node stores that node's files, and tells the first of all, who writes the marker.
They talk in a group of their own, over gloo: they do so in the thread that stores, beside a
training whose ranks talk at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch

from cosalign.domain.errors import CosalignError
from cosalign.training.ranks import Ranks

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a node waits for another one's storing; a node that dies breaks the connection."""


class Nodes:
    """The first ranks of all nodes. All ranks have to make it, at the same place.

    Args:
        ranks: The ranks that train.
    """

    def __init__(self, ranks: Ranks) -> None:
        told = ranks.gathered(ranks.first_of_node)
        members = [rank for rank, first in enumerate(told) if first]
        self._first, self._group = ranks.first, None
        if len(members) > 1:
            self._group = torch.distributed.new_group(members, timeout=PATIENCE, backend="gloo")
            self._count = len(members)

    def together(self, work: Callable[[], T]) -> list[T] | None:
        """Does a piece of work on each node.

        Returns:
            On the first node, what came of it on each; ``None`` on the others.

        Raises:
            CosalignError: It failed on this node, or the first learns that it did on another.
        """
        if self._group is None:
            return [work()]
        failed: Exception | None = None
        told: Any = None
        try:
            told = work()
        except Exception as problem:  # noqa: BLE001 raised below, once the others know
            failed = problem
            told = problem if isinstance(problem, CosalignError) else CosalignError(repr(problem))
        found: list[Any] | None = [None] * self._count if self._first else None
        torch.distributed.gather_object(told, found, dst=0, group=self._group)
        for each in (failed, *(found or ())):
            if isinstance(each, Exception):
                raise each
        return found
