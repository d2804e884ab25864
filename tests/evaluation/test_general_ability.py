"""Tasks of lm-evaluation-harness over our engines: what is asked, paid for, cut and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.evaluation_world import inputs, run_config, write_region

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import EngineGroup, RunConfig
from cosalign.domain.run_config.suites import GeneralSettings
from cosalign.domain.run_config.systems import SYSTEMS
from cosalign.domain.validation import validated
from cosalign.evaluation.answers import System
from cosalign.evaluation.general_ability import GeneralTasks, general_identity
from cosalign.evaluation.step import EvaluationStep
from cosalign.inference.continuations import (
    Continuation,
    continuation_ledger,
    score_continuations,
    write_continuations,
)
from cosalign.inference.engine import Sampling
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import response_ledger
from cosalign.inference.models import resolve_model
from cosalign.runtime.step import StepManifest, run_step
from cosalign.store.storage import open_storage
from cosalign.store.tables import read_table

CHOICE = """
task: cards
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
WRITTEN = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: [" "], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""
ENGINE = EngineGroup(kind="double", max_model_len=4096, flush_rows=4)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with two tasks over six mild questions."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "questions.jsonl"
    rows = [
        {"question": f"How many cards are {i} pairs?", "choices": [str(i), str(2 * i)], "answer": 1}
        for i in range(1, 7)
    ]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    for name, text in (("cards", CHOICE), ("sums", WRITTEN)):
        (folder / f"{name}.yaml").write_text(text.replace("DATA", str(data)), "utf-8")
    return folder


def measure(
    tmp_path: Path, folder: Path, *names: str, **more: object
) -> tuple[list[dict[str, Any]], int]:
    """Rows of base and ica, and how many engines were started."""
    settings = {"tasks": list(names), "include": [str(folder)], **more}
    checked = validated(GeneralSettings, settings, "x", ConfigError)
    model = resolve_model("double:base", tmp_path)
    systems = [System(SYSTEMS[name], model) for name in ("base", "ica", "best_of_n")]
    with EngineHost(ENGINE) as host:
        found = GeneralTasks(checked, host, open_storage(str(tmp_path / "out"))).rows(systems)
        return found, host.starts


def test_each_document_is_a_row_of_each_system_that_shares_the_model(
    tmp_path: Path, tasks: Path
) -> None:
    rows, _ = measure(tmp_path, tasks, "cards")
    assert [row["system"] for row in rows] == ["base"] * 6 + ["ica"] * 6
    assert {row["suite"] for row in rows} == {"general:cards"}
    assert len({row["prompt_id"] for row in rows}) == 6
    own = {row["prompt_id"]: row["h"] for row in rows if row["system"] == "base"}
    assert own == {row["prompt_id"]: row["h"] for row in rows if row["system"] == "ica"}
    assert set(own.values()) <= {0.0, 1.0}


def test_accuracy_is_that_of_the_likeliest_continuation(tmp_path: Path, tasks: Path) -> None:
    rows, _ = measure(tmp_path, tasks, "cards")
    model = resolve_model("double:base", tmp_path)
    storage = open_storage(str(tmp_path / "again"))
    right = []
    with EngineHost(ENGINE) as host:
        encode = host.engine(model).tokenizer.encode_plain
        for i in range(1, 7):
            before = encode(f"Question: How many cards are {i} pairs?\nAnswer:")
            wanted = [Continuation(before, encode(f" {n}")) for n in (i, 2 * i)]
            done = score_continuations(host, storage, model, wanted, "test").rows
            first, second = done.column("log_prob").to_pylist()
            right.append(float(second > first))
    assert [row["h"] for row in rows[:6]] == right


def test_requests_are_paid_once_and_shared_between_limits(tmp_path: Path, tasks: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    few, starts = measure(tmp_path, tasks, "cards", limit=2)
    assert (len(few), starts) == (4, 1)
    assert continuation_ledger(storage).stats().keys == 4
    whole, starts = measure(tmp_path, tasks, "cards")
    assert continuation_ledger(storage).stats().keys == 12
    again, starts = measure(tmp_path, tasks, "cards")
    assert (again, starts) == (whole, 0)
    assert {row["prompt_id"] for row in few} < {row["prompt_id"] for row in whole}


def test_written_answers_end_at_their_stop_and_lie_in_the_ledger(
    tmp_path: Path, tasks: Path
) -> None:
    rows, _ = measure(tmp_path, tasks, "sums")
    assert len(rows) == 12
    storage = open_storage(str(tmp_path / "out"))
    assert response_ledger(storage).stats().keys == 6
    _, starts = measure(tmp_path, tasks, "sums")
    assert starts == 0
    # As a conversation it is another text.
    measure(tmp_path, tasks, "sums", chat=True)
    assert response_ledger(storage).stats().keys == 12


def test_the_score_is_of_what_stands_before_the_stop(tmp_path: Path, tasks: Path) -> None:
    storage = open_storage(str(tmp_path / "texts"))
    model = resolve_model("double:base", tmp_path)
    with EngineHost(ENGINE) as host:
        encode = host.engine(model).tokenizer.encode_plain
        wanted = [(encode(f"How many cards are {i} pairs?"), Sampling(8)) for i in range(1, 7)]
        texts = write_continuations(host, storage, model, wanted, "test").rows["text"].to_pylist()
    data = tasks / "questions.jsonl"
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    for row, text in zip(rows[:4], texts, strict=False):
        row["choices"][1] = text.split(" ")[0]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    found, _ = measure(tmp_path, tasks, "sums")
    assert [row["h"] for row in found[:6]] == [1.0] * 4 + [0.0] * 2


def test_a_conversation_is_encoded_as_one(tmp_path: Path, tasks: Path) -> None:
    plain, _ = measure(tmp_path, tasks, "cards")
    chat, _ = measure(tmp_path, tasks, "cards", chat=True)
    storage = open_storage(str(tmp_path / "out"))
    assert continuation_ledger(storage).stats().keys == 24
    assert [row["prompt_id"] for row in chat] == [row["prompt_id"] for row in plain]


def test_a_task_that_is_none_is_refused_with_the_nearest(tmp_path: Path, tasks: Path) -> None:
    with pytest.raises(ConfigError, match="knows no 'gsm8c'; did you mean 'gsm8k"):
        measure(tmp_path, tasks, "gsm8c")


def test_tasks_of_ones_own_are_part_of_the_result_by_content(tmp_path: Path, tasks: Path) -> None:
    settings = GeneralSettings(tasks=("cards",), include=(str(tasks),))
    before = general_identity(settings)
    assert general_identity(settings) == before
    (tasks / "questions.jsonl").write_text("{}\n", "utf-8")
    assert general_identity(settings) != before
    assert general_identity(None) is None


def test_the_step_writes_them_beside_the_items(tmp_path: Path, tasks: Path) -> None:
    write_region(tmp_path / "regions", "eu", ["violence"])
    plain = run_config(tmp_path).plain()
    plain["evaluation"]["general"] = {"tasks": ["cards"], "include": [str(tasks)]}
    config = validated(RunConfig, plain, "x", ConfigError)
    manifest: StepManifest = run_step(EvaluationStep(), config, inputs(config))[0]
    storage = open_storage(config.storage.root)
    rows = read_table(storage, manifest.tables["evaluation"]).to_pylist()
    general = [row for row in rows if row["suite"] == "general:cards"]
    assert {row["system"] for row in general} == {"base", "ica", "sft", "dpo"}
    assert len(general) == 4 * 6
    assert {row["response_id"] for row in general} == {None}
    configs = read_table(storage, manifest.tables["evaluated_configs"]).to_pylist()
    assert [c["config"] for c in configs if c["kind"] == "none"] == ["cards"]
    # The engine that answers scores too.
    assert manifest.counts["engine_starts"] == 4


def test_a_document_that_an_engine_left_unanswered_has_no_score(
    tmp_path: Path, tasks: Path
) -> None:
    data = tasks / "questions.jsonl"
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    # The right answer stands first, where a likeliest of none would be looked for.
    rows[0] |= {"choices": ["word " * 5000, "2"], "answer": 0}
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    found, _ = measure(tmp_path, tasks, "cards")
    assert [(row["h"] is None, row["s"]) for row in found[:6]] == [(True, None)] + [(False, 1)] * 5


def test_a_text_too_long_is_continued_from_its_end(tmp_path: Path, tasks: Path) -> None:
    data = tasks / "questions.jsonl"
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    rows[0]["question"] = "word " * 5000 + rows[0]["question"]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    found, _ = measure(tmp_path, tasks, "sums")
    assert [row["s"] for row in found[:6]] == [1] * 6
    # A conversation cannot be cut, and is not scored either.
    found, _ = measure(tmp_path, tasks, "sums", chat=True)
    assert [row["s"] for row in found[:6]] == [None] + [1] * 5
