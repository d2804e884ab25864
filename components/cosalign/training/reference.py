"""Reference log-probabilities, computed once per (model, context, answer) and kept in a ledger.

DPO compares the policy with a frozen reference on every answer. TRL computes that pass anew for
every run and holds, under FSDP, a second model on every rank to do it. Here the pass goes through a
ledger (law 3): a run computes only what no run has computed before, a killed pass goes on where it
was, an answer that stands in many pairs is computed once, and answers of one context share its
computation. Training then reads two numbers a pair and loads no reference at all.

The key holds the reference's digest and the token ids of context and answer, which tokenizer,
template, config, prompt and response decide between them; what is cut to a length limit is set
aside before, so no length is in the key. ``dtype`` and library versions are kept beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import row_key
from cosalign.domain.schemas import REFERENCE_LEDGER
from cosalign.inference.paid_work import PaidWork, Row, complete
from cosalign.store.ledger import Ledger
from cosalign.training.encode import CONTEXT, DPO_ANSWERS
from cosalign.training.ranks import Ranks

if TYPE_CHECKING:
    import pyarrow as pa

    from cosalign.inference.models import ModelFolder
    from cosalign.store.storage import Storage
    from cosalign.training.encode import Rows

REFERENCES = ("reference_chosen", "reference_rejected")
_FLUSH_ROWS = 512
_SHOWN = 5

Scorer = Callable[[Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]], list[float]]
"""Contexts with their answers in, the log-probability of each answer out."""


@dataclass(frozen=True)
class ReferencePass:
    """How reference log-probabilities come to be.

    Attributes:
        model: The frozen SFT model.
        storage: Whose ledger holds them.
        dtype: What the scorer computes in; kept beside the key.
        open_scorer: Loads the model; not called where nothing is missing.
        batch_tokens: Tokens of one forward pass at most, unless one context needs more.
        ranks: Who shares the work; each rank computes other contexts and writes parts of its own.
    """

    model: ModelFolder
    storage: Storage
    dtype: str
    open_scorer: Callable[[], AbstractContextManager[Scorer]]
    batch_tokens: int
    ranks: Ranks = field(default_factory=Ranks)

    def completed(self, rows: Rows) -> pa.Table:
        """The rows' table with :data:`REFERENCES` columns, in float64.

        Raises:
            DataError: A row has no finite reference; no training starts on such rows.
        """
        table = rows.table
        contexts = table[CONTEXT].to_pylist()
        answers = [table[name].to_pylist() for name in DPO_ANSWERS]
        wanted = [(c, a) for column in answers for c, a in zip(contexts, column, strict=True)]
        if self.ranks.world > 1:
            self._paid(share_of(wanted, self.ranks))
            self.ranks.wait()
        found = self._paid(wanted).rows
        figures = found["log_prob"].to_numpy(zero_copy_only=False)
        named = [rows.names[row] for row in table["row"].to_pylist()]
        self._require_finite(figures, named)
        for place, name in enumerate(REFERENCES):
            column = figures[place * len(named) : (place + 1) * len(named)]
            table = table.append_column(name, [column])
        return table

    def _require_finite(self, figures: np.ndarray[Any, Any], named: list[str]) -> None:
        bad = np.flatnonzero(~np.isfinite(figures.astype(np.float64))) % len(named)
        if not len(bad):
            return
        rows = sorted({named[i] for i in bad})
        listed = f"training/no-reference/{self.model.digest}.txt"
        if self.ranks.first:
            self.storage.write_bytes(listed, "".join(f"{row}\n" for row in rows).encode())
        more = " and others" if len(rows) > _SHOWN else ""
        raise DataError(
            f"{len(rows)} pairs have no finite reference log-probability, (prompt/config) "
            f"{', '.join(rows[:_SHOWN])}{more}; all stand in {self.storage.uri_of(listed)}. "
            "The SFT model may have diverged: look at its training curve"
        )

    def _paid(self, wanted: list[tuple[list[int], list[int]]]) -> PaidWork:
        keys = [reference_key(self.model, context, answer) for context, answer in wanted]

        def pay(positions: list[int]) -> Iterator[Row]:
            with self.open_scorer() as scorer:
                for batch in _batches([(wanted[i], keys[i]) for i in positions], self.batch_tokens):
                    yield from self._scored(scorer, batch)

        ledger = reference_ledger(self.storage)
        return complete(ledger, keys, pay, work="reference_dpo", flush_rows=_FLUSH_ROWS)

    def _scored(self, scorer: Scorer, batch: list[_Owed]) -> Iterator[Row]:
        figures = iter(scorer([(owed.context, owed.answers) for owed in batch]))
        for owed in batch:
            for key in owed.keys:
                figure = next(figures)
                yield {
                    "key": key,
                    "log_prob": figure,
                    "failure": None if math.isfinite(figure) else "not finite",
                    "engine": f"torch {version('torch')}",
                    "dtype": self.dtype,
                    "created": time.time_ns(),
                }


@dataclass(frozen=True)
class _Owed:
    context: list[int]
    answers: list[list[int]]
    keys: list[bytes]

    @property
    def tokens(self) -> int:
        return len(self.context) + sum(map(len, self.answers))


def reference_ledger(storage: Storage) -> Ledger:
    """The ledger of reference log-probabilities."""
    return Ledger(storage, "references", REFERENCE_LEDGER)


def reference_key(model: ModelFolder, context: Sequence[int], answer: Sequence[int]) -> bytes:
    """Identity of one reference log-probability, 16 bytes."""
    return row_key("reference", [model.digest, list(context), list(answer)])


def share_of(
    wanted: list[tuple[list[int], list[int]]], ranks: Ranks
) -> list[tuple[list[int], list[int]]]:
    """A rank's share by whole contexts: it follows from the rows alone, so that no two overlap."""
    contexts = sorted({tuple(context) for context, _ in wanted}, key=lambda ids: (len(ids), ids))
    own = set(ranks.share(contexts))
    return [(context, answer) for context, answer in wanted if tuple(context) in own]


def _batches(
    owed: list[tuple[tuple[list[int], list[int]], bytes]], tokens: int
) -> Iterator[list[_Owed]]:
    """Answers by context, contexts of like length together, some ``tokens`` a batch."""
    ordered = sorted(owed, key=lambda item: (len(item[0][0]), item[0][0], item[0][1]))
    batch: list[_Owed] = []
    for context, group in groupby(ordered, key=lambda item: item[0][0]):
        members = list(group)
        one = _Owed(context, [answer for (_, answer), _ in members], [key for _, key in members])
        if batch and sum(each.tokens for each in batch) + one.tokens > tokens:
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch
