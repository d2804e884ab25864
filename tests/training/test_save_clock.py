"""When a checkpoint is due by time: arithmetic, against a training that is simulated."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.training.save_clock import WRITING_SHARE, SaveClock


class Time:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Training:
    """A training of equal steps, whose checkpoints take so long to write and to store.

    Attributes:
        lost: What a kill at the end of each step would have lost: time since the last stored state.
        writing: Seconds in which nothing was trained.
    """

    step: float
    write: float
    store: float
    clock: SaveClock
    time: Time
    lost: list[float] = field(default_factory=list)
    writing: float = 0.0
    saves: int = 0
    _stored: float = 1000.0
    _under_way: tuple[float, float] | None = None

    def run(self, steps: int) -> None:
        self.clock.resumed()
        for _ in range(steps):
            self.time.seconds += self.step
            self._arrive()
            self.clock.step_ended()
            self.lost.append(self.time.seconds - self._stored)
            if self.clock.due(self._under_way is not None):
                self._save()

    def _save(self) -> None:
        snapshot = self.time.seconds
        self.time.seconds += self.write
        self.writing += self.write
        self.saves += 1
        self.clock.written()
        self.clock.resumed()
        self._under_way = (self.time.seconds + self.store, snapshot)

    def _arrive(self) -> None:
        if self._under_way and self._under_way[0] <= self.time.seconds:
            self.clock.stored(self.store)
            self._stored, self._under_way = self._under_way[1], None


def _training(minutes: float | None, step: float, write: float, store: float) -> Training:
    time = Time()
    return Training(step, write, store, SaveClock(minutes, write + store, time), time)


SECONDS = st.floats(0.01, 200)


@given(minutes=st.floats(0.5, 60), step=SECONDS, write=SECONDS, store=SECONDS)
def test_no_more_is_lost_than_the_recipe_says_where_that_can_be(
    minutes: float, step: float, write: float, store: float
) -> None:
    training = _training(minutes, step, write, store)
    training.run(400)
    reachable = 60 * minutes >= 3 * step + (1 / WRITING_SHARE + 2) * write + 2 * store
    if reachable:
        # One step more than the limit: a decision falls at the end of a step.
        assert max(training.lost) <= 60 * minutes + step + 1e-6
    elapsed = training.time.seconds - 1000
    assert training.writing <= WRITING_SHARE * elapsed + write


@given(minutes=st.floats(0.5, 60), step=SECONDS, write=SECONDS, store=SECONDS)
def test_saves_are_no_more_frequent_than_needed(
    minutes: float, step: float, write: float, store: float
) -> None:
    training = _training(minutes, step, write, store)
    training.run(400)
    elapsed = training.time.seconds - 1000
    spared = 60 * minutes - 2 * step - write - store
    if spared > 0:
        assert training.saves <= elapsed / spared + 1


def test_a_slow_upload_does_not_eat_the_training() -> None:
    """Storing takes twenty minutes and ten may be lost: one at a time, and training goes on."""
    training = _training(10, step=5, write=2, store=1200)
    training.run(2000)
    elapsed = training.time.seconds - 1000
    assert training.saves <= elapsed / 1200 + 1
    assert training.writing / elapsed < 0.01
    assert max(training.lost) < 2 * 1200 + 60


def test_without_minutes_nothing_is_due() -> None:
    training = _training(None, 10, 1, 1)
    training.run(1000)
    assert training.saves == 0


def test_the_planned_seconds_count_until_a_save_was_measured() -> None:
    time = Time()
    clock = SaveClock(10, 300, time)
    assert clock.seconds_to_safety == 300
    time.seconds += 7
    clock.step_ended()
    assert clock.seconds_to_safety == pytest.approx(307)
    time.seconds += 20
    clock.written()
    clock.stored(30)
    assert clock.save_seconds == pytest.approx(50)
    assert clock.seconds_to_safety == pytest.approx(57)


def test_what_is_beside_training_is_no_step() -> None:
    time = Time()
    clock = SaveClock(10, 0, time)
    time.seconds += 3
    clock.step_ended()
    time.seconds += 500  # an evaluation
    clock.resumed()
    time.seconds += 4
    clock.step_ended()
    assert clock.seconds_to_safety == pytest.approx(4)
