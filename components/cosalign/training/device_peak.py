"""The peak of the device that training runs on, by the name that its driver gives it."""

from __future__ import annotations

import re

from cosalign.training.planner import hardware

_KINDS = {
    r"A100.*40GB": "a100-40gb",
    r"A100.*80GB": "a100-80gb",
    # The SXM form; an H100 PCIe has another peak and another name.
    r"H100 80GB HBM3": "h100-80gb",
    r"\bL4\b": "l4",
}
"""Pattern of the driver's name, to the kind in ``hardware.yaml``."""


def peak_tflops(device: str) -> float | None:
    """Peak in bf16, dense, TFLOP/s; ``None`` for a device that ``hardware.yaml`` does not hold."""
    for pattern, kind in _KINDS.items():
        if re.search(pattern, device):
            return hardware(kind, 1).bf16_tflops
    return None
