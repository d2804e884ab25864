"""Where lines, dots and ticks stand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.runtime.line_plots import (
    BOTTOM,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    LinePlot,
    Series,
    line_plot,
)

VALUES = st.floats(-1e6, 1e6, allow_subnormal=False)


def _line(plot: LinePlot, series: int = 0) -> list[tuple[float, float]]:
    pairs = (place.split(",") for place in plot.series[series].line.split())
    return [(float(x), float(y)) for x, y in pairs]


@given(st.lists(VALUES, min_size=2, max_size=50))
def test_all_that_is_drawn_lies_inside_and_in_order(values: list[float]) -> None:
    plot = line_plot("Loss", [Series("training", list(enumerate(values)), dots=True)])
    assert plot is not None
    line = _line(plot)
    assert all(-0.01 <= x <= 100.01 and -0.01 <= y <= 100.01 for x, y in line)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert all(LEFT <= x <= RIGHT and TOP - 0.01 <= y <= BOTTOM + 0.01 for x, y, *_ in _dots(plot))
    heights = [y for y, _ in plot.down]
    assert heights == sorted(heights, reverse=True)
    assert len(plot.down) <= 8
    assert len(plot.across) >= 2


def _dots(plot: LinePlot) -> list[tuple[float, float, float, float]]:
    return [dot for series in plot.series for dot in series.dots]


def test_larger_values_stand_higher_on_ticks_that_say_so() -> None:
    plot = line_plot("Loss", [Series("training", [(1, 0.69), (2, 0.52), (3, 0.31)])])
    assert plot is not None
    assert [label for _, label in plot.down] == ["0.3", "0.4", "0.5", "0.6", "0.7"]
    assert [label for _, label in plot.across] == ["1", "2", "3"]
    heights = [y for _, y in _line(plot)]
    assert heights == sorted(heights)
    assert (plot.place(1), plot.place(3)) == (LEFT, RIGHT)


def test_series_share_their_axes() -> None:
    training = Series("training", [(1, 1.0), (100, 0.5)])
    dev = Series("development split", [(50, 0.75)], dots=True)
    plot = line_plot("Loss", [training, dev])
    assert plot is not None
    (x, y, step, value), *others = _dots(plot)
    assert others == []
    assert (step, value) == (50, 0.75)
    assert x == pytest.approx(plot.place(50))
    assert y == pytest.approx((TOP + BOTTOM) / 2)


def test_long_series_are_drawn_as_means() -> None:
    points = [(float(step), float(step % 2)) for step in range(10 * MOST_POINTS)]
    plot = line_plot("Loss", [Series("training", points)])
    assert plot is not None
    assert plot.series[0].averaged == 10
    assert len(_line(plot)) == MOST_POINTS
    assert {y for _, y in _line(plot)} == {50.0}


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, math.nan), (2, math.inf), (3, 1.0)]])
def test_too_few_points_give_no_plot(points: list[tuple[float, float]]) -> None:
    assert line_plot("Loss", [Series("training", points)]) is None


def test_equal_values_are_a_level_line() -> None:
    plot = line_plot("Rate", [Series("training", [(1, 5e-7), (2, 5e-7), (3, 5e-7)])])
    assert plot is not None
    assert len({y for _, y in _line(plot)}) == 1
    assert any(label.startswith("5e") for _, label in plot.down)
