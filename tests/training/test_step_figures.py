"""Tokens, padding, MFU and the estimated end, against figures counted by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import torch

from cosalign.training.device_peak import peak_tflops
from cosalign.training.model_shape import ModelShape
from cosalign.training.packing import PackedCollator
from cosalign.training.row_order import FILLER
from cosalign.training.step_figures import StepFigures

SHAPE = ModelShape(8, 16, 2, 8, 4, 100, tied=False)
ROWS = [
    {"row": 0, "context": [1, 2, 3], "a": [4, 5], "b": [6]},
    {"row": 1, "context": [1, 2], "a": [3], "b": [4, 5, 6]},
]
TOKENS, SCORED = 12, 7


class Time:
    def __init__(self) -> None:
        self.seconds = 50.0

    def __call__(self) -> float:
        return self.seconds


def _batch(rows: list[dict[str, object]]) -> dict[str, torch.Tensor]:
    return PackedCollator("context", ("a", "b"))(rows)  # type: ignore[arg-type]


def _attended() -> int:
    """Pairs of query and key under a causal mask, counted one by one."""
    keys = 0
    for row in ROWS:
        context = len(row["context"])  # type: ignore[arg-type]
        keys += sum(range(1, context + 1))
        for name in ("a", "b"):
            answer = len(row[name])  # type: ignore[arg-type]
            keys += sum(context + 1 + place for place in range(answer))
    return keys


def test_figures_of_a_step() -> None:
    time = Time()
    figures = StepFigures(SHAPE, 3, 1e-9, time)
    figures.begin(10)
    figures.add(_batch(ROWS[:1]))
    figures.add(_batch(ROWS[1:]))
    time.seconds += 2
    asked = datetime.now(UTC)
    found = figures.of_step(11, 14)
    assert found["tokens"] == TOKENS
    assert found["tokens_per_second"] == TOKENS / 2
    assert found["padding_share"] == 0
    # Two operations a weight and token, the head for scored tokens, four a query, key and width.
    forward = 2 * SHAPE.layers * SHAPE.block_parameters * TOKENS
    forward += 2 * SHAPE.vocabulary * SHAPE.hidden * SCORED
    forward += 4 * SHAPE.layers * SHAPE.query * _attended()
    assert found["mfu"] == pytest.approx(3 * forward / 2 / 1e3, rel=1e-2)
    end = datetime.fromisoformat(str(found["estimated_end"]))
    # Six steps of a second are left; the end is told in whole seconds.
    assert asked + timedelta(seconds=5) <= end <= datetime.now(UTC) + timedelta(seconds=7)
    assert isinstance(found["memory_gib"], float)
    assert found["memory_gib"] > 0.01


def test_rows_that_only_fill_up_are_padding() -> None:
    figures = StepFigures(SHAPE, 3, None)
    figures.add(_batch([ROWS[0], {**ROWS[1], "row": FILLER}]))
    found = figures.of_step(1, 2)
    assert found["tokens"] == TOKENS
    assert found["padding_share"] == pytest.approx(6 / 12)


def test_each_step_is_counted_alone_and_without_what_is_beside_it() -> None:
    time = Time()
    figures = StepFigures(SHAPE, 3, None, time)
    for _ in range(2):
        time.seconds += 300  # a checkpoint is written
        figures.resumed()
        figures.add(_batch(ROWS))
        time.seconds += 3
        found = figures.of_step(1, 2)
        assert (found["tokens"], found["seconds"]) == (TOKENS, 3)


def test_mfu_is_unknown_where_the_peak_or_the_shape_is() -> None:
    for figures in (StepFigures(None, 3, 312), StepFigures(SHAPE, 3, None)):
        figures.add(_batch(ROWS))
        assert figures.of_step(1, 2)["mfu"] is None


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", None),
        ("Tesla T4", None),
    ],
)
def test_peaks_by_the_drivers_names(device: str, peak: float | None) -> None:
    assert peak_tflops(device) == peak
