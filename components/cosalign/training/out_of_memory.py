"""A GPU that is too small, told as what it is: something that a setting mends, and no retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cosalign.domain.errors import ConfigError


@contextmanager
def lack_of_memory_named(stage: str) -> Iterator[None]:
    """Turns torch's error of a full GPU into one that names the setting to change.

    Args:
        stage: sft or dpo.

    Raises:
        ConfigError: The memory of a GPU did not suffice.
    """
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise ConfigError(
            f"a GPU's memory does not suffice for the {stage} stage "
            f"({str(problem).partition(' GPU ')[0].rstrip('. ')}); lower "
            f"training.{stage}.micro_batch_size or training.{stage}.max_length, set "
            "training.activation_checkpointing=true, or train on more or larger GPUs"
        ) from problem
