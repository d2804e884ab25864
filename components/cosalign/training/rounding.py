"""Rounds a trained model to bf16 so that small steps are not lost: by chance, in proportion.

A promoted model is stored in bf16: every weight lies on bf16's grid. An increment moves a weight by
less than half the grid's step (a weight of 0.02 has neighbours 8e-5 away; sixty steps of 5e-7 move
it by 3e-5 at the most), and rounding to the nearest takes it back to where it was. Rounding up or
down at random, each with a probability given by how near it is, keeps every move in expectation.
A full run needs none of it: DPO starts from the SFT model in fp32, whose weights lie anywhere
between the grid's, so rounding to the nearest loses nothing on average.

The draws are seeded by the stage and the weight's name, so equal training gives equal files.

Source: N. Higham and T. Mary, "Stochastic rounding: implementation, error analysis and
applications" (2022); P. Zamirai et al., "Revisiting BFloat16 training" (arXiv 2010.06192).
"""

from __future__ import annotations

from typing import Any

import torch

from cosalign.domain.fingerprint import seed_of

_LOW_BITS = 16
"""What fp32 has more of than bf16: the low half of its bits."""


@torch.no_grad()
def round_at_random(model: Any, seed: str) -> None:
    """Rounds each fp32 weight of a model, in place, to one of its two neighbours in bf16.

    Args:
        model: A torch module; weights of other types are left alone.
        seed: Seed of the draws.
    """
    for name, weight in model.named_parameters():
        if weight.dtype == torch.float32:
            weight.copy_(rounded_at_random(weight, seed_of("rounding", [seed, name])))


def rounded_at_random(values: torch.Tensor, seed: int) -> torch.Tensor:
    """fp32 values (any shape) rounded to bf16's grid, up or down with the nearer one likelier.

    Infinities and NaN stay; a value on the grid stays.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    bits = values.detach().cpu().contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << _LOW_BITS, bits.shape, generator=generator, dtype=torch.int32)
    # The magnitude's bits grow with the magnitude, whatever the sign: adding below the grid carries
    # into it with the probability that is wanted, also from one exponent to the next.
    up = (bits + noise) & ~((1 << _LOW_BITS) - 1)
    finite = torch.isfinite(values.detach().cpu())
    rounded = torch.where(finite, up.view(torch.float32), values.detach().cpu())
    return rounded.to(values.device)
