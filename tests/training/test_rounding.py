"""Rounding to bf16 at random, with the probability that keeps the mean."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cosalign.training.rounding import round_at_random, rounded_at_random

pytestmark = pytest.mark.training
FLOATS = st.floats(width=32, allow_subnormal=True)


@given(st.lists(FLOATS, min_size=1, max_size=20), st.integers(0, 9))
def test_each_value_becomes_one_of_its_two_neighbours(values: list[float], seed: int) -> None:
    given_values = torch.tensor(values, dtype=torch.float32)
    found = rounded_at_random(given_values, seed)
    assert torch.equal(found.bfloat16().float().nan_to_num(), found.nan_to_num())
    finite = given_values[given_values.isfinite()]
    bits = finite.view(torch.int32) & ~0xFFFF
    down, up = bits.view(torch.float32), (bits + 0x10000).view(torch.float32)
    own = found[given_values.isfinite()]
    assert bool(((own == down) | (own == up)).all())
    assert torch.equal(found.isnan(), given_values.isnan())


def test_what_lies_on_the_grid_stays() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    assert torch.equal(rounded_at_random(values, 1), values)


@pytest.mark.parametrize("sign", [1, -1])
def test_moves_below_half_a_step_are_kept_on_average(sign: int) -> None:
    start = torch.full((200_000,), 0.02 * sign).bfloat16().float()
    moved = start + 3e-5 * sign
    # Rounding to the nearest takes every one of them back.
    assert torch.equal(moved.bfloat16().float(), start)
    mean = rounded_at_random(moved, 0).double().mean() - start.double().mean()
    # 1.2e-4 is the step there; the standard error of 200,000 draws is below 1.4e-7.
    assert float(mean) == pytest.approx(3e-5 * sign, abs=7e-7)


def test_a_model_is_rounded_by_seed_and_name() -> None:
    def model() -> torch.nn.Linear:
        torch.manual_seed(0)
        return torch.nn.Linear(64, 64)

    first, again, other = model(), model(), model()
    round_at_random(first, "seed")
    round_at_random(again, "seed")
    round_at_random(other, "another")
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert torch.equal(first.weight.bfloat16().float(), first.weight)
