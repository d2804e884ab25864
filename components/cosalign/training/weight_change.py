"""Whether training moved any weight by enough to be served.

A model is trained in fp32 and served in bf16, whose values lie 2^-8 of their size apart. A short
run at the paper's learning rate of 5e-7 can end in a model that is, once rounded, its start bit by
bit, while its loss curve looks fine. So the share of weights that still differ is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any


def changed_share(start: Path, end: Path) -> float:
    """Share of the weights, 0 to 1, whose bf16 value differs between two model folders.

    Weights that only one of them holds (a tied output layer, written out) are left out.
    """
    import torch

    changed = total = 0
    with ExitStack() as stack:
        before = dict(_tensors(start, stack))
        for name, read in _tensors(end, stack):
            if name in before:
                one, other = (r().to(torch.bfloat16) for r in (before[name], read))
                changed += int((one != other).sum())
                total += one.numel()
    return changed / total if total else 0.0


def _tensors(folder: Path, stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """Names of a folder's tensors, each with a function that reads it."""
    from functools import partial

    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        file = stack.enter_context(safe_open(str(path), framework="pt"))
        for name in file.keys():  # noqa: SIM118 no mapping: it has no iterator
            yield name, partial(file.get_tensor, name)
