"""Which old pairs are replayed beside new ones, so that old configs are not forgotten.

A uniform choice would take nine in ten pairs of drawn configs, and may take none of a small region,
which the gate then finds fallen. So the choice is stratified, by who demands the config (each of
the regions' configs by itself, drawn ones by their mode) and by the kind of contrast, and strata
take turns: equal numbers of all for as long as they last. A larger choice holds a smaller one.

The order within a stratum is a hash of seed and pair. Nothing depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import ceil

from cosalign.domain.fingerprint import Json, seed_of
from cosalign.domain.prompt_types import in_turn


def replayed(
    strata: Sequence[Hashable], pairs: Sequence[Json], count: int, seed: Json
) -> list[int]:
    """Chooses rows to replay.

    Args:
        strata: The stratum of each row; its ``repr`` is its identity.
        pairs: The identity of each row, unique.
        count: How many rows to choose; all where there are no more.
        seed: Seed of the choice.

    Returns:
        The chosen rows' indices, ascending.
    """
    queues: dict[Hashable, list[int]] = {}
    for row, stratum in enumerate(strata):
        queues.setdefault(stratum, []).append(row)
    ranks = [seed_of("replay", [seed, pair]) for pair in pairs]
    for queue in queues.values():
        queue.sort(key=lambda row: ranks[row])
    # Who is served first where the turns end in the middle: by content, like all else.
    order = sorted(queues, key=lambda stratum: seed_of("replay-stratum", [seed, repr(stratum)]))
    return sorted(in_turn([queues[stratum] for stratum in order])[:count])


def replay_rows(new: int, share: float) -> int:
    """How many old pairs make ``share`` of all pairs beside so many new ones, rounded up."""
    # Shares are short decimals: without rounding, 0.1 / 0.9 of 9 rows would come out as 2.
    return ceil(round(new * share / (1 - share), 6))
