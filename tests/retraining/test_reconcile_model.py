"""Any order of changes, looks, deaths, ends and rollbacks: one run a lane, and rest at the end."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import cast

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.retraining.reconcile_world import Crash, DyingStorage, World, document
from tests.retraining.test_reconcile_crashes import LEFT_BEHIND

from cosalign.retraining.lane_step import RetryRules
from cosalign.retraining.submitters import SubmittedRun
from cosalign.store.accepted_configs import AcceptedSet
from cosalign.store.model_pointer import Choice, ModelPointer
from cosalign.store.storage import Storage

CONFIGS = {
    "eu-bank": document("eu-bank", "financial_crime_theft"),
    "no-school": document("no-school"),
    "jp-game": document("jp-game", "violence", training="evaluateOnly"),
    "at-fair": document("at-fair", "illegal_drugs_substance_abuse"),
}
ENDINGS = st.sampled_from(["succeeded", "succeeded", "succeeded", "failed", "cancelled"])


class Regions(RuleBasedStateMachine):
    """Regions, a platform team and a cluster that do as they like."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="reconcile-model-")
        self.world = World(self.folder.name)
        self.world.settings = replace(LEFT_BEHIND, retry=RetryRules(2, 0.0, 0.0))
        self.world.submitter.carry_out = None
        self.world.worker.follows = _by_chance
        self.wanted: set[str] = set()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(names=st.sets(st.sampled_from(sorted(CONFIGS))))
    def regions_want(self, names: set[str]) -> None:
        self.wanted = names
        self.world.wants(*(CONFIGS[name] for name in sorted(names)))

    @rule()
    def a_look(self) -> None:
        self.world.reconciler().tick()
        accepted = AcceptedSet(self.world.storage).current()
        assert accepted is not None
        assert {config.name for config in accepted.configs} == self.wanted

    @rule(at=st.integers(1, 40), after=st.booleans())
    def a_look_that_dies(self, at: int, after: bool) -> None:
        dying = DyingStorage(self.world.storage, at, after)
        try:
            self.world.reconciler(cast("Storage", dying)).tick()
        except Crash:
            assert dying.died

    @rule(ending=ENDINGS)
    def a_run_ends(self, ending: str) -> None:
        for run_id, order in self.world.submitter.runs:
            if self.world.submitter.statuses[run_id].status == "running":
                if ending == "succeeded":
                    self.world.worker(order)
                status = SubmittedRun(run_id, ending)  # type: ignore[arg-type]
                self.world.submitter.statuses[run_id] = status
                return

    @rule()
    def somebody_rolls_back(self) -> None:
        pointer = ModelPointer(self.world.storage, "main")
        history = pointer.history()
        if len({entry.digest for entry in history}) > 1:
            first = history[0]
            back = Choice(action="rollback", uri=first.uri, digest=first.digest, by="ada",
                          at="now", target=1)  # fmt: skip
            pointer.record(back, len(history))

    @invariant()
    def of_each_pipeline_one_run_goes_on(self) -> None:
        submitter = self.world.submitter
        going = [order.pipeline for run_id, order in submitter.runs
                 if submitter.statuses[run_id].status == "running"]  # fmt: skip
        assert len(going) == len(set(going))

    @invariant()
    def no_run_was_started_twice(self) -> None:
        assert len(self.world.names) == len(set(self.world.names))
        assert self.world.submitter.cancelled == []

    @rule()
    def left_alone_it_comes_to_rest(self) -> None:
        self.world.submitter.carry_out = self.world.worker
        while self._unfinished():
            self.a_run_ends("succeeded")
        for _ in range(20):
            before = len(self.world.submitter.runs)
            tick = self.world.reconciler().tick()
            if len(self.world.submitter.runs) == before and not tick.done:
                break
        else:
            raise AssertionError(f"no rest: {tick.done}")
        self.world.submitter.carry_out = None

    def _unfinished(self) -> bool:
        return any(run.status == "running" for run in self.world.submitter.statuses.values())


def _by_chance(model: str, name: str) -> bool:
    """The same answer each time, and neither always yes nor always no."""
    return sum(map(ord, f"{model}{name}")) % 3 > 0


TestRegions = Regions.TestCase
TestRegions.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
