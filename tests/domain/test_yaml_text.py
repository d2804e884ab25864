from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.errors import ConfigError
from cosalign.domain.yaml_text import dump_yaml, parse_yaml, yaml_value

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["1e5", "1e-05", "2026-01-01", "no", "~", "1_000", "0x1f", "", " a ", "1.5"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text("abcdef", min_size=1), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abcdef", min_size=1), trees, max_size=4))
def test_what_is_dumped_is_read_back_unchanged(value: dict[str, Any]) -> None:
    assert parse_yaml(dump_yaml(value), "x", ConfigError) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_json_number_is_read_as_a_number(value: float) -> None:
    assert parse_yaml(json.dumps({"a": value}), "x", ConfigError) == {"a": value}


def test_dates_stay_strings() -> None:
    assert parse_yaml("a: 2026-01-01\nb: 2026-01-01T10:00:00Z", "x", ConfigError) == {
        "a": "2026-01-01",
        "b": "2026-01-01T10:00:00Z",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml, line 3, column 1: the key 'a' stands twice"),
        ("a: {b: 1, b: 2}", "f.yaml, line 1, column 11: the key 'b' stands twice"),
        ("? [a, b]\n: 1", r"f.yaml, line 1, column 3: the key \['a', 'b'\] is no name"),
        ("a: [1, 2", r"f.yaml, line 1, column 9: expected ',' or ']'"),
        ("a: !!python/object:os.system 1", "f.yaml, line 1, column 4: could not determine"),
        ("", "f.yaml: expected a mapping of fields, found empty"),
        ("- a", "f.yaml: expected a mapping of fields, found a list"),
        ("beer", "f.yaml: expected a mapping of fields, found a str"),
        ("a: 1\n---\nb: 2", "f.yaml, line 2, column 1: but found another document"),
    ],
)
def test_bad_yaml_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "f.yaml", ConfigError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-5", 1e-5),
        ("a b", "a b"),
        ("", None),
        ("[a, 1]", ["a", 1]),
        ("2026-01-01",) * 2,
    ],
)
def test_single_values(text: str, value: object) -> None:
    assert yaml_value(text) == value
