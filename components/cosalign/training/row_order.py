"""Rows in a seeded order, and rows that fill up the last micro batches of an epoch.

Ranks must take equally many micro batches, or they wait for ever. accelerate fills up with rows of
the epoch's beginning, which would then be learnt twice, and by other counts of ranks other ones. So
copies that carry no loss are appended to the table, and an epoch ends with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Sampler

if TYPE_CHECKING:
    import pyarrow as pa

FILLER = -1
"""Row number of a copy that carries no loss."""


def filled_up(table: pa.Table, multiple: int) -> pa.Table:
    """The table with as many fillers, copies of its first row, as make its rows a multiple."""
    import pyarrow as pa

    lacking = -table.num_rows % multiple
    if not lacking:
        return table
    copies = table.take([0] * lacking)
    numbers = pa.array([FILLER] * lacking, table.schema.field("row").type)
    place = table.schema.get_field_index("row")
    return pa.concat_tables([table, copies.set_column(place, table.schema.field("row"), numbers)])


class RealRowsFirst(Sampler[int]):
    """A permutation of the real rows by seed and epoch, then the fillers.

    The order is that of accelerate's seeded sampler, which is not used since it knows no fillers.
    The epoch is asked for and not told: resumed within an epoch, accelerate on several ranks puts
    so many batch samplers around this one that ``set_epoch`` does not reach it.

    Args:
        real: Rows that are learnt.
        rows: All rows.
        seed: The run's.
        epoch: Gives the number of the epoch that begins.
    """

    def __init__(self, real: int, rows: int, seed: int, epoch: Callable[[], int]) -> None:
        self._real, self._rows, self._seed, self._epoch = real, rows, seed, epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch())
        yield from torch.randperm(self._real, generator=generator).tolist()
        yield from range(self._real, self._rows)

    def __len__(self) -> int:
        return self._rows
