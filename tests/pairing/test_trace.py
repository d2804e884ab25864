"""``cosalign trace``: every fact of a pair, no text unasked, clear words where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.pairing.card_world import PROMPT_TEXT, finished, finished_freeform, response_id

from cosalign.inference.generation import response_ledger
from cosalign.pipelines.command_line import main
from cosalign.store.storage import open_storage

Capture = pytest.CaptureFixture[str]


def shown(capsys: Capture, *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["trace", *arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def listed(capsys: Capture, root: Path, *more: str) -> list[str]:
    lines = shown(capsys, "--list", "--root", str(root), *more).splitlines()
    return [line.split("\t")[0] for line in lines if "\t" in line]


def pair_of(capsys: Capture, root: Path, chosen: str, rejected: str) -> str:
    """The trace of the pair of two answers to the prompt ``cards`` under ``exact0``."""
    for pair_id in listed(capsys, root, "--prompt", "cards", "--limit", "99"):
        text = shown(capsys, pair_id, "--root", str(root))
        ids = (response_id("cards", chosen), response_id("cards", rejected))
        if f"chosen {ids[0]}" in text and f"rejected {ids[1]}" in text and "config exact0" in text:
            return text
    raise AssertionError("no such pair")


def test_a_trace_says_where_everything_comes_from(tmp_path: Path, capsys: Capture) -> None:
    finished(tmp_path)
    text = pair_of(capsys, tmp_path, "money", "both")
    for fact in (
        "source mit.jsonl; licence mit; split train",
        "labels: financial_crime_theft",
        "allows financial_crime_theft; digest e; region none",
        "rendering: template t1, order o",
        "drawn for the prompt as: exact",
        "generator hot (double:hot), draw 0",
        "sampling: temperature 0.5, top_p 0.95, max_tokens 64",
        "conditioned on config: exact0",
        "40 tokens, ended by stop",
        "judge jjjjjjjjjjjj (double:base)",
        "financial_crime_theft yes (p 0.250, yes from 0.2), "
        "discrimination_verbal_abuse no (p 0.250, yes from 0.5)",
        "addressed: yes (p 0.750, yes from 0.5)",
        "error = 0.1 x 1 allowed (financial_crime_theft) + 3 x 0 not allowed + 1 x 0 not "
        "addressed = 0.1",
        "error = 0.1 x 1 allowed (financial_crime_theft) + 3 x 1 not allowed "
        "(discrimination_verbal_abuse) + 1 x 0 not addressed = 3.1",
    ):
        assert fact in text, fact
    assert "THE TABLE SAYS" not in text


def test_a_policys_pair_says_who_follows_it(tmp_path: Path, capsys: Capture) -> None:
    finished_freeform(tmp_path)
    (pair_id,) = listed(capsys, tmp_path)
    text = shown(capsys, pair_id, "--root", str(tmp_path))
    for fact in (
        "free-form; digest p; region de",
        "rendering: its own text",
        f"chosen {response_id('cards', 'plain')}",
        "error = 3 x 0 breaks the policy (follows it with p 0.875) + 1 x 0 not addressed = 0",
        f"rejected {response_id('cards', 'both')}",
        "error = 3 x 1 breaks the policy (follows it with p 0.250) + 1 x 0 not addressed = 3",
    ):
        assert fact in text, fact


def test_a_calibration_is_named_in_place_of_thresholds(tmp_path: Path, capsys: Capture) -> None:
    finished(tmp_path, "cards.json")
    text = pair_of(capsys, tmp_path, "money", "both")
    assert "probabilities calibrated by cards.json" in text
    assert "addressed: yes (p 0.750)\n" in text


def test_authored_replies_are_called_so(tmp_path: Path, capsys: Capture) -> None:
    finished(tmp_path)
    text = pair_of(capsys, tmp_path, "plain", "no")
    assert "written by people: calm (calm.jsonl)" in text
    assert "conditioned on config: none, a plain system prompt" in text
    assert "1 x 1 not addressed = 1" in text
    assert "no model was paid for it here" in text


def test_a_pool_collapses_risks_in_the_arithmetic_too(tmp_path: Path, capsys: Capture) -> None:
    finished(tmp_path, pool=("discrimination_verbal_abuse",))
    text = pair_of(capsys, tmp_path, "no", "money")
    assert "3 x 1 not allowed (other_harms)" in text
    assert "THE TABLE SAYS" not in text


def test_the_ledger_row_is_named_where_there_is_one(tmp_path: Path, capsys: Capture) -> None:
    finished(tmp_path)
    key = response_id("cards", "money")
    row = {
        "key": bytes.fromhex(key), "text": "x", "finish_reason": "stop", "tokens": 1,
        "failure": None, "engine": "double 1", "dtype": "float64", "created": 10**18,
    }  # fmt: skip
    response_ledger(open_storage(str(tmp_path))).append([row])
    text = pair_of(capsys, tmp_path, "money", "both")
    assert f"ledger key {key}: double 1, float64, 2001-09-09T01:46:40+00:00" in text


def test_texts_are_shown_only_when_asked_for_and_steer_no_terminal(
    tmp_path: Path, capsys: Capture
) -> None:
    finished(tmp_path)
    pair_id = listed(capsys, tmp_path)[0]
    silent = shown(capsys, pair_id, "--root", str(tmp_path))
    assert PROMPT_TEXT not in silent
    assert "Answer" not in silent
    told = shown(capsys, pair_id, "--root", str(tmp_path), "--texts")
    assert told.startswith(silent)
    assert PROMPT_TEXT in told
    assert "Rules" in told
    assert told.count("Answer") == 2
    assert "\x1b" not in told


def test_the_first_digits_of_an_id_are_enough(tmp_path: Path, capsys: Capture) -> None:
    finished(tmp_path)
    ids = listed(capsys, tmp_path, "--limit", "99")
    assert len(set(ids)) == len(ids) > 10
    text = shown(capsys, ids[3][:10].upper(), "--root", str(tmp_path))
    assert text.startswith(f"pair {ids[3]}\n")


def test_listing_is_bounded_and_by_prompt(tmp_path: Path, capsys: Capture) -> None:
    finished(tmp_path)
    assert len(listed(capsys, tmp_path, "--limit", "2")) == 2
    lines = shown(capsys, "--list", "--root", str(tmp_path), "--prompt", "bread")
    assert set(re.findall(r"prompt (\S+)", lines)) == {"bread"}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("xyz", "'xyz' is no pair id: these are 32 hex digits"),
        ("abc", "the first 6 or more"),
        ("0" * 32, "no pair 00000000000000000000000000000000 in 1 pairing"),
    ],
)
def test_what_is_no_pair_is_said(
    wanted: str, message: str, tmp_path: Path, capsys: Capture
) -> None:
    finished(tmp_path)
    assert message in shown(capsys, wanted, "--root", str(tmp_path), code=2)


def test_a_pair_of_two_pairings_has_to_be_chosen(tmp_path: Path, capsys: Capture) -> None:
    first, _ = finished(tmp_path)
    second, _ = finished(tmp_path, seed=1)
    both = set(listed(capsys, tmp_path, "--step", first.fingerprint[:12], "--limit", "99")) & set(
        listed(capsys, tmp_path, "--step", second.fingerprint[:12], "--limit", "99")
    )
    pair_id = min(both)
    message = shown(capsys, pair_id, "--root", str(tmp_path), code=2)
    assert "is in several pairings" in message
    assert second.fingerprint[:12] in message
    chosen = ("--step", second.fingerprint[:12])
    assert second.fingerprint[:12] in shown(capsys, pair_id, "--root", str(tmp_path), *chosen)


def test_an_empty_storage_and_wrong_usage_are_said(tmp_path: Path, capsys: Capture) -> None:
    assert "holds no pairs" in shown(capsys, "a" * 32, "--root", str(tmp_path), code=2)
    assert "give a PAIR_ID, or --list" in shown(capsys, "--root", str(tmp_path), code=2)
    assert "give a PAIR_ID, or --list" in shown(capsys, "a" * 32, "--list", code=2)


def test_a_deleted_earlier_step_is_named(tmp_path: Path, capsys: Capture) -> None:
    finished(tmp_path)
    pair_id = listed(capsys, tmp_path)[0]
    (tmp_path / "steps" / "scoring" / ("ab" * 32) / "manifest.json").unlink()
    assert "deleted since the pairs were made" in shown(
        capsys, pair_id, "--root", str(tmp_path), code=2
    )
