"""The four modes by which a config's allowed set is drawn for a prompt.

Source: arXiv 2410.08968, section 5.1. For a prompt with label set S and the category pool P:
``exact`` A = S; ``superset`` S plus r others of P, r uniform in 0..|P - S|; ``safe`` the empty set;
``not_superset`` a strict subset of S, its size uniform in 0..|S| - 1, plus r random others, or the
empty set where S is empty. Sets are masks; every draw is seeded by its content.
"""

from __future__ import annotations

import numpy as np

from cosalign.domain.run_config import Mode


def bits(mask: int) -> list[int]:
    """The single-bit masks of a mask, ascending."""
    return [1 << i for i in range(mask.bit_length()) if mask >> i & 1]


def draw_allowed_mask(mode: Mode, label_mask: int, pool_mask: int, seed: int) -> int:
    """Draws the allowed set of one mode.

    Args:
        mode: Which of the four.
        label_mask: S; it lies within the pool.
        pool_mask: P.
        seed: Seed of this draw.
    """
    rng = np.random.default_rng(seed)
    others = bits(pool_mask & ~label_mask)
    match mode:
        case "exact":
            return label_mask
        case "safe":
            return 0
        case "superset":
            return label_mask | _some(others, rng)
        case "not_superset":
            if label_mask == 0:
                return 0
            own = bits(label_mask)
            return _pick(own, int(rng.integers(len(own))), rng) | _some(others, rng)


def _some(choices: list[int], rng: np.random.Generator) -> int:
    """A random subset whose size is uniform in 0..len(choices)."""
    return _pick(choices, int(rng.integers(len(choices) + 1)), rng)


def _pick(choices: list[int], size: int, rng: np.random.Generator) -> int:
    return sum(choices[i] for i in rng.choice(len(choices), size, replace=False)) if size else 0
