"""FSDP2 on a CPU, which accelerate 1.15 can do and does not admit.

Its state chooses FSDP only where the distributed type is a GPU's; gloo on CPUs falls through to
plain replicas, in silence. Everything after that choice works on a CPU. So the type is named
MULTI_GPU for the moment of the choice, on machines without a GPU alone: laptops and tests then run
the same sharded code as a GPU node. That it took effect is asserted afterwards (``world``), so an
accelerate that reads the type elsewhere ends in an error and not in other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType


@contextmanager
def cpu_sharding_admitted() -> Iterator[None]:
    """Lets an ``AcceleratorState`` made inside choose FSDP; does nothing where there is a GPU."""
    shared = PartialState._shared_state
    if torch.cuda.is_available() or shared.get("distributed_type") != DistributedType.MULTI_CPU:
        yield
        return
    shared["distributed_type"] = DistributedType.MULTI_GPU
    try:
        yield
    finally:
        shared["distributed_type"] = DistributedType.MULTI_CPU
