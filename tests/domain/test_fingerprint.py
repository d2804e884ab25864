from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.fingerprint import (
    KEY_BYTES,
    SCHEME,
    canonical_json,
    content_sha256,
    fingerprint,
    normalise_text,
    prompt_id_of,
    row_id,
    row_key,
    seed_of,
)


def test_canonical_json_is_sorted_tight_and_utf8() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "Æ"}) == '{"a":"Æ","b":[1,2.5,null]}'.encode()


@given(st.dictionaries(st.text(max_size=4), st.integers(), max_size=6), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, int], rng: Any) -> None:
    items = list(value.items())
    rng.shuffle(items)
    assert fingerprint("x", dict(items)) == fingerprint("x", value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ([1, 2], [2, 1]),
        (1, "1"),
        (True, 1),
        (None, ""),
        (["a", "b"], ["ab"]),
        ({"a": None}, {}),
        (1, 1.5),
    ],
)
def test_other_values_have_other_fingerprints(one: Any, other: Any) -> None:
    assert fingerprint("x", one) != fingerprint("x", other)


def test_equal_values_of_two_kinds_differ() -> None:
    assert fingerprint("step", {"a": 1}) != fingerprint("taxonomy", {"a": 1})


def test_the_scheme_is_hashed_in() -> None:
    expected = hashlib.sha256(f'{SCHEME}\nstep\n{{"a":1}}'.encode()).hexdigest()
    assert fingerprint("step", {"a": 1}) == expected


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", date(2026, 1, 1), [object()]])
def test_what_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        fingerprint("x", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint("x", value)


def test_the_forms_of_one_identity_are_the_same_bits() -> None:
    key = row_key("row", {"a": 1})
    assert len(key) == KEY_BYTES == 16
    assert row_id("row", {"a": 1}) == key.hex()
    assert fingerprint("row", {"a": 1}).startswith(key.hex())


@given(st.integers())
def test_seeds_are_63_bits_and_follow_content(value: int) -> None:
    assert 0 <= seed_of("s", value) < 2**63
    assert seed_of("s", value) == seed_of("s", value)
    assert seed_of("s", value) != seed_of("t", value)


def test_identities_are_the_same_in_another_process() -> None:
    code = (
        "from cosalign.domain.fingerprint import *;"
        "print(fingerprint('x', {'b': 'ø', 'a': [1, .5]}), seed_of('x', 'y'), prompt_id_of('Beer'))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    here = (fingerprint("x", {"b": "ø", "a": [1, 0.5]}), seed_of("x", "y"), prompt_id_of("Beer"))
    assert done.stdout.split() == [str(part) for part in here]


def test_a_lone_surrogate_has_an_identity_too() -> None:
    assert fingerprint("x", "\ud800") != fingerprint("x", "\ud801")


def test_content_sha256() -> None:
    assert content_sha256(b"beer") == hashlib.sha256(b"beer").hexdigest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("When was beer brewed?", "  when   was\tBEER\nbrewed? "),
        ("caf\u00e9", "cafe\u0301"),
        ("\uff42\uff45\uff45\uff52", "beer"),
        ("a\u00a0b", "a b"),
        ("a\u3000b", "a b"),
        ("STRASSE", "straße"),
        ("\ufb01ne", "fine"),
    ],
)
def test_prompts_that_differ_in_form_only_are_one_prompt(one: str, other: str) -> None:
    assert one != other
    assert normalise_text(one) == normalise_text(other)
    assert prompt_id_of(one) == prompt_id_of(other)


@pytest.mark.parametrize(
    ("one", "other"), [("beer", "bier"), ("a b", "ab"), ("beer?", "beer"), ("e", "é")]
)
def test_prompts_that_differ_in_content_are_two(one: str, other: str) -> None:
    assert prompt_id_of(one) != prompt_id_of(other)


def test_white_space_alone_normalises_to_nothing() -> None:
    assert normalise_text(" \t\u2003\n") == ""


@given(st.text())
def test_the_words_survive_normalisation(text: str) -> None:
    found = normalise_text(text)
    assert found == " ".join(found.split())
    assert normalise_text(f"  {text}\n") == found
