"""Intervals against an independent loop, against scipy, against theory, and by what must hold."""

from __future__ import annotations

import math
import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cosalign.evaluation.bootstrap import Resampling, bootstrap_means
from cosalign.evaluation.cosa_score import FloatArray, IntArray, Interval, share_upper_bound

NAN = math.nan
RESAMPLING = Resampling(resamples=500, confidence=0.95, seed=1)


def floats(*values: float) -> FloatArray:
    return np.array(values, np.float64)


def whole(*values: int) -> IntArray:
    return np.array(values, np.int64)


def interval(
    values: FloatArray,
    groups: IntArray | None = None,
    clusters: IntArray | None = None,
    resampling: Resampling = RESAMPLING,
) -> Interval:
    """Of one figure; one config and a prompt an item where nothing else is said."""
    one = np.zeros(len(values), np.int64) if groups is None else groups
    own = np.arange(len(values)) if clusters is None else clusters
    return bootstrap_means(values[None], one, own, resampling)[0]


def loop_interval(
    rows: list[tuple[float, int, int]], resamples: int, seed: int
) -> tuple[float, float]:
    """Prompts drawn one after the other, in floats, for configs that all share prompts.

    Written from the definition: draw as many prompts as there are, each with all its items; mean
    over configs of the means of known values; percentiles of those.
    """
    rng = random.Random(seed)  # noqa: S311
    prompts = sorted({prompt for _, _, prompt in rows})
    means = []
    for _ in range(resamples):
        by_config: dict[int, list[float]] = {}
        for _ in prompts:
            drawn = rng.choice(prompts)
            for value, config, prompt in rows:
                if prompt == drawn and not math.isnan(value):
                    by_config.setdefault(config, []).append(value)
        if by_config:
            means.append(fmean(fmean(values) for values in by_config.values()))
    means.sort()
    return means[int(0.025 * len(means))], means[int(0.975 * len(means)) - 1]


def test_clustered_intervals_are_those_of_a_plain_loop() -> None:
    rng = random.Random(7)  # noqa: S311
    rows = [
        (rng.choice([-1.0, -0.4, 0.0, 0.6, 1.0, NAN]), config, prompt)
        for prompt in range(25)
        for config in range(3)
        if rng.random() < 0.8
    ]
    values, groups, clusters = zip(*rows, strict=True)
    found = interval(floats(*values), whole(*groups), whole(*clusters), Resampling(4000, 0.95, 2))
    low, high = loop_interval(rows, 4000, 3)
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_the_library_gives_the_same_interval_for_items_of_one_config() -> None:
    values = np.random.default_rng(5).choice([-1.0, -0.2, 0.0, 0.4, 1.0], 60)
    found = interval(values, resampling=Resampling(20_000, 0.95, 1))
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(9)
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=0.01)
    assert found.high == pytest.approx(expected.high, abs=0.01)


def test_the_library_gives_the_same_paired_interval() -> None:
    rng = np.random.default_rng(6)
    ours, theirs = rng.uniform(-1, 1, 50), rng.uniform(-1, 1, 50)
    found = interval(ours - theirs, resampling=Resampling(20_000, 0.9, 1))
    expected = stats.bootstrap(
        (ours, theirs), lambda a, b, axis: np.mean(a - b, axis=axis), paired=True,
        vectorized=True, n_resamples=20_000, confidence_level=0.9, method="percentile",
        rng=np.random.default_rng(9),
    ).confidence_interval  # fmt: skip
    assert found.low == pytest.approx(expected.low, abs=0.01)
    assert found.high == pytest.approx(expected.high, abs=0.01)


def test_answers_to_one_prompt_under_many_configs_are_no_independent_items() -> None:
    # Each prompt scores the same under all four configs: 50 independent numbers, not 200.
    by_prompt = np.random.default_rng(2).uniform(-1, 1, 50)
    values, groups = np.tile(by_prompt, 4), np.repeat(np.arange(4), 50)
    clustered = interval(values, groups, np.tile(np.arange(50), 4), Resampling(4000, 0.95, 1))
    naive = interval(values, groups, np.arange(200), Resampling(4000, 0.95, 1))
    alone = interval(by_prompt, resampling=Resampling(4000, 0.95, 1))
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.05)
    assert naive.high - naive.low == pytest.approx((alone.high - alone.low) / 2, rel=0.1)


def test_configs_that_share_no_prompt_keep_their_sizes() -> None:
    # Both configs are constant, so any interval but a point would mix them.
    found = interval(floats(1, 1, 1, -1), whole(0, 0, 0, 1))
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_configs_joined_over_a_third_are_drawn_for_together() -> None:
    # Configs 0 and 1 share a prompt, 1 and 2 another: one draw of five prompts. Were each drawn
    # for alone, the constant configs would leave no width.
    values, groups = floats(1, 1, 0, 0, -1, -1), whole(0, 0, 1, 1, 2, 2)
    joined = interval(values, groups, whole(0, 1, 1, 2, 2, 3))
    apart = interval(values, groups, whole(0, 1, 2, 3, 4, 5))
    assert (apart.low, apart.high) == (0.0, 0.0)
    assert joined.low < 0 < joined.high


def test_all_figures_of_a_call_see_the_same_draws() -> None:
    ours = np.random.default_rng(1).uniform(-1, 1, 40)
    both = np.stack([ours, ours, ours + 0.25])
    first, same, shifted = bootstrap_means(both, np.zeros(40, np.int64), np.arange(40), RESAMPLING)
    assert first == same
    assert shifted.low - first.low == pytest.approx(0.25)


def test_the_block_size_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 30)
    whole_draw = interval(values)
    monkeypatch.setattr("cosalign.evaluation.bootstrap._CELLS", 400)
    assert interval(values) == whole_draw


@given(
    st.lists(
        st.tuples(st.floats(-1, 1) | st.just(NAN), st.integers(0, 3), st.integers(0, 9)),
        min_size=1, max_size=40, unique_by=lambda row: row[1:],
    )
)  # fmt: skip
def test_intervals_lie_within_what_they_are_of(table: list[tuple[float, int, int]]) -> None:
    values, groups, clusters = zip(*table, strict=True)
    found = interval(floats(*values), whole(*groups), whole(*clusters), Resampling(100, 0.95, 0))
    if all(math.isnan(value) for value in values):
        assert math.isnan(found.mean)
        assert math.isnan(found.low)
        return
    assert np.nanmin(values) - 1e-9 <= found.low <= found.high <= np.nanmax(values) + 1e-9
    configs = {g: [v for v, o, _ in table if o == g and not math.isnan(v)] for g in groups}
    assert found.mean == pytest.approx(fmean(fmean(v) for v in configs.values() if v), abs=1e-9)


def test_no_items_have_no_interval() -> None:
    found = interval(floats())
    assert math.isnan(found.mean)
    assert math.isnan(found.high)


def test_the_interval_contains_the_mean_and_narrows_with_more_items() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 400)
    few, many = interval(values[:40]), interval(values)
    assert few.low < few.mean < few.high
    assert many.low < many.mean < many.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_interval_has_the_width_that_theory_gives() -> None:
    found = interval(np.tile([0.0, 1.0], 200), resampling=Resampling(4000, 0.95, 3))
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(400), rel=0.08)


def test_a_constant_has_no_width() -> None:
    found = interval(np.full(7, 0.25))
    assert (found.low, found.high) == (0.25, 0.25)


def test_the_seed_alone_decides_the_interval() -> None:
    values = np.linspace(-1, 1, 30)
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, resampling=Resampling(500, 0.95, 2))


def test_more_confidence_is_a_wider_interval() -> None:
    values = np.linspace(-1, 1, 30)
    narrow = interval(values, resampling=Resampling(500, 0.8, 1))
    wide = interval(values, resampling=Resampling(500, 0.99, 1))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (1, 30), (3, 60), (30, 30), (17, 400)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_bound_of_a_share_is_the_librarys(hits: int, count: int, confidence: float) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(confidence, method="wilson").high
    assert share_upper_bound(hits / count, count, confidence) == pytest.approx(expected)


def test_a_share_of_nothing_is_bounded_by_one() -> None:
    assert share_upper_bound(math.nan, 0, 0.95) == 1.0
