"""Several examples in one row without padding, and each context computed once for its answers.

A preference pair shares its prompt and its config, which are most of its tokens: with 130 tokens of
context and two answers of 35, a padded batch computes 330 where 200 say all. Here a micro batch is
one row: for each example the context, then its answers one after the other. Positions start anew
with each answer where the context ended, and an attention mask keeps examples apart and answers
from seeing one another, so every log-probability is what the plain row would give; tests prove it.

TRL's own ``padding_free`` does nothing in DPO (it warns), and its packing has no answers that share
a context, which is why this is ours.

Letters in names: T tokens of the packed row, N answer tokens, B examples, A answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Example = tuple[Sequence[int], Sequence[Sequence[int]]]
"""The ids of a context, and of each of its answers."""

_CONTEXT = 0


def pack(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """Lays examples into one row.

    Args:
        examples: Contexts with their answers; a context holds at least one token.

    Returns:
        ``input_ids``, ``position_ids`` (1, T); ``example`` and ``branch`` (T,): which example a
        token is of, and 0 for its context or k for its k-th answer; ``answer_at`` (N,): the place
        whose output predicts each answer token; ``labels`` (N,): those tokens; ``answer`` (N,):
        which answer each is of, counted through all examples.
    """
    rows = _Rows()
    for context, answers in examples:
        rows.add(context, answers)
    return rows.tensors()


class _Rows:
    def __init__(self) -> None:
        self._ids: list[int] = []
        self._positions: list[int] = []
        self._examples: list[int] = []
        self._branches: list[int] = []
        self._at: list[int] = []
        self._labels: list[int] = []
        self._answers: list[int] = []
        self._count = 0
        self._answer_count = 0

    def add(self, context: Sequence[int], answers: Sequence[Sequence[int]]) -> None:
        self._extend(context, 0, _CONTEXT)
        # The context's last token predicts the first token of every answer.
        last = len(self._ids) - 1
        for branch, answer in enumerate(answers, start=1):
            start = len(self._ids)
            self._extend(answer, len(context), branch)
            self._at += [last, *range(start, start + len(answer) - 1)][: len(answer)]
            self._labels += answer
            self._answers += [self._answer_count] * len(answer)
            self._answer_count += 1
        self._count += 1

    def _extend(self, ids: Sequence[int], position: int, branch: int) -> None:
        self._ids += ids
        self._positions += range(position, position + len(ids))
        self._examples += [self._count] * len(ids)
        self._branches += [branch] * len(ids)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            "input_ids": torch.tensor([self._ids]),
            "position_ids": torch.tensor([self._positions]),
            "example": torch.tensor(self._examples, dtype=torch.int32),
            "branch": torch.tensor(self._branches, dtype=torch.int32),
            "answer_at": torch.tensor(self._at),
            "labels": torch.tensor(self._labels),
            "answer": torch.tensor(self._answers),
        }


def branch_mask(example_T: torch.Tensor, branch_T: torch.Tensor) -> torch.Tensor:
    """Who may attend to whom: (1, 1, T, T), true where the query (row) sees the key (column).

    A token sees what stands before it in its own example: the context, and its own answer.
    """
    place_T = torch.arange(len(example_T), device=example_T.device)
    before = place_T[:, None] >= place_T[None, :]
    same = example_T[:, None] == example_T[None, :]
    seen = (branch_T[None, :] == _CONTEXT) | (branch_T[:, None] == branch_T[None, :])
    return (before & same & seen)[None, None]


@dataclass(frozen=True)
class PackedCollator:
    """Makes one packed row of a micro batch of dataset rows.

    Attributes:
        context: The column of context ids.
        answers: The columns of answer ids.
        figures: Columns of one number an example that the loss needs.
    """

    context: str
    answers: tuple[str, ...]
    figures: tuple[str, ...] = ()

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """The packed micro batch; with ``rows`` (B,) and each of the figures (B,).

        A negative row number marks a row that only fills up (see ``row_order``).
        """
        batch = pack([(row[self.context], [row[name] for name in self.answers]) for row in rows])
        batch["rows"] = torch.tensor([row["row"] for row in rows])
        for name in self.figures:
            batch[name] = torch.tensor([row[name] for row in rows], dtype=torch.float32)
        return batch
