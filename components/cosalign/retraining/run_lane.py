"""The life of runs, as it is recorded in storage: claimed, submitted, ended.

::

    reconcile/NAME/evaluate/   measuring the current model under new configs
    reconcile/NAME/train/      training, an increment or a full run

Two lanes, so that a config that only wants measuring does not wait for hours of training. Each is a
guarded history (``store/guarded_history.py``): entries are created under their numbers, so of
reconcilers who race to record a step exactly one does, and a lane has one run at a time.

A run is *claimed* before it is started, with all that is needed to start it, and a name made of the
claim's number that no other run has. Whoever claimed it looks for a run of that name and starts one
if there is none. Who dies in between leaves a claim without a run; another takes the claim over
after a while, by the storage's clock, looks for the name in its turn, and starts it. What cannot be
excluded is a claimer that sleeps through the takeover between its last look and its start, since
Kubeflow takes no name for an identity; so everybody who starts a run, or looks after one, ends all
runs of the name but the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from cosalign.domain.validation import StrictModel
from cosalign.store.guarded_history import GuardedHistory, Link
from cosalign.store.storage import GenerationMismatch, Storage

LaneName = Literal["evaluate", "train"]
Kind = Literal["evaluate", "increment", "full"]
Phase = Literal["claimed", "submitted", "ended"]
Ending = Literal["succeeded", "failed", "wrong", "cancelled", "lost"]
"""How a run ended: well; for a reason that may pass; for one that people have to mend; because
somebody ended it; or in that Kubeflow knows it no longer."""

RETRIED: frozenset[Ending] = frozenset({"failed", "lost"})


class Measure(StrictModel):
    """What an evaluation said of a model under one config.

    Attributes:
        followed: Whether the gate's rules let it pass there.
        score: Its CoSA-Score; ``None`` where it could not be measured.
        low: The low end of the score's interval.
        high: The high end.
        codes: Rules that did not pass, as RULE:CODE.
    """

    followed: bool
    score: float | None = None
    low: float | None = None
    high: float | None = None
    codes: tuple[str, ...] = ()


class RunPlan(StrictModel):
    """What a run is to do; all that is needed to start it, also by somebody else.

    Attributes:
        kind: What is done.
        reason: Why, for programs.
        sentence: Why, for people.
        inputs: Digest of all that the run is made from; the same inputs are not tried again after
            an end that they may be the reason of.
        foundation: Digest of base model, judge and taxonomy as the run config names them.
        extends: Digest of settings that a run and its increments have to share.
        way: Digest of how is trained and measured: of all that it is made from but configs and
            model; empty in runs of earlier releases.
        model: Digest of the model that was current.
        demands: What the run is about: the configs that are measured or trained on, by demand.
        digests: Those configs' digests.
        covers: All configs that it evaluates, by demand.
        names: Those configs' names in the run, by demand; the first of several.
        config_uri: The run config.
        config_digest: Its SHA-256.
        model_uri: The model to evaluate.
    """

    kind: Kind
    reason: str
    sentence: str
    inputs: str
    foundation: str
    extends: str
    model: str | None
    demands: tuple[str, ...]
    digests: tuple[str, ...]
    covers: tuple[str, ...]
    names: dict[str, str]
    config_uri: str
    config_digest: str
    model_uri: str | None = None
    way: str = ""

    @property
    def pipeline(self) -> str:
        """The pipeline that does it."""
        return "evaluate" if self.kind == "evaluate" else "cosalign"

    @property
    def lane(self) -> LaneName:
        """The lane that it runs in."""
        return "evaluate" if self.kind == "evaluate" else "train"


class RunOutcome(StrictModel):
    """How a run ended, and what it found.

    Attributes:
        ending: How.
        message: Why, where it did not end well.
        model: Digest of the model that was measured: the current one, or the one trained.
        promoted: Whether that model was promoted.
        passed: Whether the gate let it pass; ``None`` where it did not come as far.
        record: Address of the manifest that leads to all results.
        gate: Address of ``gate.json``.
        gate_sha256: Its SHA-256.
        measures: What was measured, by demand.
        pairs: Pairs that it made; an increment's are those of its new configs.
    """

    ending: Ending
    message: str = ""
    model: str | None = None
    promoted: bool = False
    passed: bool | None = None
    record: str | None = None
    gate: str | None = None
    gate_sha256: str | None = None
    measures: dict[str, Measure] = {}
    pairs: int = 0


class LaneContent(StrictModel):
    """One step of a run's life, without its place in the history.

    Attributes:
        phase: The step.
        plan: What the run is to do.
        run: Its name, which no other run has.
        attempt: Which attempt at the same plan it is, from 1.
        holder: Who may start it: a random word of one process.
        run_id: Kubeflow's id; ``None`` until it was started.
        outcome: How it ended; ``None`` until it did.
        measured: What is known of the current model from this lane, by demand; it says of which
            model in ``plan.model``.
        at: When, ISO 8601 in UTC, by the writer's clock; for people.
    """

    phase: Phase
    plan: RunPlan
    run: str
    attempt: int
    holder: str
    run_id: str | None = None
    outcome: RunOutcome | None = None
    measured: dict[str, Measure] = {}
    at: str

    @property
    def active(self) -> bool:
        """Whether the run has not ended, as far as is recorded."""
        return self.phase != "ended"


class LaneEntry(LaneContent, Link):
    """A step as it was recorded."""


class RunLane(GuardedHistory[LaneEntry]):
    """One lane.

    Args:
        storage: The storage root.
        name: As of the model that is reconciled.
        lane: Which.
    """

    def __init__(self, storage: Storage, name: str, lane: LaneName) -> None:
        super().__init__(storage, f"reconcile/{name}/{lane}", LaneEntry, _moved)
        self.lane = lane

    def record(self, content: LaneContent, expected: int) -> LaneEntry:
        """Records a step; raises as :meth:`GuardedHistory.append`."""
        return self.append(lambda link: LaneEntry(**dict(content), **dict(link)), expected)

    def age(self, entry: LaneEntry, now: float) -> float:
        """Seconds since an entry was recorded, by the storage's clock.

        Args:
            entry: Which.
            now: The storage's time.
        """
        stat = self.storage.stat(f"{self.folder}/history/{entry.number:08d}.json")
        return now - stat.updated if stat is not None else 0.0

    def newest_first(self, limit: int = 200) -> Iterator[LaneEntry]:
        """Entries that ended, read one by one from the newest back, some number of them at most."""
        head = self.head()
        numbers = range(head.number, max(0, head.number - limit), -1) if head else range(0)
        for number in numbers:
            entry = self._entry(number)
            if entry is not None and entry.phase == "ended":
                yield entry


def content_of(entry: LaneEntry) -> LaneContent:
    """An entry's content, to be changed into that of the next."""
    link = set(Link.model_fields)
    return LaneContent(**{key: value for key, value in dict(entry).items() if key not in link})


def run_name(name: str, plan: RunPlan, number: int) -> str:
    """The name of a run: whose, what, of which inputs, and the number of its claim.

    Args:
        name: As of the model that is reconciled.
        plan: What is to be done.
        number: The claim's.
    """
    return f"{name}-{plan.kind}-{plan.inputs[:10]}-{number}"


def _moved() -> GenerationMismatch:
    return GenerationMismatch(
        "another reconcile recorded a step of this run first; it is looked at again by itself"
    )
