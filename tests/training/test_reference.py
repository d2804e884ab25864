"""Reference log-probabilities: right, paid once, and refused where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tests.training.training_world import TRAINING, Encoded, encoded

from cosalign.domain.errors import DataError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage, open_storage
from cosalign.training.encode import Rows
from cosalign.training.reference import ReferencePass, Scorer, reference_ledger
from cosalign.training.reference_scorer import reference_pass

Asked = list[tuple[tuple[int, ...], tuple[int, ...]]]


@pytest.fixture(scope="module")
def world(tiny: ModelFolder) -> Encoded:
    return encoded(tiny)


class CountingScorer:
    """Scores by a formula, remembers what it was asked, and may fail on the way."""

    def __init__(self, fail_after: int | None = None, bad: float = 0.0) -> None:
        self.asked: Asked = []
        self.batches: list[int] = []
        self._fail_after = fail_after
        self._bad = bad

    @contextmanager
    def opened(self) -> Iterator[Scorer]:
        yield self._score

    def _score(
        self, examples: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
    ) -> list[float]:
        if self._fail_after is not None and len(self.batches) == self._fail_after:
            raise RuntimeError("the machine went away")
        pairs = [(tuple(c), tuple(a)) for c, answers in examples for a in answers]
        self.batches.append(sum(len(c) + sum(map(len, answers)) for c, answers in examples))
        self.asked += pairs
        return [self._bad or formula(context, answer) for context, answer in pairs]


def formula(context: Sequence[int], answer: Sequence[int]) -> float:
    return -float(sum(answer) + 7 * len(context)) / 100


def _pass(
    model: ModelFolder, storage: Storage, scorer: CountingScorer, tokens: int = 300
) -> ReferencePass:
    return ReferencePass(model, storage, "fp32", scorer.opened, tokens)


def _wanted(rows: Rows) -> Asked:
    return [
        (tuple(row["prompt_ids"]), tuple(row[name]))
        for row in rows.table.to_pylist()
        for name in ("chosen_ids", "rejected_ids")
    ]


def _head(rows: Rows, count: int) -> Rows:
    return replace(rows, table=rows.table.slice(0, count))


def test_each_pair_gets_the_figures_of_its_own_answers(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    table = _pass(tiny, open_storage(str(tmp_path)), CountingScorer()).completed(world.dpo)
    for row in table.to_pylist():
        for figure, answer in (
            ("reference_chosen", "chosen_ids"),
            ("reference_rejected", "rejected_ids"),
        ):
            assert row[figure] == formula(row["prompt_ids"], row[answer])


def test_an_answer_in_many_pairs_is_computed_once(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    scorer = CountingScorer()
    _pass(tiny, open_storage(str(tmp_path)), scorer).completed(world.dpo)
    wanted = _wanted(world.dpo)
    assert sorted(scorer.asked) == sorted(set(wanted))
    assert len(scorer.asked) < len(wanted)


def test_a_grown_set_computes_only_what_is_new(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    storage = open_storage(str(tmp_path))
    few = _head(world.dpo, 5)
    _pass(tiny, storage, CountingScorer()).completed(few)
    grown = CountingScorer()
    _pass(tiny, storage, grown).completed(world.dpo)
    assert set(grown.asked) == set(_wanted(world.dpo)) - set(_wanted(few))
    again = CountingScorer()
    _pass(tiny, storage, again).completed(world.dpo)
    assert again.asked == []


def test_a_killed_pass_goes_on_where_it_was(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    storage = open_storage(str(tmp_path))
    killed, rest = CountingScorer(fail_after=2), CountingScorer()
    with pytest.raises(RuntimeError):
        _pass(tiny, storage, killed).completed(world.dpo)
    resumed = _pass(tiny, storage, rest).completed(world.dpo)
    assert not set(killed.asked) & set(rest.asked)
    assert set(killed.asked) | set(rest.asked) == set(_wanted(world.dpo))
    whole = _pass(tiny, open_storage(str(tmp_path / "other")), CountingScorer()).completed(
        world.dpo
    )
    assert resumed.equals(whole)


def test_another_reference_model_shares_nothing(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    storage = open_storage(str(tmp_path))
    _pass(tiny, storage, CountingScorer()).completed(world.dpo)
    other = CountingScorer()
    _pass(replace(tiny, digest="0" * 64), storage, other).completed(world.dpo)
    assert set(other.asked) == set(_wanted(world.dpo))


def test_batches_keep_to_their_tokens_and_contexts_together(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    scorer = CountingScorer()
    _pass(tiny, open_storage(str(tmp_path)), scorer, tokens=150).completed(world.dpo)
    assert len(scorer.batches) > 1
    contexts = [context for context, _ in scorer.asked]
    runs = 1 + sum(a != b for a, b in pairwise(contexts))
    assert runs == len(set(contexts))
    assert all(tokens <= 150 for tokens in scorer.batches)


def test_a_figure_that_is_not_finite_stops_training_and_is_asked_again(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    storage = open_storage(str(tmp_path))
    with pytest.raises(DataError, match="no finite reference") as refusal:
        _pass(tiny, storage, CountingScorer(bad=math.nan)).completed(_head(world.dpo, 2))
    assert world.dpo.names[0] in str(refusal.value)
    (listed,) = (tmp_path / "training/no-reference").iterdir()
    assert str(listed) in str(refusal.value)
    again = CountingScorer()
    _pass(tiny, storage, again).completed(_head(world.dpo, 2))
    assert set(again.asked) == set(_wanted(_head(world.dpo, 2)))
    assert reference_ledger(storage).stats().failures == 0


def test_all_pairs_without_a_finite_reference_are_listed(
    tiny: ModelFolder, world: Encoded, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="and others"):
        _pass(tiny, open_storage(str(tmp_path)), CountingScorer(bad=math.inf)).completed(world.dpo)
    (listed,) = (tmp_path / "training/no-reference").iterdir()
    assert set(listed.read_text("utf-8").splitlines()) == set(world.dpo.names)


@pytest.mark.training
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("bf16", 5e-3)])
def test_the_model_gives_what_plain_rows_give(
    tiny: ModelFolder, world: Encoded, tmp_path: Path, precision: str, tolerance: float
) -> None:
    from cosalign.training.whole_model import load_weights

    group = TrainingGroup.model_validate({**TRAINING, "precision": precision})
    found = reference_pass(tiny, open_storage(str(tmp_path)), group).completed(world.dpo)
    model = load_weights(tiny.path)
    for row in found.slice(0, 6).to_pylist():
        for figure, answer in (
            ("reference_chosen", "chosen_ids"),
            ("reference_rejected", "rejected_ids"),
        ):
            assert row[figure] == pytest.approx(
                _plain(model, row["prompt_ids"], row[answer]), rel=tolerance
            )
    assert found["reference_chosen"].type == pa.float64()


@torch.no_grad()
def _plain(model: Any, context: list[int], answer: list[int]) -> float:
    logs = torch.log_softmax(model(torch.tensor([context + answer])).logits[0].double(), dim=-1)
    return float(sum(logs[len(context) - 1 + i, token] for i, token in enumerate(answer)))
