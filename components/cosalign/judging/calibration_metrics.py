"""How right and how well calibrated yes-or-no answers are, with bootstrap intervals.

All metrics are functions of row weights, so that a bootstrap over prompts is one matrix of counts
and no loop over resamples. Rows of one prompt are drawn together: they are alike, and an interval
that took them for independent would be too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosalign.domain.fingerprint import seed_of
from cosalign.judging.agreement import FloatArray, binary_alpha, binary_kappa, ratio

BoolArray = npt.NDArray[np.bool_]

BINS = 10
RESAMPLES = 1000
_BLOCK = 100
_INSIDE = 1e-6


@dataclass(frozen=True)
class Answers:
    """Answers to one question on n rows.

    Attributes:
        raw: The judge's probabilities, shape (n,).
        calibrated: What they mean, by a map that saw no row of the same prompt, shape (n,).
        called: Whether the answer is yes, shape (n,).
        right: Whether it should be, shape (n,).
        prompts: Prompt ids, n of them.
    """

    raw: FloatArray
    calibrated: FloatArray
    called: BoolArray
    right: BoolArray
    prompts: Sequence[str]


@dataclass(frozen=True)
class Figure:
    """A metric and its 95 % interval; ``None`` where it does not exist."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ReliabilityBin:
    """The rows whose probability lies in one of :data:`BINS` equal parts of 0 to 1.

    Attributes:
        rows: How many.
        said: Their mean probability.
        found: The share that is yes.
        low: Lower end of the share's 95 % interval (Wilson).
        high: Its upper end.
    """

    rows: int
    said: float
    found: float
    low: float
    high: float


def figures(answers: Answers, seed: int) -> dict[str, Figure]:
    """All metrics with intervals by a bootstrap over prompts.

    Args:
        answers: The answers.
        seed: Seed of the resamples.

    Returns:
        By name: ``precision``, ``recall``, ``f1``, ``kappa``, ``alpha``, ``auroc`` (of raw
        probabilities, which pooled maps cannot reorder), and ``brier``, ``ece``, ``log_loss``
        with their ``raw_`` twins.
    """
    whole = _metrics(answers, np.ones((1, len(answers.right))))
    blocks = [_metrics(answers, weights) for weights in _resamples(answers.prompts, seed)]
    drawn = {name: np.concatenate([block[name] for block in blocks]) for name in whole}
    return {name: _figure(whole[name][0], drawn[name]) for name in whole}


def reliability(probability: FloatArray, right: BoolArray) -> list[ReliabilityBin]:
    """The reliability diagram: rows by probability, empty bins left out."""
    place = _bins(probability)
    found = []
    for i in range(BINS):
        rows = place == i
        count = int(rows.sum())
        if count:
            share = float(right[rows].mean())
            low, high = wilson(share, count)
            found.append(ReliabilityBin(count, float(probability[rows].mean()), share, low, high))
    return found


def wilson(share: float, rows: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * np.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def log_losses(probability: FloatArray, right: BoolArray) -> FloatArray:
    """The negative log-likelihood of each row, in nats, probabilities kept off 0 and 1."""
    inside = np.clip(probability, _INSIDE, 1 - _INSIDE)
    losses: FloatArray = -np.log(np.where(right, inside, 1 - inside))
    return losses


def _metrics(answers: Answers, weights: FloatArray) -> dict[str, FloatArray]:
    """Each metric under each row of weights, shape (resamples,)."""
    right, called = answers.right, answers.called
    counts = {
        "tp": weights @ (right & called),
        "fp": weights @ (~right & called),
        "fn": weights @ (right & ~called),
        "tn": weights @ (~right & ~called),
    }
    tp, fp, fn = counts["tp"], counts["fp"], counts["fn"]
    found = {
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "kappa": binary_kappa(counts),
        "alpha": binary_alpha(counts),
        "auroc": _auroc(answers.raw, right, weights),
    }
    for prefix, probability in (("", answers.calibrated), ("raw_", answers.raw)):
        total = weights.sum(axis=1)
        found[f"{prefix}brier"] = ratio(weights @ (probability - right) ** 2, total)
        found[f"{prefix}log_loss"] = ratio(weights @ log_losses(probability, right), total)
        found[f"{prefix}ece"] = _ece(probability, right, weights)
    return found


def _auroc(score: FloatArray, right: BoolArray, weights: FloatArray) -> FloatArray:
    """The probability that a yes scores above a no, ties counting half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-1.0))
    yes = np.add.reduceat(weights[:, order] * right[order], starts, axis=1)
    no = np.add.reduceat(weights[:, order] * ~right[order], starts, axis=1)
    below = np.cumsum(no, axis=1) - no / 2
    return ratio((yes * below).sum(axis=1), yes.sum(axis=1) * no.sum(axis=1))


def _ece(probability: FloatArray, right: BoolArray, weights: FloatArray) -> FloatArray:
    """Expected calibration error over :data:`BINS` bins of equal width."""
    member = np.eye(BINS)[_bins(probability)]
    gap = weights @ (member * (probability - right)[:, None])
    return ratio(np.abs(gap).sum(axis=1), weights.sum(axis=1))


def _bins(probability: FloatArray) -> npt.NDArray[np.intp]:
    return np.minimum((probability * BINS).astype(np.intp), BINS - 1)


def _resamples(prompts: Sequence[str], seed: int) -> Iterator[FloatArray]:
    """Blocks of row weights: how often each row's prompt was drawn."""
    _, cluster = np.unique(np.asarray(prompts), return_inverse=True)
    count = int(cluster.max()) + 1
    random = np.random.default_rng(seed_of("bootstrap", seed))
    for _ in range(0, RESAMPLES, _BLOCK):
        drawn = random.multinomial(count, np.full(count, 1 / count), size=_BLOCK)
        yield drawn.astype(np.float64)[:, cluster]


def _figure(value: float, drawn: FloatArray) -> Figure:
    if np.isnan(value):
        return Figure(None)
    # A resample without a yes, say, has no recall; those that have one speak for it.
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Figure(float(value), float(low), float(high))
