"""Content hashes, ranks and the canonical order that stands on them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.errors import DataError
from cosalign.pairing.canonical import canonical_order
from cosalign.pairing.identifiers import content_hashes, mix, ranks

texts = st.lists(st.text(max_size=20))
WORD = 2**64


def splitmix(value: int) -> int:
    """The finaliser as published, over Python's integers."""
    z = (value + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def absorbed(text: str) -> int:
    data = text.encode()
    state = splitmix(len(data))
    for at in range(0, len(data), 8):
        state = splitmix(state ^ int.from_bytes(data[at : at + 8], "little"))
    return state


@given(st.lists(st.integers(0, WORD - 1)))
def test_mix_is_the_published_finaliser(values: list[int]) -> None:
    assert mix(np.array(values, np.uint64)).tolist() == [splitmix(v) for v in values]


def test_mix_gives_the_published_sequence() -> None:
    # The first outputs of SplitMix64 seeded with 0: state k is k times the golden gamma.
    gamma = 0x9E3779B97F4A7C15
    states = np.array([k * gamma % WORD for k in range(2)], np.uint64)
    assert mix(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@given(texts, st.integers(0, 3))
def test_strings_are_hashed_by_content_alone(values: list[str], cut: int) -> None:
    whole = pa.array(values, pa.string())
    assert content_hashes(whole).tolist() == [absorbed(v) for v in values]
    assert content_hashes(whole.slice(cut)).tolist() == [absorbed(v) for v in values[cut:]]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True))
def test_integers_never_share_a_hash(values: list[int]) -> None:
    hashes = content_hashes(pa.array(values, pa.int64()))
    assert hashes.tolist() == [splitmix(v % WORD) for v in values]
    assert len(set(hashes.tolist())) == len(values)


@given(st.one_of(texts.map(pa.array), st.lists(st.integers(-9, 9)).map(pa.array)))
def test_ranks_are_in_the_order_of_ids(ids: pa.Array) -> None:
    if not len(ids):
        return
    values = [v.encode() if isinstance(v, str) else v for v in ids.to_pylist()]
    found = ranks(ids).tolist()
    assert [values[i] for i in np.argsort(found, kind="stable")] == sorted(values)
    if pa.types.is_string(ids.type):
        assert len(set(found)) == len(set(values))


def ordered(blocks: list[int], hashes: list[int], ids: list[int]) -> list[int]:
    order = canonical_order(
        np.array(blocks, np.int64), np.array(hashes, np.uint64), pa.array(ids, pa.int64())
    )
    return [ids[i] for i in order]


def test_the_canonical_order_is_by_block_then_hash() -> None:
    assert ordered([0, 0, 1, 1], [9 << 60, 1 << 60, 8 << 60, 2 << 60], [1, 2, 3, 4]) == [2, 1, 4, 3]


@pytest.mark.parametrize("flip", [1, -1])
def test_where_hashes_agree_the_ids_decide(flip: int) -> None:
    rows = [(0, 7, 30), (0, 7, 10), (0, 7, 20), (1, 7, 10), (1, 6, 40)][::flip]
    rows.sort(key=lambda row: row[0])
    assert ordered(*map(list, zip(*rows, strict=True))) == [10, 20, 30, 40, 10]


def test_hashes_that_differ_below_the_cut_are_told_apart() -> None:
    assert ordered([0, 0, 1], [6, 5, 0], [1, 2, 3]) == [2, 1, 3]


def test_an_id_that_stands_twice_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 rows whose .* stands more than once"):
        ordered([0, 0, 1], [5, 5, 5], [1, 1, 1])
