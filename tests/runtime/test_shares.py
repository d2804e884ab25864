from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.errors import ConfigError
from cosalign.runtime.shares import Share, all_shares, parse_share


@given(st.integers(1, 40), st.text(min_size=1))
def test_each_prompt_is_in_exactly_one_share(count: int, prompt_id: str) -> None:
    shares = all_shares(count)
    assert len(shares) == count
    assert [share.has(prompt_id) for share in shares].count(True) == 1


@given(st.integers(0, 998), st.integers(1, 999))
def test_a_share_is_read_as_it_was_written(index: int, count: int) -> None:
    if index < count:
        assert parse_share(str(Share(index, count))) == Share(index, count)


def test_shares_are_of_about_equal_size() -> None:
    sizes = [sum(share.has(str(i)) for i in range(4000)) for share in all_shares(4)]
    # Four standard deviations of a binomial of 4000 draws at 1/4.
    assert all(abs(size - 1000) < 4 * 27.4 for size in sizes)


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "0/0", "a/b", "0/2 "])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write INDEX/COUNT"):
        parse_share(text)


@pytest.mark.parametrize("count", [-1, 1000])
def test_a_number_of_shares_beyond_reason_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"shards={count}"):
        all_shares(count)


def test_nothing_is_spread_over_no_shares() -> None:
    assert all_shares(0) == []
