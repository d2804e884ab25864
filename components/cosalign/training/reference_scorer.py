"""Loads the reference model for one pass over what the ledger lacks, and lets it go again.

It computes as the policy will in its first step, fp32 weights under the same autocast, so that the
first loss is ln 2 up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from cosalign.training.answer_log_probs import add_answer_head, answer_log_probs, per_answer
from cosalign.training.packing import Example, pack
from cosalign.training.ranks import this_process
from cosalign.training.reference import ReferencePass, Scorer
from cosalign.training.trainers import free_memory
from cosalign.training.whole_model import load_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cosalign.domain.run_config import TrainingGroup
    from cosalign.inference.models import ModelFolder
    from cosalign.store.storage import Storage


def reference_pass(model: ModelFolder, storage: Storage, group: TrainingGroup) -> ReferencePass:
    """The pass of a run: its settings decide precision and batch size, no row's identity."""
    return ReferencePass(
        model=model,
        storage=storage,
        dtype=group.precision,
        open_scorer=partial(_open_scorer, model.path, group.precision == "bf16"),
        batch_tokens=group.dpo.micro_batch_size * group.dpo.max_length,
        ranks=this_process(),
    )


@contextmanager
def _open_scorer(folder: Path, half: bool) -> Iterator[Scorer]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_weights(folder).to(device).eval()
    add_answer_head(model)
    try:
        yield partial(_score, model, half)
    finally:
        # The caller's frame may outlive this one with the scorer in it; its weights must not.
        model.to("meta")
        free_memory()


@torch.inference_mode()
def _score(model: Any, half: bool, examples: Sequence[Example]) -> list[float]:
    device = model.device
    batch = {name: tensor.to(device) for name, tensor in pack(examples).items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        log_probs, _ = answer_log_probs(model, batch)
    answers = sum(len(answers) for _, answers in examples)
    return list(map(float, per_answer(log_probs.double(), batch["answer"], answers)))
