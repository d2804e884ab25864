"""Where the lines, dots and ticks of a plot over steps stand; templates draw them as inline SVG.

Across, positions are percents, so that a plot fills a phone and a desktop alike while its text
keeps its size; down, they are pixels. The lines lie in a drawing of 100 x 100 that is stretched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cosalign.runtime.pages import minus

HEIGHT = 170.0
LEFT, RIGHT = 11.0, 98.0
TOP, BOTTOM = 8.0, 158.0
MOST_POINTS = 600
"""Longer series are drawn as the means of neighbouring steps."""

_TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Values over steps: a line where there are many, dots where each counts.

    Attributes:
        name: What the key calls it.
        points: (step, value), by step; values that are not finite are left out.
        dots: Whether each point is marked.
    """

    name: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True)
class DrawnSeries:
    """A series, placed: ``line`` in 100 x 100, ``dots`` as (percent, pixels, step, value)."""

    name: str
    line: str
    dots: tuple[tuple[float, float, float, float], ...]
    averaged: int


@dataclass(frozen=True)
class LinePlot:
    """A plot: ticks are (position, label), across in percent and down in pixels."""

    title: str
    series: tuple[DrawnSeries, ...]
    across: tuple[tuple[float, str], ...]
    down: tuple[tuple[float, str], ...]
    first: float
    last: float

    def place(self, step: float) -> float:
        """Where a step is, in percent."""
        return _share(step, self.first, self.last, LEFT, RIGHT)


def line_plot(title: str, series: Sequence[Series]) -> LinePlot | None:
    """Places series on common axes; ``None`` where fewer than two points can be drawn."""
    known = [Series(s.name, _finite(s.points), s.dots) for s in series]
    known = [s for s in known if s.points]
    points = [point for s in known for point in s.points]
    if len(points) < 2:  # noqa: PLR2004 two points make a line
        return None
    steps, values = zip(*points, strict=True)
    low, high, every = _axis(min(values), max(values))
    first, last = min(steps), max(steps)
    drawn = tuple(_drawn(s, (first, last), (low, high)) for s in known)
    down = tuple(
        (_share(value, low, high, BOTTOM, TOP), minus(_label(value, every)))
        for value in _steps_between(low, high, every)
    )
    across = tuple(
        (_share(step, first, last, LEFT, RIGHT), f"{step:,.0f}")
        for step in _steps_between(first, last, max(1.0, _nice((last - first) / _TICKS)))
    )
    return LinePlot(title, drawn, across, down, first, last)


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _drawn(series: Series, steps: Point, values: Point) -> DrawnSeries:
    points, size = _thinned(series.points)
    line = " ".join(
        f"{_share(step, *steps, 0, 100):.2f},{_share(value, *values, 100, 0):.2f}"
        for step, value in points
    )
    dots = tuple(
        (_share(step, *steps, LEFT, RIGHT), _share(value, *values, BOTTOM, TOP), step, value)
        for step, value in (series.points if series.dots else ())
    )
    return DrawnSeries(series.name, line, dots, size)


def _thinned(points: Sequence[Point]) -> tuple[list[Point], int]:
    """Means of so many neighbours each that few enough points are left, and how many those are."""
    size = math.ceil(len(points) / MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [tuple(sum(axis) / len(group) for axis in zip(*group, strict=True)) for group in groups]
    return [(step, value) for step, value in means], size


def _share(value: float, low: float, high: float, start: float, end: float) -> float:
    part = (value - low) / (high - low) if high > low else 0.5
    return round(start + (end - start) * part, 3)


def _axis(least: float, most: float) -> tuple[float, float, float]:
    """Round ends that hold all values, and the distance of their ticks."""
    span = most - least or abs(most) or 1.0
    every = _nice(span / _TICKS)
    return every * math.floor(least / every), every * math.ceil(most / every), every


def _nice(size: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below a size."""
    power: float = 10.0 ** math.floor(math.log10(size)) if size > 0 else 1.0
    return next(power * part for part in (1, 2, 5, 10) if power * part >= size * (1 - 1e-9))


def _steps_between(low: float, high: float, every: float) -> list[float]:
    first, last = math.ceil(low / every - 1e-9), math.floor(high / every + 1e-9)
    return [every * n for n in range(first, last + 1)]


def _label(value: float, every: float) -> str:
    """A tick's value with as many decimals as tell it from its neighbours."""
    if every < 1e-4:  # noqa: PLR2004 0.0001 can still be read
        return f"{value:.0e}" if value else "0"
    return f"{value:z,.{max(0, math.ceil(-math.log10(every) - 1e-9))}f}"
