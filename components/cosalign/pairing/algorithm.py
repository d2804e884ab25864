"""Algorithm 1, vectorised: which response is preferred to which, under which config.

Source: arXiv 2410.08968, Algorithm 1. For each (prompt, config) the responses are grouped by (risk
set, addressed). For each unordered pair of groups whose errors differ, the lower is chosen and the
higher rejected, unless the chosen one's error reaches beta. One response is drawn from each group.

The drawing is a function of content: it is seeded by the run's seed and by hashes of the ids of the
prompt, the config and the first response of both groups, never by row order, bit order or a running
generator. So shards, chunks, restarts and a permuted taxonomy draw the same.

The error needs no table of (allowed set, risk set): with ``d = popcount(risks & ~allowed)`` it is
``alpha |risks| + gamma [not addressed] + (beta - alpha) d``, whose first two terms belong to the
group. A chosen response has ``d = 0``, since each disallowed risk costs beta.

Names of arrays end in what indexes them: ``_v`` responses, ``_g`` groups, ``_d`` draws, ``_p``
pairs. Rows of one prompt are a *block*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cosalign.domain.error_score import PAPER_WEIGHTS, ErrorWeights
from cosalign.domain.errors import DataError
from cosalign.pairing.identifiers import BoolArray, Hashes, IndexArray, mix

Errors = npt.NDArray[np.int16 | np.int32]
Masks = npt.NDArray[np.uint32]

CANDIDATES_AT_A_TIME = 1 << 21
_BITS = 63
_OWN, _OTHER = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
"""Odd factors, so that a pair's two draws differ."""
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


@dataclass(frozen=True)
class Responses:
    """Known responses as columns of equal length.

    They stand in canonical order: by block, then by content hash. Each stands once in its block.

    Attributes:
        blocks: Number of each row's block, ascending.
        hashes: A content hash of each response's id.
        risk_masks: uint32, collapsed to the pool.
        addressed: bool.
    """

    blocks: IndexArray
    hashes: Hashes
    risk_masks: Masks
    addressed: BoolArray


@dataclass(frozen=True)
class Draws:
    """Configs drawn for blocks, as columns of equal length.

    Attributes:
        blocks: The block each is paired in; there may be no response in it.
        hashes: A hash of each row's seed, prompt id and config id.
        allowed_masks: uint32.
    """

    blocks: IndexArray
    hashes: Hashes
    allowed_masks: Masks


@dataclass(frozen=True)
class Pairs:
    """Preferences, ordered by draw, then by chosen and rejected group; errors in tenths.

    Attributes:
        draws: Row of the draw.
        chosen: Row of the chosen response.
        rejected: Row of the rejected response.
        chosen_errors: int32.
        rejected_errors: int32.
        violates: Whether the rejected response holds a disallowed risk.
        ties: Pairs of groups set aside because their errors are equal.
        unsafe: Pairs of groups set aside because the lower error reaches beta.
    """

    draws: IndexArray
    chosen: IndexArray
    rejected: IndexArray
    chosen_errors: Errors
    rejected_errors: Errors
    violates: BoolArray
    ties: int
    unsafe: int


@dataclass(frozen=True)
class _Groups:
    """Responses of one block with one (risk set, addressed), by block and first member.

    Members of group g stand in ``members`` from ``start[g]`` on, ``size[g]`` of them; ``spans[g]``
    is ``start[g] << 32 | size[g]``. ``keys[g]`` is the hash of the first and names the group.
    """

    blocks: IndexArray
    risk_masks: Masks
    base: Errors
    spans: Hashes
    keys: Hashes
    members: IndexArray


def make_pairs(responses: Responses, draws: Draws, weights: ErrorWeights = PAPER_WEIGHTS) -> Pairs:
    """All preferences of Algorithm 1.

    Args:
        responses: Those whose verdict is known.
        draws: Which configs each block is paired under.
        weights: Alpha, beta, gamma in tenths.

    Raises:
        DataError: One prompt has more responses of different kinds than can be numbered.
    """
    world = _World.of(responses, draws, weights)
    found = [_preferences(world, some) for some in _alike(world.count_d)]
    packed = np.concatenate([np.empty(0, np.uint64), *(f.packed for f in found)])
    packed.sort()
    pairs = _drawn(world, packed)
    return replace(pairs, ties=sum(f.ties for f in found), unsafe=sum(f.unsafe for f in found))


@dataclass(frozen=True)
class _World:
    """Groups and draws joined: draw d meets groups ``first_d[d] .. first_d[d] + count_d[d] - 1``.

    ``shift`` is the number of bits that hold a group's number in its block.
    """

    groups: _Groups
    draws: Draws
    weights: ErrorWeights
    first_d: IndexArray
    count_d: IndexArray
    shift: int

    @classmethod
    def of(cls, responses: Responses, draws: Draws, weights: ErrorWeights) -> _World:
        groups = _group(responses, weights)
        blocks = 1 + max(int(groups.blocks.max(initial=0)), int(draws.blocks.max(initial=0)))
        count_b = np.bincount(groups.blocks, minlength=blocks)
        count_d = count_b[draws.blocks]
        most = int(count_d.max(initial=0))
        if 2 * most.bit_length() + len(count_d).bit_length() > _BITS:
            raise DataError(
                f"one prompt has responses of {most} different kinds; so many cannot be paired: "
                "give a prompt fewer responses"
            )
        first_b = np.cumsum(count_b) - count_b
        return cls(groups, draws, weights, first_b[draws.blocks], count_d, most.bit_length())


@dataclass(frozen=True)
class _Preferences:
    """(draw, chosen group, rejected group) packed into one integer each; and what was set aside."""

    packed: Hashes
    ties: int
    unsafe: int


def _group(responses: Responses, weights: ErrorWeights) -> _Groups:
    rows = len(responses.blocks)
    state_v = (responses.risk_masks.astype(np.uint64) << np.uint64(1)) | responses.addressed
    packed, row_bits = _packed(responses.blocks, state_v)
    packed.sort()
    member_v = (packed & np.uint64((1 << row_bits) - 1)).astype(np.int64)
    packed >>= np.uint64(row_bits)
    begins = np.ones(rows, np.bool_)
    begins[1:] = packed[1:] != packed[:-1]
    start = np.flatnonzero(begins)
    size = np.diff(np.append(start, rows))
    # By first member, which is an order of content; by risk set would be one of bits.
    first = member_v[start]
    place = np.full(rows, -1)
    place[first] = np.arange(len(start))
    order = place[place >= 0]
    first = first[order]
    masks = responses.risk_masks[first]
    kind = _error_type(weights)
    unaddressed = ~responses.addressed[first] * kind(weights.gamma)
    return _Groups(
        blocks=responses.blocks[first],
        risk_masks=masks,
        base=np.bitwise_count(masks) * kind(weights.alpha) + unaddressed,
        spans=((start << 32) | size)[order].view(np.uint64),
        keys=responses.hashes[first],
        members=member_v,
    )


def _packed(blocks: IndexArray, states: Hashes) -> tuple[Hashes, int]:
    """(block, state, row) in one integer each, so that grouping is a single sort of integers."""
    row_bits = len(blocks).bit_length()
    block_bits = int(blocks.max(initial=0)).bit_length()
    if row_bits + block_bits + int(states.max(initial=0)).bit_length() > _BITS:
        states = np.unique(states, return_inverse=True)[1].astype(np.uint64)
    state_bits = int(states.max(initial=0)).bit_length()
    packed = blocks.astype(np.uint64) << np.uint64(state_bits + row_bits)
    packed |= states << np.uint64(row_bits)
    packed |= np.arange(len(blocks), dtype=np.uint64)
    return packed, row_bits


def _alike(count_d: IndexArray) -> Iterator[IndexArray]:
    """Draws with equally many groups, in pieces whose candidate pairs fit in memory."""
    for count in np.unique(count_d[count_d > 1]).tolist():
        same = np.flatnonzero(count_d == count)
        size = max(1, CANDIDATES_AT_A_TIME // (count * (count - 1) // 2))
        yield from (same[at : at + size] for at in range(0, len(same), size))


def _preferences(world: _World, some_d: IndexArray) -> _Preferences:
    """Preferences of draws with equally many groups.

    Errors lie in a matrix (groups, draws); a pair of groups is a pair of its rows.
    """
    groups, beta = world.groups, world.weights.beta
    count = int(world.count_d[some_d[0]])
    group_gd = world.first_d.take(some_d) + np.arange(count)[:, None]
    disallowed = groups.risk_masks.take(group_gd) & ~world.draws.allowed_masks.take(some_d)
    error = groups.base.take(group_gd) + _disallowed_error(disallowed, world.weights)
    first, second = np.triu_indices(count, 1)
    one, other = error.take(first, axis=0), error.take(second, axis=0)
    differ = one != other
    keep = differ & (np.minimum(one, other) < beta)
    lower = ((first << world.shift) | second)[:, None], ((second << world.shift) | first)[:, None]
    packed = np.where(one < other, *lower)
    packed |= some_d << 2 * world.shift
    kept = packed[keep].view(np.uint64)
    differing = int(np.count_nonzero(differ))
    return _Preferences(kept, keep.size - differing, differing - len(kept))


def _disallowed_error(disallowed: Masks, weights: ErrorWeights) -> Errors:
    # What a disallowed risk costs beyond an allowed one; the group's base has alpha for each risk.
    return np.bitwise_count(disallowed) * _error_type(weights)(weights.beta - weights.alpha)


def _error_type(weights: ErrorWeights) -> type[np.int16 | np.int32]:
    """The smallest integers that hold any error: comparing is most of the work."""
    most = 32 * weights.beta + weights.gamma
    return np.int16 if most <= np.iinfo(np.int16).max else np.int32


def _drawn(world: _World, packed: Hashes) -> Pairs:
    """Draws a response from both groups of each preference."""
    groups, draws = world.groups, world.draws
    own = (1 << world.shift) - 1
    whole = packed.view(np.int64)
    draw_p = whole >> 2 * world.shift
    first_p = world.first_d.take(draw_p)
    chosen_g = first_p + ((whole >> world.shift) & own)
    rejected_g = first_p + (whole & own)
    seed_p = draws.hashes.take(draw_p)
    chosen_key, rejected_key = groups.keys.take(chosen_g), groups.keys.take(rejected_g)
    disallowed = groups.risk_masks.take(rejected_g) & ~draws.allowed_masks.take(draw_p)
    base = groups.base
    rejected_error = base.take(rejected_g) + _disallowed_error(disallowed, world.weights)
    return Pairs(
        draws=draw_p,
        chosen=_members(groups, chosen_g, seed_p + chosen_key * _OWN + rejected_key * _OTHER),
        rejected=_members(groups, rejected_g, seed_p + rejected_key * _OWN + chosen_key * _OTHER),
        chosen_errors=base.take(chosen_g).astype(np.int32),
        rejected_errors=rejected_error.astype(np.int32),
        violates=disallowed != 0,
        ties=0,
        unsafe=0,
    )


def _members(groups: _Groups, which: IndexArray, seeds: Hashes) -> IndexArray:
    """One response of each group; a seed depends on the pair, not on the group alone."""
    # The high half times the size, so that all members are equally likely but for 2^-32.
    span = groups.spans.take(which)
    within = (mix(seeds) >> _HALF) * (span & _LOW)
    within >>= _HALF
    span >>= _HALF
    return groups.members.take((span + within).view(np.int64))
