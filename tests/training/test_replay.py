"""The stratified choice of old pairs."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.fingerprint import Json
from cosalign.training.replay import replay_rows, replayed

OWNERS, KINDS = ("no", "ie", "exact"), ("refusal", "help", "risks")
STRATA = st.lists(st.tuples(st.sampled_from(OWNERS), st.sampled_from(KINDS)), max_size=60)
COUNTS = st.integers(0, 60)


def identities(strata: list[tuple[str, str]]) -> list[Json]:
    return [[row, "pair"] for row in range(len(strata))]


def chosen(strata: list[tuple[str, str]], count: int, seed: int = 0) -> list[int]:
    return replayed(strata, identities(strata), count, seed)


@given(STRATA, COUNTS)
def test_as_many_as_asked_for_or_all_each_once(strata: list[tuple[str, str]], count: int) -> None:
    found = chosen(strata, count)
    assert found == sorted(set(found))
    assert len(found) == min(count, len(strata))


@given(STRATA, COUNTS)
def test_owners_get_equal_numbers_for_as_long_as_they_last(
    strata: list[tuple[str, str]], count: int
) -> None:
    sizes = Counter(owner for owner, _ in strata)
    taken = Counter(strata[row][0] for row in chosen(strata, count))
    # Oracle: the level of water in vessels of these sizes.
    level = 0
    while level < len(strata) and sum(min(size, level + 1) for size in sizes.values()) <= count:
        level += 1
    for owner, size in sizes.items():
        assert min(size, level) <= taken[owner] <= min(size, level + 1)


@given(STRATA, COUNTS)
def test_kinds_have_the_proportion_that_their_owner_has_them_in(
    strata: list[tuple[str, str]], count: int
) -> None:
    sizes, owners = Counter(strata), Counter(owner for owner, _ in strata)
    taken = Counter(strata[row] for row in chosen(strata, count))
    for owner, size in owners.items():
        own = sum(taken[owner, kind] for kind in KINDS)
        for kind in KINDS:
            assert abs(taken[owner, kind] - own * sizes[owner, kind] / size) <= len(KINDS) / 2


@given(STRATA, COUNTS, st.integers(0, 10))
def test_a_larger_choice_holds_a_smaller_one(
    strata: list[tuple[str, str]], count: int, more: int
) -> None:
    assert set(chosen(strata, count)) <= set(chosen(strata, count + more))


@given(STRATA, COUNTS, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(
    strata: list[tuple[str, str]], count: int, random: object
) -> None:
    pairs = identities(strata)
    order = list(range(len(strata)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = replayed([strata[i] for i in order], [pairs[i] for i in order], count, 0)
    assert sorted(order[row] for row in shuffled) == chosen(strata, count)


def test_another_seed_is_another_choice() -> None:
    strata = [("no", "a")] * 40
    assert chosen(strata, 10, seed=1) != chosen(strata, 10, seed=2)


@given(st.integers(1, 10_000), st.floats(0, 0.95))
def test_old_pairs_have_their_share(new: int, share: float) -> None:
    old = replay_rows(new, share)
    assert share <= (old + 1e-5) / (new + old)
    assert old == 0 or (old - 1) / (new + old - 1) < share + 1e-5


def test_shares_that_come_out_even() -> None:
    assert (replay_rows(9, 0.1), replay_rows(7, 0.5), replay_rows(10, 0.0)) == (1, 7, 0)
