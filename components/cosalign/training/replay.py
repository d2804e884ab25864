"""Which old pairs are replayed beside new ones, so that old configs are not forgotten.

A uniform choice would take nine in ten pairs of drawn configs, and may take none of a small region,
which the gate then finds fallen. So the choice is stratified by who demands the config (each of the
regions' configs by itself, drawn ones by their mode), and all who demand take turns: equal numbers
of each for as long as they last. Of one's own pairs, kinds of contrast are taken in the proportion
that they have there: taken equally often, a rare kind would teach more than it did in training, and
what a model declines would shift. A larger choice holds a smaller one.

Among equals the order is a hash of seed and pair. Nothing depends on the order of rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import ceil

from cosalign.domain.fingerprint import Json, seed_of
from cosalign.domain.prompt_types import in_turn


def replayed(
    strata: Sequence[tuple[Hashable, Hashable]], pairs: Sequence[Json], count: int, seed: Json
) -> list[int]:
    """Chooses rows to replay.

    Args:
        strata: Of each row, who demands the config and the kind of contrast; their ``repr`` is
            their identity.
        pairs: The identity of each row, unique.
        count: How many rows to choose; all where there are no more.
        seed: Seed of the choice.

    Returns:
        The chosen rows' indices, ascending.
    """
    ranks = [seed_of("replay", [seed, pair]) for pair in pairs]
    of_stratum: dict[tuple[Hashable, Hashable], list[int]] = {}
    for row in sorted(range(len(pairs)), key=lambda row: ranks[row]):
        of_stratum.setdefault(strata[row], []).append(row)
    queues: dict[Hashable, list[tuple[float, int, int]]] = {}
    for (owner, _), rows in of_stratum.items():
        # Row i of n of its kind stands at (i + 1/2) / n: the first so many have all kinds in
        # proportion.
        placed = [((i + 0.5) / len(rows), ranks[row], row) for i, row in enumerate(rows)]
        queues.setdefault(owner, []).extend(placed)
    # Who is served first where the turns end in the middle: by content, like all else.
    order = sorted(queues, key=lambda owner: seed_of("replay-owner", [seed, repr(owner)]))
    chosen = in_turn([sorted(queues[owner]) for owner in order])[:count]
    return sorted(row for _, _, row in chosen)


def replay_rows(new: int, share: float) -> int:
    """How many old pairs make ``share`` of all pairs beside so many new ones, rounded up."""
    # Shares are short decimals: without rounding, 0.1 / 0.9 of 9 rows would come out as 2.
    return ceil(round(new * share / (1 - share), 6))
