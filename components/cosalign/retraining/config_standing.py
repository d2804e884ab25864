"""What became of each config, in the words of a Kubernetes status: conditions, a phase, a score.

Computed from one tick alone, so a status that was lost or never written is made anew by the next.

=========  ====================================================================================
condition  true if
=========  ====================================================================================
Accepted   it stands in the accepted set as it is wanted, and may be served
Refused    somebody has to do something before it can be accepted
Evaluated  the current model was measured under it; the reason says whether it follows
Trained    a run that led to the current model trained on it
Promoted   the current model was measured to follow it
=========  ====================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cosalign.domain.validation import StrictModel
from cosalign.retraining.admission import Reason
from cosalign.retraining.admitted_configs import Verdict
from cosalign.retraining.reconcile import Tick
from cosalign.retraining.run_lane import LaneEntry, Measure
from cosalign.retraining.run_orders import demand_key
from cosalign.store.accepted_configs import AcceptedConfig

Truth = Literal["True", "False", "Unknown"]
CONDITIONS = ("Accepted", "Refused", "Evaluated", "Trained", "Promoted")
_SHORT = 12


class Condition(StrictModel):
    """One condition of a config; ``since`` is when its status last changed, ISO 8601 in UTC."""

    type: str
    status: Truth
    reason: str
    message: str
    since: str = ""


class ConfigStanding(StrictModel):
    """What became of one config.

    Attributes:
        name: Its name.
        namespace: Its namespace; ``None`` outside Kubernetes.
        region: Its region; empty where it cannot be read.
        form: ``categorical`` or ``freeform``; ``None`` where it cannot be read.
        digest: Identity of what it demands; ``None`` where it cannot be read.
        generation: The generation of the spec that this is about.
        phase: All of it in one word.
        score: CoSA-Score of the current model under it.
        low: The low end of the score's interval.
        high: The high end.
        model: Digest of the model that follows it.
        conditions: In the order of :data:`CONDITIONS`.
    """

    name: str
    namespace: str | None
    region: str
    form: str | None
    digest: str | None
    generation: int | None
    phase: str
    score: float | None = None
    low: float | None = None
    high: float | None = None
    model: str | None = None
    conditions: tuple[Condition, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return (self.namespace or "", self.name)

    def condition(self, kind: str) -> Condition:
        """One of its conditions."""
        return next(found for found in self.conditions if found.type == kind)


def standings(tick: Tick, before: Mapping[tuple[str, str], ConfigStanding]) -> list[ConfigStanding]:
    """What became of every config that is wanted, sorted by namespace and name.

    Args:
        tick: What a look found.
        before: What was known of them, for the times of their conditions.
    """
    accepted = {config.key: config for config in tick.accepted.configs}
    found = [
        _standing(tick, verdict, accepted.get(verdict.desired.key)) for verdict in tick.verdicts
    ]
    at = tick.moment.isoformat(timespec="seconds")
    return [_timed(standing, before.get(standing.key), at) for standing in found]


def _standing(tick: Tick, verdict: Verdict, accepted: AcceptedConfig | None) -> ConfigStanding:
    desired = verdict.desired
    config = desired.config
    about = _About(tick, demand_key(accepted)) if verdict.accepted and accepted else None
    own = _of_admission(verdict, accepted)
    rest = about.conditions() if about else _of_nobody(verdict)
    measure = about.measure if about else None
    followed = bool(measure and measure.followed)
    return ConfigStanding(
        name=desired.name, namespace=desired.namespace,
        region=config.region if config else "", form=config.kind if config else None,
        digest=config.digest if config else None, generation=desired.generation,
        phase=about.phase() if about else _waiting_phase(verdict),
        score=measure.score if measure else None, low=measure.low if measure else None,
        high=measure.high if measure else None,
        model=tick.model.digest if tick.model and followed else None,
        conditions=(*own, *rest),
    )  # fmt: skip


def _of_admission(verdict: Verdict, accepted: AcceptedConfig | None) -> tuple[Condition, Condition]:
    reason, message = verdict.reason, verdict.message
    if verdict.accepted and accepted is not None and reason == Reason.UNCHANGED:
        # Of a version that was accepted before, why it was: that there is nothing new is no reason.
        who = ", ".join(accepted.approvers)
        reason = str(Reason.APPROVED if who else Reason.APPROVALS_WAIVED)
        message = f"approved by {who}" if who else "approvals are not required here"
    if not verdict.accepted and accepted is not None:
        message += "; the version that was accepted before stays in force"
    says: Truth = "True" if verdict.accepted else "False"
    accepts = Condition(type="Accepted", status=says, reason=reason, message=message)
    if verdict.refused:
        return accepts, Condition(type="Refused", status="True", reason=reason, message=message)
    nothing = "nobody has to do anything"
    return accepts, Condition(type="Refused", status="False", reason="NotRefused", message=nothing)


def _of_nobody(verdict: Verdict) -> tuple[Condition, ...]:
    """Conditions of a version that nothing is done with."""
    reason = "Refused" if verdict.refused else "Waiting"
    return tuple(
        Condition(type=kind, status="False", reason=reason, message="it is not accepted")
        for kind in CONDITIONS[2:]
    )


def _waiting_phase(verdict: Verdict) -> str:
    return "Refused" if verdict.refused else "Waiting"


@dataclass(frozen=True)
class _About:
    """One accepted demand, and what a tick knows of it."""

    tick: Tick
    demand: str

    @property
    def measure(self) -> Measure | None:
        model = self.tick.model
        return model.measures.get(self.demand) if model else None

    def conditions(self) -> tuple[Condition, ...]:
        return (self._evaluated(), self._trained(), self._promoted())

    def phase(self) -> str:
        if self.measure is not None and self.measure.followed:
            return "Promoted"
        for lane, word in ((self.tick.train, "Training"), (self.tick.evaluate, "Evaluating")):
            if self._under_way(lane):
                return word
        if self._failed(self.tick.train) or self._failed(self.tick.evaluate):
            return "Failed"
        in_vain = self._tried or self._only_measured or self._set_aside is not None
        return "NotFollowed" if in_vain else "Accepted"

    @property
    def _only_measured(self) -> bool:
        return self.measure is not None and self.tick.demands[self.demand].evaluate_only

    @property
    def _set_aside(self) -> LaneEntry | None:
        """The run that trained on it in vain, for which no further one does."""
        return self.tick.set_aside.get(self.demand)

    @property
    def _tried(self) -> bool:
        """Whether a training on it ended, and the gate did not let its model pass."""
        return self._ended(self.tick.train) and not self._failed(self.tick.train)

    def _under_way(self, lane: LaneEntry | None) -> bool:
        return lane is not None and lane.active and self.demand in lane.plan.demands

    def _ended(self, lane: LaneEntry | None) -> bool:
        return lane is not None and not lane.active and self.demand in lane.plan.demands

    def _failed(self, lane: LaneEntry | None) -> bool:
        outcome = lane.outcome if lane is not None and self._ended(lane) else None
        return outcome is not None and outcome.ending != "succeeded"

    def _evaluated(self) -> Condition:
        if self.measure is None:
            return self._pending("Evaluated", self.tick.evaluate or self.tick.train)
        model = self.tick.model.digest[:_SHORT] if self.tick.model else ""
        if self.measure.followed:
            says = f"model {model} follows it"
            return Condition(type="Evaluated", status="True", reason="Followed", message=says)
        says = f"model {model} was not shown to follow it: {', '.join(self.measure.codes)}"
        return Condition(type="Evaluated", status="True", reason="NotFollowed", message=says)

    def _trained(self) -> Condition:
        runs = self.tick.model.trained if self.tick.model else ()
        for entry in runs:
            if self.demand in entry.plan.demands:
                says = f"trained on in run {entry.run}"
                return Condition(type="Trained", status="True", reason="Trained", message=says)
        if self.measure is not None and self.measure.followed:
            says = "the model follows it without having been trained on it"
            return Condition(type="Trained", status="False", reason="NotNeeded", message=says)
        if self.tick.demands[self.demand].evaluate_only:
            says = "it asks to be measured and never trained on"
            return Condition(type="Trained", status="False", reason="EvaluateOnly", message=says)
        return self._untrained("Trained")

    def _promoted(self) -> Condition:
        model = self.tick.model
        if model is not None and self.measure is not None and self.measure.followed:
            says = f"model {model.digest[:_SHORT]} is current and follows it"
            return Condition(type="Promoted", status="True", reason="Followed", message=says)
        if self._only_measured:
            says = "the current model was not shown to follow it, and it may not be trained on"
            return Condition(type="Promoted", status="False", reason="NotFollowed", message=says)
        return self._untrained("Promoted")

    def _untrained(self, kind: str) -> Condition:
        """Why there is no model that was trained on it."""
        run = self._set_aside
        if run is None:
            return self._pending(kind, self.tick.train)
        measures = run.outcome.measures if run.outcome is not None else {}
        says = (
            f"run {run.run} trained on it, and its model did not follow it: "
            f"{', '.join(measures[self.demand].codes)}; trainings leave it out until it changes, "
            "or how is trained"
        )
        return Condition(type=kind, status="False", reason="SetAside", message=says)

    def _pending(self, kind: str, lane: LaneEntry | None) -> Condition:
        """What is not the case yet, and why."""
        if lane is not None and self._under_way(lane):
            says = f"run {lane.run} goes on"
            return Condition(type=kind, status="Unknown", reason="Running", message=says)
        if lane is not None and self._ended(lane) and lane.outcome is not None:
            outcome = lane.outcome
            reason = "GateFailed" if outcome.ending == "succeeded" else "RunFailed"
            says = f"run {lane.run} {outcome.ending}: {outcome.message}".rstrip(": ")
            return Condition(type=kind, status="False", reason=reason, message=says)
        settling = bool(self.tick.settle_left)
        says = "changed configs are left to settle" if settling else "no run is due yet"
        reason = "Settling" if settling else "Pending"
        return Condition(type=kind, status="False", reason=reason, message=says)


def _timed(standing: ConfigStanding, before: ConfigStanding | None, at: str) -> ConfigStanding:
    """With the times of conditions that did not change their status kept."""
    known = {c.type: c for c in before.conditions} if before else {}

    def since(condition: Condition) -> str:
        old = known.get(condition.type)
        return old.since if old is not None and old.status == condition.status else at

    timed = tuple(c.model_copy(update={"since": since(c)}) for c in standing.conditions)
    return standing.model_copy(update={"conditions": timed})
