"""The table of what is done next in a lane, case by case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.retraining.lane_step import RetryRules, next_step
from cosalign.retraining.run_lane import Ending, LaneEntry, Phase, RunOutcome, RunPlan

RULES = RetryRules(attempts=3, backoff_seconds=100.0, lease_seconds=60.0)


def plan(inputs: str = "a") -> RunPlan:
    return RunPlan(
        kind="full", reason="r", sentence="because", inputs=inputs, foundation="f", extends="e",
        model=None, demands=("d",), digests=("g",), covers=("d",), names={"d": "eu-bank"},
        config_uri="u", config_digest="c",
    )  # fmt: skip


def entry(phase: Phase, ending: Ending | None = None, attempt: int = 1) -> LaneEntry:
    outcome = RunOutcome(ending=ending) if ending else None
    return LaneEntry(
        number=1, nonce="n", previous=None, phase=phase, plan=plan(), run="main-full-a-1",
        attempt=attempt, holder="mine", outcome=outcome, at="now",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("head", "age", "due", "own", "action"),
    [
        (None, 0, None, "mine", "idle"),
        (None, 0, plan(), "mine", "claim"),
        (entry("claimed"), 0, plan("b"), "mine", "start"),
        (entry("claimed"), 59, plan("b"), "other", "wait"),
        (entry("claimed"), 60, None, "other", "take_over"),
        (entry("submitted"), 9999, plan("b"), "other", "look"),
        (entry("ended", "succeeded"), 9999, None, "mine", "idle"),
        (entry("ended", "succeeded"), 9999, plan(), "mine", "idle"),
        (entry("ended", "wrong"), 9999, plan(), "mine", "idle"),
        (entry("ended", "cancelled"), 9999, plan(), "mine", "idle"),
        (entry("ended", "succeeded"), 0, plan("b"), "mine", "claim"),
        (entry("ended", "failed"), 0, plan("b"), "mine", "claim"),
        (entry("ended", "failed"), 99, plan(), "mine", "wait"),
        (entry("ended", "failed"), 100, plan(), "mine", "claim"),
        (entry("ended", "lost"), 100, plan(), "mine", "claim"),
        (entry("ended", "failed", 2), 199, plan(), "mine", "wait"),
        (entry("ended", "failed", 2), 200, plan(), "mine", "claim"),
        (entry("ended", "failed", 3), 99999, plan(), "mine", "idle"),
    ],
)
def test_the_table(
    head: LaneEntry | None, age: float, due: RunPlan | None, own: str, action: str
) -> None:
    assert next_step(head, age, due, RULES, own).action == action


def test_another_attempt_counts_on() -> None:
    step = next_step(entry("ended", "failed", 2), 1e6, plan(), RULES, "mine")
    assert (step.action, step.attempt) == ("claim", 3)
    assert next_step(entry("ended", "failed", 2), 0, plan("b"), RULES, "mine").attempt == 1


@given(
    phase=st.sampled_from(["claimed", "submitted"]),
    age=st.floats(-1e6, 1e9),
    own=st.sampled_from(["mine", "other"]),
)
def test_while_a_run_is_under_way_none_is_claimed(phase: Phase, age: float, own: str) -> None:
    for due in (None, plan(), plan("b")):
        assert next_step(entry(phase), age, due, RULES, own).action != "claim"


@given(
    ending=st.sampled_from(["succeeded", "failed", "wrong", "cancelled", "lost"]),
    attempt=st.integers(1, 6),
    age=st.floats(0, 1e9),
)
def test_the_same_inputs_are_never_tried_more_often_than_allowed(
    ending: Ending, attempt: int, age: float
) -> None:
    step = next_step(entry("ended", ending, attempt), age, plan(), RULES, "mine")
    assert step.action in ("idle", "wait", "claim")
    if step.action == "claim":
        assert ending in ("failed", "lost")
        assert step.attempt == attempt + 1 <= RULES.attempts
        assert age >= RULES.backoff(attempt)
