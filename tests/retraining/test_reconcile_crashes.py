"""A reconcile may die anywhere, and others may run beside it: one run is started, none is lost."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
from tests.retraining.reconcile_world import NO_WAIT, Crash, DyingStorage, World, document

from cosalign.domain.errors import StorageUnavailable
from cosalign.retraining.lane_step import RetryRules
from cosalign.retraining.reconcile import Settings
from cosalign.retraining.run_lane import RunLane
from cosalign.retraining.submitters import RunOrder, SubmittedRun, SubmitterDouble
from cosalign.store.accepted_configs import AcceptedSet
from cosalign.store.storage import Storage

BANK = document("eu-bank", "financial_crime_theft")
GAME = document("jp-game", "violence")
LEFT_BEHIND = Settings(settle=NO_WAIT, retry=RetryRules(3, 0.0, 0.0))
"""A claim without a run counts as left behind at once: whoever claimed it is known to be dead."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def dies_everywhere(world: World, kinds: list[str], after: bool) -> None:
    """Lets a reconcile die at its first write, the next at its second, ..., until one lives."""
    world.settings = LEFT_BEHIND
    at = 0
    while True:
        at += 1
        dying = DyingStorage(world.storage, at, after)
        try:
            world.reconciler(cast("Storage", dying)).tick()
        except Crash:
            continue
        if not dying.died:
            break
    world.ticks()
    assert world.started == kinds
    assert len(set(world.names)) == len(world.names)
    assert RunLane(world.storage, "main", "train").history()
    assert AcceptedSet(world.storage).history()


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after a write"])
def test_from_nothing_to_a_model(world: World, after: bool) -> None:
    world.wants(BANK)
    dies_everywhere(world, ["full"], after)


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after a write"])
def test_from_a_model_to_the_next(world: World, after: bool) -> None:
    world.wants(BANK)
    world.ticks()
    accepted = AcceptedSet(world.storage).current()
    assert accepted is not None
    first = accepted.configs[0].followed_by
    world.worker.follows = lambda model, name: name != "jp-game" or model != first
    world.wants(BANK, GAME)
    dies_everywhere(world, ["full", "evaluate", "increment"], after)


@dataclass
class Deaf(SubmitterDouble):
    """Starts a run, and dies or hears no answer."""

    problem: BaseException = StorageUnavailable("no answer")  # noqa: RUF009
    before: bool = False

    def start(self, order: RunOrder) -> str:
        if self.before:
            raise self.problem
        super().start(order)
        raise self.problem


@pytest.mark.parametrize(
    "problem", [StorageUnavailable("no answer"), Crash()], ids=["deaf", "dead"]
)
def test_a_run_whose_start_was_not_heard_of_is_found_by_its_name(
    world: World, problem: BaseException
) -> None:
    deaf = Deaf(problem=problem)
    world.wants(BANK)
    with pytest.raises(type(problem)):
        world.reconciler(submitter=deaf).tick()
    lane = RunLane(world.storage, "main", "train")
    head = lane.head()
    assert head is not None
    assert head.phase == "claimed"
    # Not even the lease has to run out: the run is there.
    tick = world.reconciler(submitter=deaf).tick()
    assert tick.train is not None
    assert (tick.train.phase, tick.train.run_id) == ("submitted", "r1")
    assert len(deaf.runs) == 1


def test_a_claim_whose_holder_died_before_the_start_is_taken_over_after_its_lease(
    world: World,
) -> None:
    world.wants(BANK)
    with pytest.raises(Crash):
        world.reconciler(submitter=Deaf(problem=Crash(), before=True)).tick()
    tick = world.reconciler().tick()
    assert tick.next_steps["train"].action == "wait"
    assert world.started == []
    world.settings = LEFT_BEHIND
    tick = world.reconciler().tick()
    assert tick.done[0].startswith("took over the claim of run main-full-")
    world.ticks(2)
    assert world.started == ["full"]


@dataclass
class Sleeper(SubmitterDouble):
    """Falls asleep between its last look and its start; others come and go meanwhile."""

    world: World | None = None

    def start(self, order: RunOrder) -> str:
        world = self.world
        assert world is not None
        if not world.started:
            world.settings = LEFT_BEHIND
            world.reconciler().tick()
        return world.submitter.start(order)

    def find(self, name: str) -> list[SubmittedRun]:
        assert self.world is not None
        return self.world.submitter.find(name)

    def look(self, run_id: str) -> SubmittedRun | None:
        assert self.world is not None
        return self.world.submitter.look(run_id)

    def cancel(self, run_id: str) -> None:
        assert self.world is not None
        self.world.submitter.cancel(run_id)


def test_a_claimer_that_slept_through_a_takeover_ends_its_own_run(world: World) -> None:
    world.submitter.carry_out = None
    world.wants(BANK)
    world.reconciler(submitter=Sleeper(world=world)).tick()
    assert world.started == ["full", "full"]
    assert world.submitter.cancelled == ["r2"]
    lane = RunLane(world.storage, "main", "train")
    head = lane.head()
    assert head is not None
    assert (head.phase, head.run_id) == ("submitted", "r1")


def test_a_double_whose_starter_died_at_once_is_ended_by_the_next_look(world: World) -> None:
    world.submitter.carry_out = None
    world.wants(BANK)
    world.reconciler().tick()
    order = world.submitter.runs[0][1]
    world.submitter.start(replace(order))
    world.reconciler().tick()
    assert world.submitter.cancelled == ["r2"]


def race(world: World, count: int) -> None:
    """So many reconciles at once, each as a process of its own would be."""
    problems: list[BaseException] = []
    begin = threading.Barrier(count)

    def run() -> None:
        reconciler = world.reconciler()
        begin.wait()
        try:
            reconciler.tick()
        except StorageUnavailable:
            pass  # Others were faster each time; a later tick will do.
        except BaseException as problem:  # noqa: BLE001  shown by the test
            problems.append(problem)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.parametrize("kind", ["file", "gs"])
def test_of_many_reconciles_at_once_one_starts_a_run(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = str(tmp_path) if kind == "file" else request.getfixturevalue("gcs_root")
    world = World(root)
    world.submitter.carry_out = None
    world.wants(BANK, GAME)
    race(world, 24)
    world.ticks(1)
    assert world.started == ["full"]
    assert world.submitter.cancelled == []
    assert len(AcceptedSet(world.storage).history()) == 1


def test_two_reconciles_that_look_after_one_run_record_its_end_once(world: World) -> None:
    world.submitter.carry_out = None
    world.wants(BANK)
    world.reconciler().tick()
    run_id, order = world.submitter.runs[0]
    world.worker(order)
    world.submitter.statuses[run_id] = SubmittedRun(run_id, "succeeded")
    race(world, 8)
    phases = [entry.phase for entry in RunLane(world.storage, "main", "train").history()]
    assert phases == ["claimed", "submitted", "ended"]
