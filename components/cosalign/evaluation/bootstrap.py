"""Confidence intervals by resampling prompts: clustered, paired, and for many figures at once.

The same prompt stands under several configs, and its answers there are alike; were items drawn one
by one, such answers would count as independent and the interval come out too narrow. So prompts are
drawn, each with all its items. Configs are never drawn: they are the ones asked about, not a sample
of others. Configs that share no prompt, directly or over others, are drawn for apart from each
other, so each keeps its size.

All figures of a call see the same draws. A difference of two systems is therefore a figure like any
other, given as the differences of their items: paired by construction.

Source: A. Field and A. Welsh, "Bootstrapping clustered data" (JRSS B, 2007) for drawing clusters;
B. Efron and R. Tibshirani, "An introduction to the bootstrap", 13.3, for percentile intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cosalign.evaluation.cosa_score import (
    FloatArray,
    IntArray,
    Interval,
    means_over_configs,
)

_CELLS = 1 << 22
"""Weights held at once: 32 MiB."""
_DIGITS = 12
"""Means are rounded to as many, so that the order in which a machine adds does not show."""


@dataclass(frozen=True)
class Resampling:
    """Settings of the percentile bootstrap: how many resamples, which level, which seed."""

    resamples: int
    confidence: float
    seed: int


def bootstrap_means(
    values: FloatArray, groups: IntArray, clusters: IntArray, resampling: Resampling
) -> list[Interval]:
    """Means over configs of the config means of known values, each with its interval.

    In a resample, a config of which no known item was drawn is left out of the mean.

    Args:
        values: k figures of each item, NaN unknown, shape (k, n).
        groups: The config of each item, shape (n,).
        clusters: The prompt of each item, shape (n,).
        resampling: Resamples, level and seed.

    Returns:
        k intervals; NaN where a figure is known for no item.
    """
    if not groups.size:
        return [Interval(math.nan) for _ in values]
    rng = np.random.default_rng(resampling.seed)
    shape = (resampling.resamples, len(values))
    means, present = np.zeros(shape), np.zeros(shape)
    for chosen in _components(groups, clusters):
        sums, counts = _cells(values[:, chosen], groups[chosen], clusters[chosen])
        for rows, weights in _drawn(rng, resampling.resamples, len(sums)):
            total, count = _weighted(weights, sums), _weighted(weights, counts)
            known = count > 0
            means[rows] += np.where(known, total / np.where(known, count, 1.0), 0.0).sum(axis=2)
            present[rows] += known.sum(axis=2)
    drawn = np.round(np.where(present > 0, means / np.maximum(present, 1.0), np.nan), _DIGITS)
    points = means_over_configs(values, groups)
    return [
        _interval(point, column, resampling.confidence)
        for point, column in zip(points.tolist(), drawn.T, strict=True)
    ]


def _cells(
    values: FloatArray, groups: IntArray, clusters: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Sums and counts of known values by cluster, figure and config, shape (p, k, c)."""
    clusters = np.unique(clusters, return_inverse=True)[1]
    groups = np.unique(groups, return_inverse=True)[1]
    shape = (int(clusters.max(initial=-1)) + 1, len(values), int(groups.max(initial=-1)) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    known = ~np.isnan(values)
    for i, row in enumerate(np.where(known, values, 0.0)):
        np.add.at(sums[:, i], (clusters, groups), row)
        np.add.at(counts[:, i], (clusters, groups), known[i])
    return sums, counts


def _weighted(weights: FloatArray, sums: FloatArray) -> FloatArray:
    """Weighted sums over clusters, shape (b, k, c)."""
    clusters, *shape = sums.shape
    flat = sums.reshape(clusters, shape[0] * shape[1])
    return (weights @ flat).reshape(len(weights), *shape)


def _drawn(
    rng: np.random.Generator, resamples: int, clusters: int
) -> Iterator[tuple[slice, FloatArray]]:
    """How often each cluster was drawn in each resample, in blocks of shape (b, clusters)."""
    block = max(1, _CELLS // clusters)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(clusters, size=(size, clusters))
        drawn += np.arange(size)[:, None] * clusters
        counted = np.bincount(drawn.ravel(), minlength=size * clusters)
        yield slice(start, start + size), counted.reshape(size, clusters).astype(np.float64)


def _components(groups: IntArray, clusters: IntArray) -> list[IntArray]:
    """Items of configs that are joined by prompts, apart from those of others."""
    parent = {int(group): int(group) for group in np.unique(groups)}

    def root(group: int) -> int:
        while parent[group] != group:
            group = parent[group]
        return group

    first: dict[int, int] = {}
    for group, cluster in zip(groups.tolist(), clusters.tolist(), strict=True):
        joined = first.setdefault(cluster, group)
        ours, theirs = root(group), root(joined)
        parent[max(ours, theirs)] = min(ours, theirs)
    roots = np.array([root(group) for group in groups.tolist()], np.int64)
    return [np.flatnonzero(roots == one) for one in np.unique(roots)]


def _interval(point: float, means: FloatArray, confidence: float) -> Interval:
    if math.isnan(point):
        return Interval(math.nan)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means[~np.isnan(means)], [tail, 1 - tail])
    return Interval(point, float(low), float(high))
