"""What is known of the current model: which configs it follows, and how it came about.

All of it is read from the lanes' histories. A model that somebody promoted by hand, or rolled back
to, stands in none of them as current, and yet whatever was once measured of it counts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from math import hypot

from cosalign.domain.increment_policy import (
    FOLLOWED,
    NOT_FOLLOWED,
    ScoreChange,
    Standing,
    Wanted,
)
from cosalign.retraining.run_lane import LaneEntry, Measure, RunLane
from cosalign.retraining.run_orders import Demand
from cosalign.retraining.run_results import EVERYWHERE
from cosalign.store.model_pointer import Entry

_DAY = 86400.0


@dataclass(frozen=True)
class KnownModel:
    """The current model.

    Attributes:
        entry: Its entry in the model pointer.
        measures: What was measured of it, by demand.
        trained: The runs that led to it, newest first: increments, and the full run they began at;
            empty where no run of a lane made it.
        record: The manifest that leads to the run that made it; ``None`` where none is known.
    """

    entry: Entry
    measures: Mapping[str, Measure]
    trained: tuple[LaneEntry, ...]
    record: str | None

    @property
    def digest(self) -> str:
        """Its digest."""
        return self.entry.digest

    @property
    def trained_digests(self) -> frozenset[str]:
        """Configs that the runs which led to it trained on."""
        return frozenset(digest for entry in self.trained for digest in entry.plan.digests)

    def followed(self, demand: str) -> bool:
        """Whether it was measured under a config and let pass."""
        found = self.measures.get(demand)
        return found is not None and found.followed


def known_model(entry: Entry | None, evaluate: RunLane, train: RunLane) -> KnownModel | None:
    """What the lanes know of the current model; ``None`` where nothing was promoted.

    Args:
        entry: The model pointer's entry.
        evaluate: The lane of evaluations.
        train: The lane of trainings.
    """
    if entry is None:
        return None
    trained = _line_of(entry.digest, train.newest_first())
    measures: dict[str, Measure] = {}
    if trained and trained[0].outcome is not None:
        measures |= trained[0].outcome.measures
    measures |= _measured(entry.digest, evaluate)
    made = trained[0].outcome.record if trained and trained[0].outcome else None
    return KnownModel(entry, measures, trained, made or _record_beside_gate(entry))


def _measured(model: str, evaluate: RunLane) -> dict[str, Measure]:
    """The newest that evaluations said of a model; each entry holds what those before it said."""
    for found in evaluate.newest_first():
        if found.plan.model == model:
            return dict(found.measured)
    return {}


def _line_of(model: str, ended: Iterable[LaneEntry]) -> tuple[LaneEntry, ...]:
    """The runs that led to a model, newest first."""
    line: list[LaneEntry] = []
    wanted: str | None = model
    for entry in ended:
        if entry.outcome is not None and entry.outcome.model == wanted:
            line.append(entry)
            if entry.plan.kind == "full":
                break
            wanted = entry.plan.model
    return tuple(line)


def _record_beside_gate(entry: Entry) -> str | None:
    """The manifest beside the gate that a model was promoted on."""
    if entry.gate is None:
        return None
    folder, _, name = entry.gate.uri.rpartition("/")
    return f"{folder}/manifest.json" if name == "gate.json" else None


def standing_of(
    model: KnownModel | None, demands: Mapping[str, Demand], train: RunLane, now: float
) -> Standing | None:
    """The same for the policy that decides which kind of run is due.

    Args:
        model: The current model.
        demands: What is demanded now.
        train: The lane of trainings.
        now: The storage's time.
    """
    if model is None:
        return None
    full = model.trained[-1] if model.trained else None
    known = frozenset(key for key, measure in model.measures.items() if measure.followed)
    pairs = [entry.outcome.pairs if entry.outcome else 0 for entry in model.trained]
    added = [n for n, entry in zip(pairs, model.trained, strict=True)
             if entry.plan.kind == "increment"]  # fmt: skip
    return Standing(
        known=known,
        increments=len(added),
        days=train.age(full, now) / _DAY if full is not None else 0.0,
        pairs=sum(pairs),
        added_pairs=sum(added),
        drift=_drift(full, model, demands),
    )


def _drift(
    full: LaneEntry | None, model: KnownModel, demands: Mapping[str, Demand]
) -> tuple[ScoreChange, ...]:
    """How scores changed since the last full run; the two intervals taken as independent."""
    if full is None or full.outcome is None or full.outcome.model == model.digest:
        return ()
    changes = (
        _change(demands[key], before, model.measures[key])
        for key, before in full.outcome.measures.items()
        if key in demands and key in model.measures
    )
    return tuple(change for change in changes if change is not None)


def _change(demand: Demand, before: Measure, after: Measure) -> ScoreChange | None:
    ends = (before.score, before.low, before.high, after.score, after.low, after.high)
    if any(end is None for end in ends):
        return None
    old, old_low, old_high, new, new_low, new_high = (end or 0.0 for end in ends)
    mean = new - old
    region = ", ".join(dict.fromkeys(config.region for config in demand.configs))
    return ScoreChange(
        region, mean, mean - hypot(new - new_low, old_high - old),
        mean + hypot(new_high - new, old - old_low),
    )  # fmt: skip


def trained_in_vain(
    demands: Mapping[str, Demand], model: KnownModel | None, train: RunLane, way: str
) -> dict[str, LaneEntry]:
    """New demands that were trained on and that the trained model did not follow, with the run.

    What the current model follows is none of them: a training that spoils it is a bad one.

    Args:
        demands: What is demanded now.
        model: The current model.
        train: The lane of trainings.
        way: How is trained now; a run that was made otherwise says nothing.
    """
    left = {
        key
        for key, demand in demands.items()
        if not demand.evaluate_only and not (model is not None and model.followed(key))
    }
    found: dict[str, LaneEntry] = {}
    for entry in takewhile(lambda ended: ended.plan.way == way, train.newest_first()):
        measures = entry.outcome.measures if entry.outcome is not None else {}
        told = {
            key for key in left.intersection(entry.plan.demands) if _is_known(measures.get(key))
        }
        found |= {key: entry for key in told if not measures[key].followed}
        left -= told
        if not left:
            break
    return found


def _is_known(measure: Measure | None) -> bool:
    """Whether something was found of a config, and not of the measuring alone."""
    if measure is None:
        return False
    return not EVERYWHERE.intersection(code.partition(":")[0] for code in measure.codes)


def wanted_of(
    demands: Mapping[str, Demand],
    model: KnownModel | None,
    set_aside: Iterable[str],
    foundation: str,
) -> Wanted:
    """What regions demand, for the policy.

    Args:
        demands: What is demanded now.
        model: The current model.
        set_aside: Demands that were trained on in vain.
        foundation: Digest of base model, judge and taxonomy as the run config names them now.
    """
    measures = model.measures if model else {}
    made_with = model.trained[0].plan.foundation if model and model.trained else foundation
    return Wanted(
        configs=frozenset(demands),
        evaluate_only=frozenset(key for key, demand in demands.items() if demand.evaluate_only),
        measured={
            key: FOLLOWED if measures[key].followed else NOT_FOLLOWED
            for key in demands
            if key in measures
        },
        set_aside=frozenset(set_aside),
        foundation_changed=made_with != foundation,
    )
