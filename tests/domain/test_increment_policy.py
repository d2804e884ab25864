"""Which kind of run is due."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.increment_policy import (
    FOLLOWED,
    NOT_FOLLOWED,
    IncrementPolicy,
    ScoreChange,
    Standing,
    Wanted,
    decide,
)

OLD = frozenset({"beer", "darts"})
STANDING = Standing(known=OLD, pairs=1000)
TRAIN = {"swords": NOT_FOLLOWED}


def wanted(*new: str, **changes: object) -> Wanted:
    return replace(Wanted(OLD | set(new), measured=TRAIN), **changes)  # type: ignore[arg-type]


def test_a_new_config_is_measured_first_and_trained_only_if_it_is_not_followed() -> None:
    first = decide(wanted("swords", measured={}), STANDING)
    assert (first.action, first.reason, first.configs) == ("evaluate", "not_measured", ("swords",))
    followed = decide(wanted("swords", measured={"swords": FOLLOWED}), STANDING)
    assert (followed.action, followed.accepted) == ("nothing", ("swords",))
    trained = decide(wanted("swords"), STANDING)
    assert (trained.action, trained.configs, trained.accepted) == ("increment", ("swords",), ())


def test_a_policy_may_train_without_measuring_but_not_what_only_asks_to_be_measured() -> None:
    policy = IncrementPolicy(evaluate_first=False)
    assert decide(wanted("swords", measured={}), STANDING, policy).action == "increment"
    only = wanted("swords", measured={}, evaluate_only=frozenset({"swords"}))
    assert decide(only, STANDING, policy).action == "evaluate"
    failed = decide(replace(only, measured=TRAIN), STANDING, policy)
    assert (failed.action, failed.declined) == ("nothing", ("swords",))


def test_what_was_trained_on_in_vain_is_in_no_further_training() -> None:
    aside = frozenset({"swords"})
    alone = decide(wanted("swords", set_aside=aside), STANDING)
    assert (alone.action, alone.configs) == ("nothing", ())
    both = {"swords": NOT_FOLLOWED, "wine": NOT_FOLLOWED}
    found = decide(wanted("swords", "wine", measured=both, set_aside=aside), STANDING)
    assert (found.action, found.configs) == ("increment", ("wine",))
    anew = decide(wanted("swords", set_aside=aside), None)
    assert (anew.action, anew.configs) == ("full", ("beer", "darts"))
    nothing = decide(replace(Wanted(aside), set_aside=aside), None)
    assert (nothing.action, nothing.reason) == ("nothing", "nothing_trainable")
    # Another model may follow it all the same.
    measured = decide(wanted("swords", measured={}, set_aside=aside), STANDING)
    assert (measured.action, measured.configs) == ("evaluate", ("swords",))


def test_nothing_is_done_where_nothing_is_new_or_something_is_only_removed() -> None:
    assert decide(wanted(), STANDING).action == "nothing"
    assert decide(Wanted(frozenset({"beer"})), STANDING).reason == "nothing_new"


@pytest.mark.parametrize(
    ("standing", "changes", "reason"),
    [
        (None, {}, "no_model"),
        (STANDING, {"foundation_changed": True}, "foundation_changed"),
        (replace(STANDING, increments=4), {}, "increments"),
        (replace(STANDING, added_pairs=251), {}, "added_share"),
        (replace(STANDING, days=91, increments=1), {}, "age"),
        (replace(STANDING, drift=(ScoreChange("no", -0.2, -0.3, -0.01),)), {}, "drift"),
    ],
)
def test_a_full_run_is_due(
    standing: Standing | None, changes: dict[str, object], reason: str
) -> None:
    found = decide(wanted("swords", **changes), standing)
    assert (found.action, found.reason) == ("full", reason)
    assert found.configs == ("beer", "darts", "swords")
    assert found.sentence


@pytest.mark.parametrize(
    "standing",
    [
        replace(STANDING, increments=3),
        replace(STANDING, added_pairs=250),
        replace(STANDING, days=90, increments=1),
        # Far below, but it may be chance; and shown to have fallen, but by little.
        replace(STANDING, drift=(ScoreChange("no", -0.2, -0.5, 0.1),)),
        replace(STANDING, drift=(ScoreChange("no", -0.09, -0.1, -0.01),)),
    ],
)
def test_no_full_run_is_due_yet(standing: Standing) -> None:
    assert decide(wanted("swords"), standing).action == "increment"


def test_an_old_model_is_trained_anew_for_a_removal_alone_but_not_for_nothing() -> None:
    old = replace(STANDING, days=91)
    assert decide(wanted(), old).action == "nothing"
    removed = decide(Wanted(frozenset({"beer"})), old)
    assert (removed.action, removed.reason, removed.configs) == ("full", "age", ("beer",))


DIGESTS = st.frozensets(st.sampled_from(["a", "b", "c", "d", "e"]))


@given(
    configs=DIGESTS,
    only=DIGESTS,
    known=DIGESTS,
    followed=DIGESTS,
    aside=DIGESTS,
    increments=st.integers(0, 12),
    first=st.booleans(),
)
def test_whatever_is_known_no_config_is_lost_and_none_is_trained_against_its_will(
    configs: frozenset[str],
    only: frozenset[str],
    known: frozenset[str],
    followed: frozenset[str],
    aside: frozenset[str],
    increments: int,
    first: bool,
) -> None:
    measured = {d: FOLLOWED if d in followed else NOT_FOLLOWED for d in "abcde"}
    found = decide(
        Wanted(configs, only, measured, aside - followed - known),
        Standing(known, increments),
        IncrementPolicy(evaluate_first=first),
    )
    new = configs - known
    told = {*found.configs, *found.accepted, *found.declined}
    assert new <= told | aside
    if found.action in ("increment", "full"):
        assert not only & set(found.configs)
        assert not (aside - followed - known) & set(found.configs)
    if found.action == "increment":
        assert set(found.configs) <= new - followed
        assert increments < 4
