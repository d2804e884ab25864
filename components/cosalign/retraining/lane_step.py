"""What is to be done next in a lane: pure, so that every case stands in one table.

====================================  =========================================================
the lane's newest entry               what is done
====================================  =========================================================
none, or ended with other inputs      claim, if a run is due
claimed by this process               start it, if Kubeflow has no run of its name
claimed by another, a moment ago      leave it: that one is about to start it
claimed by another, long ago          take over, if Kubeflow has no run of its name
submitted                             look how it is doing
ended well, inputs the same           nothing: it has said what it had to say
ended wrong or cancelled, the same    nothing until something changes
failed or lost, inputs the same       claim again after a while, up to a number of attempts
====================================  =========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cosalign.retraining.run_lane import RETRIED, LaneEntry, RunPlan

Action = Literal["idle", "wait", "claim", "start", "take_over", "look"]


@dataclass(frozen=True)
class RetryRules:
    """How claims and failures are dealt with.

    Attributes:
        attempts: Attempts at the same inputs, the first included.
        backoff_seconds: Between the first and the second; twice as long before each further.
        lease_seconds: After which a claim without a run counts as left behind.
    """

    attempts: int = 3
    backoff_seconds: float = 600.0
    lease_seconds: float = 120.0

    def backoff(self, attempt: int) -> float:
        """Seconds to wait after an attempt."""
        return self.backoff_seconds * float(2 ** (attempt - 1))


@dataclass(frozen=True)
class Next:
    """What to do, and why.

    Attributes:
        action: What.
        why: For people.
        attempt: Of a claim, which attempt it is.
        tried: The run that is due, as it ended; ``None`` where it was not tried.
    """

    action: Action
    why: str
    attempt: int = 1
    tried: LaneEntry | None = None


def next_step(
    head: LaneEntry | None, age: float, plan: RunPlan | None, rules: RetryRules, own: str
) -> Next:
    """What to do in a lane.

    Args:
        head: Its newest entry; where no run goes on, that of the same inputs if there is one.
        age: Seconds since it was recorded, by the storage's clock.
        plan: The run that is due; ``None`` where none is.
        rules: See :class:`RetryRules`.
        own: The word by which this process knows its own claims.
    """
    if head is not None and head.active:
        return _active(head, age, rules, own)
    if plan is None:
        return Next("idle", "nothing is due")
    if head is None or head.plan.inputs != plan.inputs:
        return Next("claim", plan.sentence)
    return _again(head, age, rules)


def _active(head: LaneEntry, age: float, rules: RetryRules, own: str) -> Next:
    if head.phase == "submitted":
        return Next("look", f"run {head.run} was started")
    if head.holder == own:
        return Next("start", f"run {head.run} is claimed")
    if age >= rules.lease_seconds:
        return Next("take_over", f"the claim of run {head.run} was left {age:.0f} s ago")
    return Next("wait", f"another reconcile is about to start run {head.run}")


def _again(head: LaneEntry, age: float, rules: RetryRules) -> Next:
    """What to do about inputs that were tried already."""
    outcome = head.outcome
    if outcome is None or outcome.ending not in RETRIED:
        ending = outcome.ending if outcome else "ended"
        why = f"run {head.run} {ending}, and nothing that it was made from changed"
        return Next("idle", why, tried=head)
    if head.attempt >= rules.attempts:
        why = f"run {head.run} failed, the last of {rules.attempts} attempts"
        return Next("idle", why, tried=head)
    left = rules.backoff(head.attempt) - age
    if left > 0:
        why = f"run {head.run} failed; the next attempt is due in {left:.0f} s"
        return Next("wait", why, tried=head)
    return Next("claim", f"run {head.run} failed; tried again", head.attempt + 1, head)
