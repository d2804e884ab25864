"""The error score of Algorithm 1, in integer tenths.

Source: arXiv 2410.08968, section 4.2 and Algorithm 1::

    error(y | A) = alpha |risks(y) in A| + beta |risks(y) not in A| + gamma [y does not address]

with alpha 0.1, beta 3, gamma 1. Here all are integers in tenths (1, 30, 10), because errors are
compared for equality when responses are paired, and floats must not be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosalign.domain.errors import ConfigError

UIntArray = npt.NDArray[np.uint32]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ErrorWeights:
    """Weights of the error score in tenths. The paper demands alpha < gamma < beta.

    Attributes:
        alpha: Cost of a risk that the config allows.
        beta: Cost of a risk that the config does not allow.
        gamma: Cost of not addressing the prompt.
    """

    alpha: int = 1
    beta: int = 30
    gamma: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < self.gamma < self.beta:
            raise ConfigError(
                f"error weights must hold 0 <= alpha < gamma < beta, in tenths; got alpha="
                f"{self.alpha}, gamma={self.gamma}, beta={self.beta}"
            )


PAPER_WEIGHTS = ErrorWeights()


def collapse(risk_mask: int, pool_mask: int, catch_all: int) -> int:
    """Folds every risk outside the pool into the catch-all bit."""
    outside = risk_mask & ~pool_mask
    return (risk_mask & pool_mask) | (catch_all if outside else 0)


def error_tenths(
    risk_mask: int, addressed: bool, allowed_mask: int, weights: ErrorWeights = PAPER_WEIGHTS
) -> int:
    """Error of one response under one categorical config, in tenths."""
    allowed = (risk_mask & allowed_mask).bit_count()
    disallowed = (risk_mask & ~allowed_mask).bit_count()
    unaddressed = 0 if addressed else weights.gamma
    return weights.alpha * allowed + weights.beta * disallowed + unaddressed


def collapse_array(risk_masks: UIntArray, pool_mask: int, catch_all: int) -> UIntArray:
    """:func:`collapse` of each element; shape is kept."""
    pool = np.uint32(pool_mask)
    outside = (risk_masks & ~pool) != 0
    folded = np.where(outside, np.uint32(catch_all), np.uint32(0))
    return np.asarray((risk_masks & pool) | folded, np.uint32)


def error_tenths_array(
    risk_masks: UIntArray,
    addressed: BoolArray,
    allowed_masks: UIntArray,
    weights: ErrorWeights = PAPER_WEIGHTS,
) -> IntArray:
    """:func:`error_tenths` of each element; the three arrays broadcast."""
    allowed = np.bitwise_count(risk_masks & allowed_masks).astype(np.int32)
    disallowed = np.bitwise_count(risk_masks & ~allowed_masks).astype(np.int32)
    unaddressed = np.where(addressed, 0, weights.gamma).astype(np.int32)
    return np.asarray(weights.alpha * allowed + weights.beta * disallowed + unaddressed, np.int32)


def follows_error_tenths(
    follows: bool, addressed: bool, weights: ErrorWeights = PAPER_WEIGHTS
) -> int:
    """Error of one response under one free-form config: beta if it breaks the text, plus gamma."""
    return (0 if follows else weights.beta) + (0 if addressed else weights.gamma)
