"""One look at what regions want and what is there, and the steps from the one to the other.

A tick reads everything anew, decides, does what is to be done and ends; nothing is kept in memory
between two of them. Each thing that it does is either harmless when done again or guarded by
storage, so a tick may be killed at any point and another may run beside it:

1. the wanted configs are judged, and what is accepted is published (``store/accepted_configs.py``),
   whether or not anything else answers;
2. runs that were claimed or started are looked after (``run_lane.py``), and who is followed by the
   current model is published;
3. the policy says what is due (``domain/increment_policy.py``), once the configs have settled;
4. that run is claimed, and started.

Time is the storage's (``store/storage_clock.py``). Where another reconcile was faster, everything
is looked at once more.
"""

from __future__ import annotations

import secrets
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cosalign.domain.fingerprint import fingerprint
from cosalign.domain.increment_policy import Decision, IncrementPolicy, decide
from cosalign.retraining.admitted_configs import Admitted, Rules, Verdict, admit_all
from cosalign.retraining.audit_rows import record_histories, record_verdicts
from cosalign.retraining.desired_configs import ConfigSource, DesiredConfigs
from cosalign.retraining.lane_step import Next, RetryRules, next_step
from cosalign.retraining.model_standing import (
    KnownModel,
    known_model,
    standing_of,
    trained_in_vain,
    wanted_of,
)
from cosalign.retraining.run_lane import (
    LaneContent,
    LaneEntry,
    RunLane,
    RunPlan,
    content_of,
    run_name,
)
from cosalign.retraining.run_orders import Demand, RunMaker, demand_key, demands_of, order_of
from cosalign.retraining.run_results import outcome_of_run
from cosalign.retraining.settling import Seen, SettleRules, see
from cosalign.retraining.stored_approvals import unproven
from cosalign.retraining.submitters import SubmittedRun, Submitter
from cosalign.runtime.logs import get_logger
from cosalign.store.accepted_configs import AcceptedConfig, AcceptedConfigs, AcceptedSet
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import GenerationMismatch, Storage
from cosalign.store.storage_clock import storage_time

log = get_logger(__name__)
_TRIES = 20
"""Looks at most, where other reconciles are faster each time."""


@dataclass(frozen=True)
class Settings:
    """How reconcile goes about it.

    Attributes:
        settle: How long configs have to rest.
        retry: How claims and failures are dealt with.
        policy: When which kind of run is due.
        by: In whose name things are recorded.
        full: Whether a training that is due is a full run in any case.
    """

    settle: SettleRules = field(default_factory=SettleRules)
    retry: RetryRules = field(default_factory=RetryRules)
    policy: IncrementPolicy = field(default_factory=IncrementPolicy)
    by: str = "reconcile"
    full: bool = False


@dataclass(frozen=True)
class Tick:
    """What one look found and did.

    Attributes:
        now: The storage's time.
        desired: What regions want.
        verdicts: What became of each.
        accepted: What is accepted now.
        demands: What is demanded of a model, by key.
        model: The current model.
        decision: What is due; ``None`` where nothing is demanded.
        set_aside: Demands that no training is made for, since one was in vain: that run, by demand.
        settle_left: Seconds until it may be acted on; zero where it may.
        evaluate: The newest entry of the lane of evaluations.
        train: The newest entry of the lane of trainings.
        done: What was done, for people, in order.
        next_steps: What was to be done in each lane.
    """

    now: float
    desired: DesiredConfigs
    verdicts: tuple[Verdict, ...]
    accepted: AcceptedConfigs
    demands: Mapping[str, Demand]
    model: KnownModel | None
    decision: Decision | None
    set_aside: Mapping[str, LaneEntry]
    settle_left: float
    evaluate: LaneEntry | None
    train: LaneEntry | None
    done: tuple[str, ...] = ()
    next_steps: Mapping[str, Next] = field(default_factory=dict)

    @property
    def moment(self) -> datetime:
        """The storage's time as a moment."""
        return datetime.fromtimestamp(self.now, UTC)


class Reconciler:
    """Reconciles one model's name with what regions want.

    Args:
        storage: The storage root.
        name: As of the model (``gate.model``), its accepted set and its lanes.
        source: Where configs are read from.
        rules: What they are judged by.
        maker: Makes plans of runs.
        submitter: Carries runs out.
        settings: How to go about it.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        name: str,
        source: ConfigSource,
        rules: Rules,
        maker: RunMaker,
        submitter: Submitter,
        settings: Settings,
    ) -> None:
        self.storage = storage
        self.name = name
        self.source = source
        self.rules = rules
        self.maker = maker
        self.submitter = submitter
        self.settings = settings
        self.accepted = AcceptedSet(storage, name)
        self.pointer = ModelPointer(storage, name)
        self.evaluate = RunLane(storage, name, "evaluate")
        self.train = RunLane(storage, name, "train")
        self._own = secrets.token_hex(8)
        self._done: list[str] = []

    def tick(self) -> Tick:
        """One look, and what follows from it.

        Raises:
            GenerationMismatch: Others were faster again and again; a later tick will do.
            UserError: The source, the run config or the server is not as it should be.
            TransientError: Storage or server do not answer.
        """
        self._done = []
        for _ in range(_TRIES - 1):
            try:
                return self._recorded(self._tick())
            except GenerationMismatch:
                log.info("looked_again", reconcile=self.name)
        return self._recorded(self._tick())

    def _recorded(self, tick: Tick) -> Tick:
        """Gives all that was decided, by whomever, its row in the audit log."""
        record_histories(self.accepted, self.pointer, self._lanes)
        return tick

    def _tick(self) -> Tick:
        now = storage_time(self.storage, f"reconcile/{self.name}/clock")
        before = self.accepted.settle()
        desired = self.source.read()
        moment = datetime.fromtimestamp(now, UTC)
        doubts = unproven(self.storage, before.configs if before else (), self.rules.approvers)
        admitted = admit_all(desired, before, self.rules, moment, doubts)
        number = before.number if before else 0
        record_verdicts(self.accepted, admitted, self.rules.approvers, number, self.settings.by)
        # Before a submitter is asked for anything, or a lane read: a withdrawal waits for neither.
        accepted = self._publish(_as_followed(admitted, before), before, moment)
        heads = {lane.lane: self._looked_after(lane, now) for lane in self._lanes}
        model = known_model(self.pointer.settle(), self.evaluate, self.train)
        accepted = self._publish(_followed_by(model, accepted.configs), accepted, moment)
        demands = demands_of(accepted.configs)
        seen = see(self.storage, self.name, _digest_of(demands), now, self.settings.settle)
        aside = trained_in_vain(demands, model, self.train, self.maker.way)
        decision = self._decision(demands, model, aside, now)
        left = max(0.0, seen.left(now, self.settings.settle))
        held = _held_to(demands, model, aside)
        plan = None if left else self._plan(decision, demands, held, model, seen)
        steps: dict[str, Next] = {}
        for lane in self._lanes:
            own = plan if plan is not None and plan.lane == lane.lane else None
            heads[lane.lane], steps[lane.lane] = self._stepped(lane, heads[lane.lane], own, now)
        return Tick(
            now=now, desired=desired, verdicts=admitted.verdicts, accepted=accepted,
            demands=demands, model=model, decision=decision, set_aside=aside, settle_left=left,
            evaluate=heads["evaluate"], train=heads["train"], done=tuple(self._done),
            next_steps=steps,
        )  # fmt: skip

    @property
    def _lanes(self) -> tuple[RunLane, RunLane]:
        return (self.evaluate, self.train)

    def _publish(
        self,
        configs: tuple[AcceptedConfig, ...],
        before: AcceptedConfigs | None,
        moment: datetime,
    ) -> AcceptedConfigs:
        """Publishes what is accepted, and of each whether a model was measured to follow it."""
        approvers = self.rules.approvers.digest
        if before is not None and (configs, approvers) == (before.configs, before.approvers_file):
            return before
        number = before.number if before else 0
        at = moment.isoformat(timespec="seconds")
        made = self.accepted.publish(configs, self.settings.by, at, number, approvers)
        if made.number != number:
            self._note(f"published accepted set {made.number}: {len(made.configs)} configs")
        return made

    def _decision(
        self,
        demands: Mapping[str, Demand],
        model: KnownModel | None,
        aside: Iterable[str],
        now: float,
    ) -> Decision | None:
        if not demands:
            return None
        wanted = wanted_of(demands, model, aside, self.maker.foundation)
        found = decide(wanted, standing_of(model, demands, self.train, now), self.settings.policy)
        anew = self._anew(found, demands, model)
        if anew is None:
            return found
        trained = tuple(sorted(wanted.trainable))
        return Decision("full", *anew, trained, found.accepted, found.declined)

    def _anew(
        self, found: Decision, demands: Mapping[str, Demand], model: KnownModel | None
    ) -> tuple[str, str] | None:
        """Why an increment that is due has to be a full run; ``None`` where it has not."""
        if found.action != "increment":
            return None
        if self.settings.full:
            return "asked", "a full run was asked for"
        if model is None or model.record is None:
            return (
                "no_record",
                "no finished run of the current model is known that could be extended",
            )
        if {demands[key].digest for key in found.configs} & model.trained_digests:
            return "trained_already", "a config was trained on already, and is not followed"
        if model.trained and model.trained[0].plan.extends != self.maker.extends:
            return "settings_changed", "judging, scoring or pairing changed since the last run"
        return None

    def _plan(
        self,
        decision: Decision | None,
        demands: Mapping[str, Demand],
        held: Sequence[Demand],
        model: KnownModel | None,
        seen: Seen,
    ) -> RunPlan | None:
        """The run that a decision asks for; none where there is nothing to run over."""
        if decision is None or decision.action == "nothing" or not decision.configs:
            return None
        about = [demands[key] for key in decision.configs]
        covers = about if decision.action == "evaluate" else held
        return self.maker.plan(
            decision.action, (decision.reason, decision.sentence), about, covers, seen.since,
            model.entry if model else None, model.record if model else None,
        )  # fmt: skip

    def _stepped(
        self, lane: RunLane, head: LaneEntry | None, plan: RunPlan | None, now: float
    ) -> tuple[LaneEntry | None, Next]:
        """Claims and starts what is due in a lane, if nothing goes on there."""
        known = head if head is None or head.active else _same_inputs(lane, plan) or head
        age = lane.age(known, now) if known is not None else 0.0
        step = next_step(known, age, plan, self.settings.retry, self._own)
        if step.action == "claim" and plan is not None:
            head = self._claim(lane, head, plan, step)
            head = self._started(lane, head) or head
        return head, step

    def _claim(self, lane: RunLane, head: LaneEntry | None, plan: RunPlan, step: Next) -> LaneEntry:
        number = head.number if head else 0
        kept = head.measured if head is not None and head.plan.model == plan.model else {}
        name = run_name(self.name, plan, number + 1)
        content = LaneContent(
            phase="claimed", plan=plan, run=name, attempt=step.attempt, holder=self._own,
            measured=kept, at=_utc_now(),
        )  # fmt: skip
        self._note(f"claimed run {name}: {plan.sentence}")
        return lane.record(content, number)

    def _looked_after(self, lane: RunLane, now: float) -> LaneEntry | None:
        """Brings a run that is under way as far as it has come; gives the lane's newest entry."""
        head = lane.settle()
        while head is not None and head.active:
            step = next_step(head, lane.age(head, now), None, self.settings.retry, self._own)
            further = self._further(lane, head, step)
            if further is None:
                return head
            head = further
        return head

    def _further(self, lane: RunLane, head: LaneEntry, step: Next) -> LaneEntry | None:
        """The next entry of a run under way; ``None`` while there is nothing to record."""
        if step.action == "look":
            return self._looked(lane, head)
        runs = self.submitter.find(head.run)
        if runs:
            return self._submitted(lane, head, runs)
        if step.action == "take_over":
            taken = content_of(head).model_copy(update={"holder": self._own, "at": _utc_now()})
            self._note(f"took over the claim of run {head.run}")
            return lane.record(taken, head.number)
        return self._started(lane, head) if step.action == "start" else None

    def _started(self, lane: RunLane, claim: LaneEntry) -> LaneEntry | None:
        """Starts a run that this process has claimed, unless it was started already.

        Returns:
            The next entry; ``None`` where a local run was cut short; a later look starts it again.
        """
        runs = self.submitter.find(claim.run)
        if not runs:
            newest = lane.head()
            if newest is None or newest.number != claim.number:
                raise lane.moved()
            self.submitter.start(order_of(claim.plan, claim.run, self.name))
            self._note(f"started run {claim.run}")
            runs = self.submitter.find(claim.run)
        return self._submitted(lane, claim, runs) if runs else None

    def _submitted(
        self, lane: RunLane, claim: LaneEntry, runs: Sequence[SubmittedRun]
    ) -> LaneEntry:
        """Records that a run was started; of several of one name the first one is it."""
        self._end_doubles(runs)
        content = content_of(claim).model_copy(
            update={"phase": "submitted", "run_id": runs[0].run_id, "at": _utc_now()}
        )
        return lane.record(content, claim.number)

    def _end_doubles(self, runs: Sequence[SubmittedRun]) -> None:
        for run in runs[1:]:
            if run.status == "running":
                self.submitter.cancel(run.run_id)
                self._note(f"ended run {run.run_id}, the double of {runs[0].run_id}")

    def _looked(self, lane: RunLane, head: LaneEntry) -> LaneEntry | None:
        """Records the end of a run; ``None`` while it goes on."""
        self._end_doubles(self.submitter.find(head.run))
        run = self.submitter.look(head.run_id or "")
        if run is not None and run.status == "running":
            return None
        outcome = outcome_of_run(self.storage, head.plan, run, self.pointer)
        measured = dict(head.measured)
        if outcome.model == head.plan.model and head.plan.kind == "evaluate":
            measured |= outcome.measures
        content = content_of(head).model_copy(
            update={"phase": "ended", "outcome": outcome, "measured": measured, "at": _utc_now()}
        )
        self._note(f"run {head.run} {outcome.ending}")
        return lane.record(content, head.number)

    def _note(self, what: str) -> None:
        self._done.append(what)
        log.info("reconciled", reconcile=self.name, did=what)


def _as_followed(admitted: Admitted, before: AcceptedConfigs | None) -> tuple[AcceptedConfig, ...]:
    """Accepted configs with what was known so far of who follows what they demand."""
    doubted = {config.key for config, _ in admitted.unproven}
    there = [c for c in before.configs if c.key not in doubted] if before else []
    known = {demand_key(config): config.followed_by for config in there}
    return tuple(
        config.model_copy(update={"followed_by": known.get(demand_key(config))})
        for config in admitted.accepted
    )


def _followed_by(
    model: KnownModel | None, configs: Iterable[AcceptedConfig]
) -> tuple[AcceptedConfig, ...]:
    """Configs with the current model, where that was measured to follow them."""

    def follower(config: AcceptedConfig) -> str | None:
        follows = model is not None and model.followed(demand_key(config))
        return model.digest if model is not None and follows else None

    return tuple(c.model_copy(update={"followed_by": follower(c)}) for c in configs)


def _digest_of(demands: Mapping[str, Demand]) -> str:
    """Identity of all that is demanded, and of what may be trained."""
    return fingerprint("demands", [[key, demands[key].evaluate_only] for key in sorted(demands)])


def _held_to(
    demands: Mapping[str, Demand], model: KnownModel | None, aside: Container[str]
) -> list[Demand]:
    """What a trained model has to follow to be promoted: all that it is trained on.

    What is only to be measured counts too where the current model follows it: it must not get
    worse.
    """
    return [
        demand
        for key, demand in demands.items()
        if not (demand.evaluate_only or key in aside) or (model is not None and model.followed(key))
    ]


def _same_inputs(lane: RunLane, plan: RunPlan | None) -> LaneEntry | None:
    """The newest run that was made from the same inputs, though others came since."""
    if plan is None:
        return None
    return next((e for e in lane.newest_first() if e.plan.inputs == plan.inputs), None)


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
