"""Algorithm 1, vectorised: which response is preferred to which, under which config.

Source: arXiv 2410.08968, Algorithm 1. For each (prompt, config) the responses are grouped by (risk
set, addressed). For each unordered pair of groups whose errors differ, the lower is chosen and the
higher rejected, unless the chosen one's error reaches beta. One response is drawn from each group.

The drawing is a function of content: it is seeded by the ids of the prompt, the config and the
groups' first responses, never by row order, bit order or a running generator. So shards, restarts
and a permuted taxonomy draw the same.

Names of arrays end in what indexes them: ``_v`` verdict rows, ``_g`` groups, ``_d`` draws, ``_p``
candidate pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosalign.domain.error_score import (
    PAPER_WEIGHTS,
    ErrorWeights,
    collapse_array,
    error_tenths_array,
)
from cosalign.pairing.identifiers import Codes, Hashes, mix

IndexArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Verdicts:
    """Known verdicts as columns of equal length; each (prompt, response) stands once.

    Attributes:
        prompts: Codes of prompts.
        responses: Codes of responses.
        response_hashes: A hash of each response's id.
        risk_masks: uint32.
        addressed: bool.
    """

    prompts: Codes
    responses: Codes
    response_hashes: Hashes
    risk_masks: npt.NDArray[np.uint32]
    addressed: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Draws:
    """Configs drawn for prompts, as columns of equal length; each (prompt, config) stands once.

    Attributes:
        prompts: Codes of prompts, in the space of the verdicts'.
        configs: Codes of configs.
        hashes: A hash of each row's prompt id and config id.
        allowed_masks: uint32.
    """

    prompts: Codes
    configs: Codes
    hashes: Hashes
    allowed_masks: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Pool:
    """The categories that count by themselves; the others collapse into the catch-all bit."""

    mask: int
    catch_all: int


@dataclass(frozen=True)
class Pairs:
    """Preferences as codes, sorted by (prompt, config, chosen, rejected); errors in tenths."""

    prompts: Codes
    configs: Codes
    chosen: Codes
    rejected: Codes
    chosen_errors: npt.NDArray[np.int32]
    rejected_errors: npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Groups:
    """Responses of one prompt with one (risk set, addressed); sorted by prompt.

    Members of group g are rows ``start[g] .. start[g] + size[g]`` of ``responses``; ``keys[g]`` is
    the hash of the first of them and names the group.
    """

    prompts: Codes
    risk_masks: npt.NDArray[np.uint32]
    addressed: npt.NDArray[np.bool_]
    start: IndexArray
    size: IndexArray
    keys: Hashes
    responses: Codes


def make_pairs(
    verdicts: Verdicts,
    draws: Draws,
    pool: Pool,
    weights: ErrorWeights = PAPER_WEIGHTS,
    seed: int = 0,
) -> Pairs:
    """All preferences of Algorithm 1.

    Args:
        verdicts: Known verdicts only; unknown ones never enter a pair.
        draws: Which configs each prompt is paired under.
        pool: What collapses before counting.
        weights: Alpha, beta, gamma in tenths.
        seed: Changes which member is drawn from a group, and nothing else.
    """
    groups = _group(verdicts, pool)
    draw_p, first_p, second_p = _candidate_pairs(groups, draws)
    allowed_p = draws.allowed_masks[draw_p]
    first_error = _errors(groups, first_p, allowed_p, weights)
    second_error = _errors(groups, second_p, allowed_p, weights)
    lower, higher = np.minimum(first_error, second_error), np.maximum(first_error, second_error)
    keep = (lower < higher) & (lower < weights.beta)
    swap = second_error < first_error
    chosen = np.where(swap, second_p, first_p)[keep]
    rejected = np.where(swap, first_p, second_p)[keep]
    draw_p = draw_p[keep]
    seeds = mix(draws.hashes ^ np.uint64(seed % 2**64))[draw_p]
    pairs = Pairs(
        prompts=draws.prompts[draw_p],
        configs=draws.configs[draw_p],
        chosen=_members(groups, chosen, rejected, seeds),
        rejected=_members(groups, rejected, chosen, seeds),
        chosen_errors=lower[keep],
        rejected_errors=higher[keep],
    )
    return _sorted(pairs)


def _group(verdicts: Verdicts, pool: Pool) -> _Groups:
    masks = collapse_array(verdicts.risk_masks, pool.mask, pool.catch_all)
    order = np.lexsort((verdicts.responses, verdicts.addressed, masks, verdicts.prompts))
    prompt_v, mask_v = verdicts.prompts[order], masks[order]
    addressed_v = verdicts.addressed[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (
        (prompt_v[1:] != prompt_v[:-1])
        | (mask_v[1:] != mask_v[:-1])
        | (addressed_v[1:] != addressed_v[:-1])
    )
    start = np.flatnonzero(begins)
    return _Groups(
        prompts=prompt_v[start],
        risk_masks=mask_v[start],
        addressed=addressed_v[start],
        start=start,
        size=np.diff(np.append(start, len(order))),
        keys=verdicts.response_hashes[order][start],
        responses=verdicts.responses[order],
    )


def _candidate_pairs(groups: _Groups, draws: Draws) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Every unordered pair of groups of each draw's prompt: indices of draw and both groups."""
    first_d = np.searchsorted(groups.prompts, draws.prompts, side="left")
    count_d = np.searchsorted(groups.prompts, draws.prompts, side="right") - first_d
    pairs_d = count_d * (count_d - 1) // 2
    draw_p = np.repeat(np.arange(len(pairs_d)), pairs_d)
    ends_d = np.cumsum(pairs_d)
    within_p = np.arange(len(draw_p)) - np.repeat(ends_d - pairs_d, pairs_d)
    low, high = _triangle(within_p, int(count_d.max(initial=0)))
    return draw_p, first_d[draw_p] + low, first_d[draw_p] + high


def _triangle(numbers: IndexArray, size: int) -> tuple[IndexArray, IndexArray]:
    """Pair number n as (low, high), low < high, in the order (0,1) (0,2) (1,2) (0,3) ...

    In this order a pair's number does not depend on how many groups there are.
    """
    high, low = np.tril_indices(size, -1)
    return low[numbers], high[numbers]


def _errors(
    groups: _Groups,
    index: IndexArray,
    allowed: npt.NDArray[np.uint32],
    weights: ErrorWeights,
) -> npt.NDArray[np.int32]:
    return error_tenths_array(groups.risk_masks[index], groups.addressed[index], allowed, weights)


def _members(groups: _Groups, own: IndexArray, other: IndexArray, seeds: Hashes) -> Codes:
    """One response of each group ``own``; the draw depends on the pair, not on the group alone."""
    drawn = mix(mix(seeds ^ groups.keys[own]) + groups.keys[other])
    within = drawn % groups.size[own].astype(np.uint64)
    return groups.responses[groups.start[own] + within.astype(np.int64)]


def _sorted(pairs: Pairs) -> Pairs:
    order = np.lexsort((pairs.rejected, pairs.chosen, pairs.configs, pairs.prompts))
    return Pairs(*(column[order] for column in vars(pairs).values()))
