"""What to do about safety configs that changed: nothing, measure, train an increment, or all anew.

Pure: what is known goes in, a decision and its reason come out; whoever reconciles gathers the one
and acts on the other. An increment costs a small part of a full run and leaves two debts: each is
held by the gate against the model before it, so that small losses may add up unseen, and what a
removed config taught stays in the weights. Both are paid by a full run, which is due after so many
increments, when regions are seen to have fallen since the last one, when too much of the data was
never trained on together, or when it has been too long. ``docs/design/increment.md`` says how the
defaults were chosen.

All regions have to pass the gate, so a config that no model learns would keep every other from its
model. A new one that was trained on in vain is set aside: no further training is made for it, and
none is held to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from cosalign.domain.validation import StrictModel

Action = Literal["nothing", "evaluate", "increment", "full"]

FOLLOWED = "followed"
"""A new config that the current model was shown to follow: accepted, and not trained."""
NOT_FOLLOWED = "not_followed"
"""A new config that it was shown not to follow, or not shown to follow."""


class IncrementPolicy(StrictModel):
    """When which kind of run is due.

    Attributes:
        evaluate_first: Whether the current model is measured under a new config before any training
            for it: if it follows, nothing is trained.
        max_increments: Increments after which the next training is a full run.
        max_drift: How far the score of a region may have fallen since the last full run's model: a
            full run is due where it fell by more, and its interval shows that it fell at all.
        max_added_share: Share of the pairs that increments have added, beyond which the next
            training is a full run.
        max_days: Days since the last full run after which another is due, if anything was added or
            removed since.
    """

    evaluate_first: bool = True
    max_increments: int = Field(default=4, ge=0)
    max_drift: float = Field(default=0.1, gt=0)
    max_added_share: float = Field(default=0.25, gt=0, le=1)
    max_days: float = Field(default=90.0, gt=0)


DEFAULT = IncrementPolicy()


@dataclass(frozen=True)
class ScoreChange:
    """How a region's score changed since the last full run's model, with its interval."""

    region: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """What is known of the current model and its data.

    Attributes:
        known: Digests of the configs that it was trained on or accepted for.
        increments: Increments since the last full run.
        days: Days since the last full run.
        pairs: Pairs of the data.
        added_pairs: Those that increments have added since.
        drift: Changes of the regions' scores since; of those that were measured.
    """

    known: frozenset[str]
    increments: int = 0
    days: float = 0.0
    pairs: int = 0
    added_pairs: int = 0
    drift: tuple[ScoreChange, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What regions demand now.

    Attributes:
        configs: Digests of all configs in force.
        evaluate_only: Those that may be measured and never trained.
        measured: What an evaluation of the current model said of new ones: :data:`FOLLOWED` or
            :data:`NOT_FOLLOWED`.
        set_aside: New ones that were trained on, by the way of training that there is now, and that
            the model that came out did not follow.
        foundation_changed: Whether base model, judge or taxonomy are others than the run's that
            would be extended; an increment would be refused.
    """

    configs: frozenset[str]
    evaluate_only: frozenset[str] = frozenset()
    measured: Mapping[str, str] = field(default_factory=dict)
    set_aside: frozenset[str] = frozenset()
    foundation_changed: bool = False

    @property
    def trainable(self) -> frozenset[str]:
        """Those that a training is made for."""
        return self.configs - self.evaluate_only - self.set_aside


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    Attributes:
        action: What to do. ``evaluate`` measures the current model under ``configs``; an increment
            trains on them; a full run is of all that is in force and trainable.
        reason: Why, for programs.
        sentence: Why, for people.
        configs: The configs that the action is about, sorted.
        accepted: New configs that need no training, since the model follows them.
        declined: New configs that may only be measured, and that the model does not follow.
    """

    action: Action
    reason: str
    sentence: str
    configs: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    declined: tuple[str, ...] = ()


def decide(
    wanted: Wanted, standing: Standing | None, policy: IncrementPolicy = DEFAULT
) -> Decision:
    """What is due.

    Args:
        wanted: What regions demand now.
        standing: The current model's; ``None`` where nothing was promoted or trained yet.
        policy: The rules.
    """
    if standing is None:
        return _full(wanted, "no_model", "there is no trained model to go on from")
    if wanted.foundation_changed:
        return _full(wanted, "foundation_changed", "base model, judge or taxonomy changed")
    new = wanted.configs - standing.known
    # A config that only asks to be measured is, whatever the policy says of others.
    asked = new if policy.evaluate_first else new & wanted.evaluate_only
    unmeasured = asked - wanted.measured.keys()
    if unmeasured:
        return Decision(
            "evaluate",
            "not_measured",
            f"whether the current model follows {len(unmeasured)} new configs is not known",
            tuple(sorted(unmeasured)),
        )
    followed = {digest for digest in new if wanted.measured.get(digest) == FOLLOWED}
    open_ones = new - followed
    train, declined = open_ones & wanted.trainable, open_ones & wanted.evaluate_only
    chosen = _overdue(wanted, standing, policy) or _training(train, standing, policy, wanted)
    return Decision(
        chosen.action,
        chosen.reason,
        chosen.sentence,
        chosen.configs,
        tuple(sorted(followed)),
        tuple(sorted(declined)),
    )


def _overdue(wanted: Wanted, standing: Standing, policy: IncrementPolicy) -> Decision | None:
    """A full run that is due whether or not there is something new to train."""
    fallen = [c for c in standing.drift if c.mean < -policy.max_drift and c.high < 0]
    if fallen:
        worst = min(fallen, key=lambda change: change.mean)
        return _full(
            wanted,
            "drift",
            f"{worst.region} fell by {-worst.mean:.3f} ({worst.low:+.3f} to {worst.high:+.3f}) "
            f"since the last full run, more than {policy.max_drift:g}",
        )
    changed = standing.increments > 0 or not standing.known <= wanted.configs
    if changed and standing.days > policy.max_days:
        return _full(
            wanted,
            "age",
            f"the last full run was {standing.days:.0f} days ago, and configs changed since",
        )
    return None


def _training(
    train: frozenset[str], standing: Standing, policy: IncrementPolicy, wanted: Wanted
) -> Decision:
    if not train:
        return Decision("nothing", "nothing_new", "no config needs training")
    if standing.increments >= policy.max_increments:
        return _full(
            wanted, "increments", f"{standing.increments} increments since the last full run"
        )
    if standing.added_pairs > policy.max_added_share * standing.pairs:
        return _full(
            wanted,
            "added_share",
            f"increments added {standing.added_pairs} of {standing.pairs} pairs since the last "
            f"full run, a larger share than {policy.max_added_share:g}",
        )
    return Decision(
        "increment",
        "new_configs",
        f"{len(train)} new configs, {standing.increments} increments since the last full run",
        tuple(sorted(train)),
    )


def _full(wanted: Wanted, reason: str, sentence: str) -> Decision:
    if not wanted.trainable:
        return Decision("nothing", "nothing_trainable", "there is no config to train on")
    return Decision("full", reason, sentence, tuple(sorted(wanted.trainable)))
