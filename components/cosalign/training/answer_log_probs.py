"""Log-probabilities of answer tokens, straight from the hidden states that predict them.

A causal model's forward makes logits for every token: at a vocabulary of 128,000 that is half a
megabyte a token, most of it for tokens that carry no loss. Here only the places that predict an
answer token reach the output layer, and TRL's kernel takes those in tiles, forward and backward,
so that full logits are never held. TRL's own fused head scores every place where there is no
Triton, which on a CPU made the output layer half of a training step.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from trl.kernels import ChunkedLogProbFunction

from cosalign.domain.errors import ModelError
from cosalign.training.packing import branch_mask

_VOCABULARY_TILE = 32768
_SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier")


def add_answer_head(model: Any) -> None:
    """Lets ``model(answer_at=…, labels=…)`` give (log-probabilities, whether it was the likeliest).

    Both come as (N,) tensors. Without ``answer_at`` the model's forward is what it was. The work is
    done inside the forwards of the model and of its output layer, so that wrappers which gather
    weights when a module is called (FSDP) work as they should.

    Raises:
        ModelError: The family scales its logits after the output layer, which is not done here.
    """
    scaled = [name for name in _SCALED if getattr(model.config, name, None)]
    if scaled:
        raise ModelError(
            f"a model whose config sets {', '.join(scaled)} cannot be trained: its output is "
            "scaled in a way that the training code does not know; use a Llama-like model"
        )
    plain_forward = model.forward
    _let_output_layer_score(model.get_output_embeddings())

    def forward(self: Any, *args: Any, answer_at: Any = None, **kwargs: Any) -> Any:
        if answer_at is None:
            return plain_forward(*args, **kwargs)
        labels_N = kwargs.pop("labels")
        # Looked up on each call: wrappers replace the parts after patching.
        hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state
        return self.get_output_embeddings()(hidden[0, answer_at], labels=labels_N)

    model.forward = types.MethodType(forward, model)


def _let_output_layer_score(head: Any) -> None:
    plain_forward = head.forward

    def forward(self: Any, hidden_NH: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        if labels is None:
            return plain_forward(hidden_NH)
        found = ChunkedLogProbFunction.apply(
            hidden_NH,
            self.weight,
            self.bias,
            labels,
            1.0,
            _VOCABULARY_TILE,
            None,
            1.0,
            ("is_top1",),
        )
        return found[0], found[4]

    head.forward = types.MethodType(forward, head)


def answer_log_probs(
    model: Any, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs a model over a packed batch.

    Args:
        model: One that :func:`add_answer_head` has been called on, wrapped or not.
        batch: As :func:`cosalign.training.packing.pack` makes it.

    Returns:
        Log-probabilities (N,) in fp32, and whether each token was the likeliest (N,).
    """
    scores: tuple[torch.Tensor, torch.Tensor] = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=branch_mask(batch["example"], batch["branch"]),
        answer_at=batch["answer_at"],
        labels=batch["labels"],
    )
    return scores


def per_answer(values_N: torch.Tensor, answer_N: torch.Tensor, answers: int) -> torch.Tensor:
    """Sums token values of each answer: (A,)."""
    return values_N.new_zeros(answers).index_add(0, answer_N, values_N)
