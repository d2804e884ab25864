"""The demo's data: whole, apart from one another, and what the script beside them writes."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.config_rendering import render_categorical
from cosalign.domain.fingerprint import prompt_id_of
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.evaluation.benchmark import read_benchmark
from cosalign.evaluation.items import read_region_configs
from cosalign.judging.labelled_examples import read_examples
from cosalign.runtime.run_config import load_run_config

ROOT = Path(__file__).parents[2]
WORLD = ROOT / "profiles/demo"
MILD = load_taxonomy("mild", "1", [str(WORLD / "taxonomy.yaml")])
UNSEEN = "fireworks"


def rows(name: str) -> list[dict[str, Any]]:
    lines = (WORLD / name).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def prompt_ids(name: str) -> set[str]:
    return {prompt_id_of(row["prompt"]) for row in rows(name)}


def test_training_held_out_and_labelled_prompts_are_disjoint() -> None:
    sets = [prompt_ids(f"{name}.jsonl") for name in ("prompts", "held_out", "labelled")]
    assert len(set.union(*sets)) == sum(map(len, sets))
    assert prompt_ids("replies.jsonl") == sets[0]


def test_no_training_text_speaks_of_the_unseen_topic() -> None:
    for row in rows("prompts.jsonl") + rows("replies.jsonl"):
        assert UNSEEN not in row["risks"]
        texts = f"{row['prompt']} {row.get('response', '')}"
        assert not re.search(r"firework|rocket|sparkler", texts, re.IGNORECASE)


def test_every_prompt_has_answers_and_a_decline_under_twenty_words() -> None:
    labels = {row["prompt"]: row["risks"] for row in rows("prompts.jsonl")}
    kinds: dict[str, set[bool]] = {}
    for row in rows("replies.jsonl"):
        kinds.setdefault(row["prompt"], set()).add(row["addressed"])
        assert row["risks"] == (labels[row["prompt"]] if row["addressed"] else [])
        assert len(row["response"].split()) < 20
    assert kinds.keys() == labels.keys()
    assert all(kind == {True, False} for kind in kinds.values())


def test_the_held_out_items_are_balanced_and_many() -> None:
    file = "held_out.jsonl"
    benchmark = read_benchmark((WORLD / file).read_bytes(), file, MILD)
    assert not benchmark.counts["benchmark_duplicates"]
    for split, least in (("seen", 192), ("unseen", 96)):
        kinds = [row.prompt_type for row in benchmark.rows if row.split == split]
        assert len(kinds) >= least
        assert kinds.count("allowed") == kinds.count("disallowed") == len(kinds) / 2


def test_the_labelled_examples_cover_every_topic_both_ways() -> None:
    examples = read_examples(str(WORLD / "labelled.jsonl"), MILD)
    for name in MILD.names_of(MILD.allowable_mask):
        assert sum(name in row.risks for row in examples.rows) >= 30
    assert sum(not row.addressed for row in examples.rows) >= 200


def test_a_config_states_each_topic_in_few_words() -> None:
    text = render_categorical(MILD, MILD.mask_of(["alcohol"]), 0).text
    assert "Alcohol is allowed." in text
    assert text.count("is forbidden.") == 7
    assert len(text.split()) < 40


def test_the_profile_loads_and_names_what_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_run_config("profiles/demo.yaml")
    regions = read_region_configs(config.configs.files, MILD)
    assert {name for region in regions for name in region.names} == {
        "fairground-at",
        "pub-ie",
        "school-no",
    }
    assert UNSEEN not in (config.synthesis.training_risks or ())
    for file in (*config.prompts.files, config.judging.examples, config.evaluation.benchmark):
        assert file is not None
        assert Path(file).is_file()


def test_the_files_are_what_the_script_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(WORLD))
    make_world = importlib.import_module("make_world")
    monkeypatch.setattr(make_world, "FOLDER", tmp_path)
    make_world.write_all()
    written = sorted(path.name for path in tmp_path.iterdir())
    assert {*written, "base_answers.jsonl"} == {path.name for path in WORLD.glob("*.jsonl")}
    for name in written:
        assert (tmp_path / name).read_bytes() == (WORLD / name).read_bytes(), name
