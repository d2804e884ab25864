"""The baselines through the whole step on the engine double: what they cost and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.evaluation.evaluation_world import inputs, prompts_table, run_config, write_region

from cosalign.domain.config_rendering import render_categorical
from cosalign.domain.errors import DataError
from cosalign.domain.run_config import RunConfig
from cosalign.domain.schemas import CONFIGS, SFT_RECORDS
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.evaluation.step import EvaluationStep
from cosalign.inference.generation import response_ledger
from cosalign.judging.judge import verdict_ledger
from cosalign.runtime.step import StepManifest, run_step
from cosalign.store.storage import open_storage
from cosalign.store.tables import read_table, write_table

MONEY = "financial_crime_theft"
TAXONOMY = load_taxonomy("cosa", "1")
ALL = ("base", "ica", "ica_k", "cascade", "cascade_oracle", "best_of_n", "sft", "dpo")


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    folder = tmp_path / "regions"
    write_region(folder, "eu-bank", [MONEY])
    write_region(folder, "jp-games", text="Beer may be praised; odds may not be given.")
    return folder


def trained(config: RunConfig, replies: int = 9) -> dict[str, StepManifest]:
    """Inputs whose training step has records to show."""
    found = inputs(config, prompts_table(trained=replies))
    storage = open_storage(config.storage.root)
    rendered = render_categorical(TAXONOMY, 1, 0)
    prompts = read_table(storage, found["synthesis"].tables["prompts"]).to_pylist()
    records = [
        {"prompt_id": p["prompt_id"], "config_id": rendered.config_id, "response_id": f"r{i}",
         "system": rendered.text, "prompt": p["text"], "response": f"Pilsner number {i}."}
        for i, p in enumerate(p for p in prompts if p["split"] == "train")
    ]  # fmt: skip
    tables = {
        "sft_records": (pa.Table.from_pylist(records, schema=SFT_RECORDS), SFT_RECORDS),
        "configs": (pa.Table.from_pylist([vars(rendered)], schema=CONFIGS), CONFIGS),
    }
    for name, step in (("sft_records", "training"), ("configs", "synthesis")):
        table, schema = tables[name]
        found[step].tables[name] = write_table(storage, f"steps/{name}.parquet", table, schema)
    return found


def run(config: RunConfig, replies: int = 9) -> StepManifest:
    return run_step(EvaluationStep(), config, trained(config, replies))[0]


def rows(config: RunConfig, manifest: StepManifest, name: str) -> list[dict[str, Any]]:
    storage = open_storage(config.storage.root)
    found: list[dict[str, Any]] = read_table(storage, manifest.tables[name]).to_pylist()
    return found


def keys(config: RunConfig) -> tuple[int, int]:
    storage = open_storage(config.storage.root)
    return response_ledger(storage).stats().keys, verdict_ledger(storage).stats().keys


def test_widening_pays_only_for_what_is_new(tmp_path: Path, regions: Path) -> None:
    items = 12
    config = run_config(tmp_path, systems=("base", "ica"))
    run(config)
    before = keys(config)
    # A cascade and its oracle ask what ica asked; the oracle's filter is the judge that scores.
    widened = run(run_config(tmp_path, systems=("base", "ica", "cascade_oracle")))
    assert keys(config) == before
    assert widened.counts["answers_made"] == widened.counts["verdicts_made"] == 0
    own = run(run_config(tmp_path, systems=("base", "ica", "cascade")))
    assert own.counts["answers_made"] == 0
    # The base model's own verdict on each answer, and on each free-form one a second.
    assert own.counts["filter_verdicts_made"] == items + items // 2
    drawn = run(run_config(tmp_path, systems=("ica", {"name": "three", "method": "best_of_n",
                                                      "samples": 3})))  # fmt: skip
    assert drawn.counts["answers_made"] == 3 * items
    more = run(run_config(tmp_path, systems=("ica", {"name": "five", "method": "best_of_n",
                                                     "samples": 5})))  # fmt: skip
    assert more.counts["answers_made"] == 2 * items


def test_all_baselines_answer_every_item_and_a_lost_result_comes_back(
    tmp_path: Path, regions: Path
) -> None:
    config = run_config(tmp_path, systems=ALL)
    first = run(config)
    table = rows(config, first, "evaluation")
    assert {row["system"] for row in table} == set(ALL)
    assert len(table) == len(ALL) * 12
    # The base model (with its own filter on its drafts), both trained ones, and the judge.
    assert first.counts["engine_starts"] == 4
    answers = {row["response_id"] for row in rows(config, first, "answers")}
    verdicts = {row["response_id"] for row in rows(config, first, "verdicts")}
    assert answers == verdicts
    assert {row["response_id"] for row in table} <= answers
    storage = open_storage(config.storage.root)
    for stat in storage.list(f"steps/evaluation/{first.fingerprint}"):
        storage.delete(stat.path)
    again = run(config)
    assert again.tables == first.tables
    assert again.counts["engine_starts"] == 0


def test_demonstrations_stand_between_config_and_prompt(tmp_path: Path, regions: Path) -> None:
    few = {"name": "few", "method": "demonstrations", "demonstrations": 2}
    first = run(run_config(tmp_path, systems=("ica", few)))
    config = run_config(tmp_path, systems=("ica", few))
    table = rows(config, first, "evaluation")
    ids = {
        name: {r["response_id"] for r in table if r["system"] == name} for name in ("ica", "few")
    }
    assert not ids["ica"] & ids["few"]
    other = run(run_config(tmp_path, systems=("ica", {**few, "demonstrations": 3})))
    assert other.counts["answers_made"] == 12


def test_other_training_data_shows_other_replies_and_redoes_the_step(
    tmp_path: Path, regions: Path
) -> None:
    config = run_config(tmp_path, systems=("ica_k",))
    assert run(config).fingerprint != run(config, replies=12).fingerprint


def test_too_few_replies_are_refused_by_name(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path, systems=("ica_k",))
    with pytest.raises(
        DataError, match=r"ica_k is to show 5 replies under eu-bank.* has 2 that fit"
    ):
        run(config, replies=2)


def test_a_filter_of_another_model_is_part_of_the_result(tmp_path: Path, regions: Path) -> None:
    other = {"name": "guarded", "method": "cascade",
             "filter": {"model": "double:guard", "mode": "labels"}}  # fmt: skip
    first = run(run_config(tmp_path, systems=("cascade", other)))
    assert first.counts["engine_starts"] == 3
    counts = [first.counts[f"filter_declined/{name}"] for name in ("cascade", "guarded")]
    assert min(counts) > 0
    third = {**other, "filter": {"model": "double:third", "mode": "labels"}}
    assert run(run_config(tmp_path, systems=("cascade", third))).fingerprint != first.fingerprint
