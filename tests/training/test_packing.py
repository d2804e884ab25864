"""Packed rows: the same log-probabilities and gradients as plain rows, from fewer tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cosalign.inference.models import ModelFolder
from cosalign.training.answer_log_probs import add_answer_head, answer_log_probs, per_answer
from cosalign.training.packing import PackedCollator, branch_mask, pack
from cosalign.training.whole_model import load_weights

pytestmark = pytest.mark.training

EXAMPLES: list[tuple[list[int], list[list[int]]]] = [
    ([5, 6, 7, 8], [[9, 10, 11], [12]]),
    ([13, 14], [[15, 16], [15, 17, 18, 19], [20]]),
    ([21], [[22]]),
]
IDS = st.lists(st.integers(1, 99), min_size=1, max_size=6)


def _plain(model: Any, context: list[int], answer: list[int]) -> torch.Tensor:
    """log pi(answer | context), from the full logits of one row of its own."""
    logits = model(torch.tensor([context + answer])).logits[0]
    logs = torch.log_softmax(logits.double(), dim=-1)
    return torch.stack([logs[len(context) - 1 + i, token] for i, token in enumerate(answer)]).sum()


def _plain_all(model: Any) -> torch.Tensor:
    return torch.stack(
        [_plain(model, context, answer) for context, answers in EXAMPLES for answer in answers]
    )


def _packed_all(model: Any) -> torch.Tensor:
    batch = pack(EXAMPLES)
    log_probs, _ = answer_log_probs(model, batch)
    return per_answer(log_probs, batch["answer"], sum(len(a) for _, a in EXAMPLES))


@pytest.fixture
def model(tiny: ModelFolder) -> Any:
    weights = load_weights(tiny.path)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    add_answer_head(weights)
    return weights


def test_packed_rows_give_the_plain_rows_log_probabilities(model: Any) -> None:
    with torch.no_grad():
        assert _packed_all(model).tolist() == pytest.approx(_plain_all(model).tolist(), abs=1e-4)


def test_packed_rows_give_the_plain_rows_gradients(model: Any) -> None:
    weights = torch.linspace(-1, 1, 6)
    gradients = []
    for log_probs in (_packed_all(model), _plain_all(model).float()):
        model.zero_grad()
        torch.autograd.backward((weights * log_probs).sum())
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=2e-4, rtol=2e-3)


@pytest.mark.parametrize("lost", ["mask", "positions"])
def test_the_mask_and_the_positions_matter(model: Any, lost: str) -> None:
    batch = pack(EXAMPLES)
    if lost == "mask":
        batch["branch"] = torch.zeros_like(batch["branch"])
    else:
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1])[None]
    with torch.no_grad():
        wrong = per_answer(answer_log_probs(model, batch)[0], batch["answer"], 6)
        assert (wrong - _packed_all(model)).abs().max() > 1e-3


def test_the_likeliest_token_is_named_so(model: Any) -> None:
    batch = pack(EXAMPLES[:1])
    with torch.no_grad():
        _, likeliest = answer_log_probs(model, batch)
        top = model(torch.tensor([EXAMPLES[0][0]])).logits[0, -1].argmax()
    first = batch["labels"][[0, 3]]
    assert likeliest[[0, 3]].tolist() == (first == top).tolist()


def test_without_answers_the_forward_is_the_models_own(model: Any, tiny: ModelFolder) -> None:
    untouched = load_weights(tiny.path)
    untouched.load_state_dict(model.state_dict())
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, untouched(ids).logits)


@given(
    examples=st.lists(st.tuples(IDS, st.lists(IDS, min_size=1, max_size=3)), max_size=4).filter(
        bool
    )
)
def test_a_packed_row_holds_every_token_once_and_no_padding(
    examples: list[tuple[list[int], list[list[int]]]],
) -> None:
    batch = pack(examples)
    flat = [t for context, answers in examples for part in (context, *answers) for t in part]
    assert batch["input_ids"][0].tolist() == flat
    answers = [answer for _, group in examples for answer in group]
    assert batch["labels"].tolist() == [token for answer in answers for token in answer]
    assert batch["answer"].tolist() == [i for i, a in enumerate(answers) for _ in a]


@given(
    examples=st.lists(st.tuples(IDS, st.lists(IDS, min_size=1, max_size=3)), max_size=4).filter(
        bool
    )
)
def test_a_token_sees_exactly_its_own_past(
    examples: list[tuple[list[int], list[list[int]]]],
) -> None:
    batch = pack(examples)
    mask = branch_mask(batch["example"], batch["branch"])[0, 0]
    positions = batch["position_ids"][0]
    # Whoever is at position p sees p + 1 tokens, itself among them, at positions 0 to p.
    for place, position in enumerate(positions.tolist()):
        assert sorted(positions[mask[place]].tolist()) == list(range(position + 1))
    predicted = positions[batch["answer_at"]] + 1
    ids = batch["input_ids"][0].tolist()
    for at, label, position in zip(
        batch["answer_at"].tolist(), batch["labels"].tolist(), predicted.tolist(), strict=True
    ):
        # Some later token with that id, at the next position, sees the place that predicts it.
        followers = [
            i for i, token in enumerate(ids)
            if token == label and positions[i] == position and bool(mask[i, at])
        ]  # fmt: skip
        assert followers


def test_the_collator_carries_names_and_figures() -> None:
    rows: list[Mapping[str, Any]] = [
        {"row": 7, "c": [1, 2], "a": [3], "b": [4, 5], "r": -1.5},
        {"row": 9, "c": [6], "a": [7], "b": [8], "r": -0.25},
    ]
    batch = PackedCollator("c", ("a", "b"), ("r",))(rows)
    assert batch["rows"].tolist() == [7, 9]
    assert batch["r"].tolist() == [-1.5, -0.25]
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    # Five tokens for the first pair where plain rows compute seven.
    assert (batch["example"] == 0).sum() == 5
