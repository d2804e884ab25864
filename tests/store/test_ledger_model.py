"""A ledger against a dictionary, under random sequences of operations."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.store.ledger_rows import drinks, key, row

from cosalign.store.storage import open_storage

numbers = st.integers(0, 7)
batches = st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=4)


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = drinks(open_storage(str(Path(self.folder.name))))
        self.successes: dict[int, str] = {}
        self.failures: dict[int, str] = {}
        self.written = 0

    @rule(batch=batches)
    def append(self, batch: list[tuple[int, bool]]) -> None:
        rows = []
        for number, fails in batch:
            self.written += 1
            text = f"row {self.written}"
            rows.append(row(number, text, failure="failed" if fails else None))
            (self.failures if fails else self.successes).setdefault(number, text)
        self.ledger.append(rows)

    @rule(chosen=st.sets(numbers))
    def erase(self, chosen: set[int]) -> None:
        stored = chosen & (self.successes.keys() | self.failures.keys())
        assert self.ledger.erase([key(n) for n in chosen]) == len(stored)
        for number in stored:
            self.successes.pop(number, None)
            self.failures.pop(number, None)

    @rule()
    def compact(self) -> None:
        self.failures = {n: t for n, t in self.failures.items() if n not in self.successes}
        found = self.ledger.compact()
        assert found.rows == len(self.successes) + len(self.failures)
        assert found.parts <= 1

    @rule(asked=st.lists(numbers))
    def missing(self, asked: list[int]) -> None:
        expected = [n for n in dict.fromkeys(asked) if n not in self.successes]
        assert self.ledger.missing([key(n) for n in asked]) == [key(n) for n in expected]

    @rule(wanted=st.lists(numbers))
    def read(self, wanted: list[int]) -> None:
        known = self.failures | self.successes
        asked = [n for n in wanted if n in known]
        found = self.ledger.read([key(n) for n in asked])
        assert found.column("text").to_pylist() == [known[n] for n in asked]

    @invariant()
    def figures(self) -> None:
        found = self.ledger.stats()
        assert found.keys == len(self.successes)
        assert found.failures == len(self.failures.keys() - self.successes.keys())

    def teardown(self) -> None:
        self.folder.cleanup()


LedgerMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, derandomize=True
)
test_a_ledger_is_a_dictionary = LedgerMachine.TestCase
