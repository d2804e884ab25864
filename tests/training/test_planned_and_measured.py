"""What the planner counts, held against one step of a real model on a CPU.

Bytes are those of the tensors that are held and that autograd saves, work is what torch's own
counter sees; for that attention is the plain one, since it does not know the fused one of a CPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosalign.domain.run_config import TrainingGroup
from cosalign.training.answer_log_probs import add_answer_head, answer_log_probs
from cosalign.training.model_shape import ModelShape
from cosalign.training.packing import pack
from cosalign.training.planner import GIB, stage_memory

pytestmark = pytest.mark.training

SHAPE = ModelShape(256, 768, 4, 256, 128, 2048, tied=False)
CONTEXT, ANSWER, EXAMPLES = 96, 32, 2
TOKENS, SCORED = EXAMPLES * (CONTEXT + ANSWER), EXAMPLES * ANSWER


def _group(precision: str, lora: bool) -> TrainingGroup:
    adapters = {"lora": {"rank": 8}} if lora else {}
    return TrainingGroup.model_validate({"precision": precision, **adapters})


def _model(group: TrainingGroup) -> Any:
    import transformers
    from peft import get_peft_model

    from cosalign.training.whole_model import adapter_config

    config = transformers.LlamaConfig(
        hidden_size=SHAPE.hidden,
        intermediate_size=SHAPE.intermediate,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=SHAPE.vocabulary,
        tie_word_embeddings=False,
    )
    plain = transformers.LlamaForCausalLM(config).train()
    model = get_peft_model(plain, adapter_config(group.lora)) if group.lora else plain
    add_answer_head(plain)
    return model


def _batch() -> dict[str, torch.Tensor]:
    ids = list(range(CONTEXT))
    return pack([(ids, [ids[:ANSWER]])] * EXAMPLES)


def _state_bytes(model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, gradients and optimizer states."""
    held = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]
    held += [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    return sum(tensor.nbytes for tensor in held)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_is_what_was_planned(precision: str, lora: bool) -> None:
    group = _group(precision, lora)
    model = _model(group)
    optimizer = torch.optim.RMSprop(p for p in model.parameters() if p.requires_grad)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # The tensors themselves, so that no storage is given to another one meanwhile.
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with saved_tensors_hooks(keep, lambda tensor: tensor), half:
        loss = -answer_log_probs(model, _batch())[0].mean()
    torch.autograd.backward(loss)
    optimizer.step()
    planned = stage_memory(SHAPE, group, 1, TOKENS, SCORED, recomputed=False)
    assert _state_bytes(model, optimizer) / GIB == pytest.approx(planned.states, rel=0.001)
    saved = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / GIB
    # Adapters keep less where a frozen layer needs no input, and copies of their own weights.
    tolerance = 0.15 if lora else 0.05
    assert saved == pytest.approx(planned.activations + planned.gathered, rel=tolerance)


@pytest.mark.parametrize(("lora", "passes"), [(False, 3), (True, 2)], ids=["full", "lora"])
def test_work_is_what_was_planned(lora: bool, passes: int) -> None:
    model = _model(_group("fp32", lora))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = -answer_log_probs(model, _batch())[0].mean()
        forward = counter.get_total_flops()
        torch.autograd.backward(loss)
    linear = SHAPE.forward_flops(TOKENS, SCORED, 0)
    attention = SHAPE.forward_flops(TOKENS, SCORED, TOKENS) - linear
    # The counter sees both halves of attention, and the adapters' own work: 4 % here, 1 % in 8B.
    planned = linear + 2 * attention
    assert forward == pytest.approx(planned, rel=0.05 if lora else 0.001)
    # Attention has no weights, so its backward pass is two forward passes' work either way.
    of_attention = 3 * 2 * attention
    assert counter.get_total_flops() == pytest.approx(passes * linear + of_attention, rel=0.1)
