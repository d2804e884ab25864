"""The whole step on the engine double: tables, reuse, and what a new region's config costs."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.evaluation.evaluation_world import (
    TAXONOMY,
    benchmark_row,
    inputs,
    jsonl,
    prompts_table,
    run_config,
    write_region,
)

from cosalign.domain.run_config import RunConfig, SecondJudge
from cosalign.evaluation.step import EvaluationStep
from cosalign.inference.generation import response_ledger
from cosalign.judging.judge import verdict_ledger
from cosalign.runtime.run_config import dump_run_config
from cosalign.runtime.step import StepManifest, main, run_step
from cosalign.store.storage import open_storage
from cosalign.store.tables import read_table

MONEY, FIGHT, DRUGS = "financial_crime_theft", "violence", "illegal_drugs_substance_abuse"
POLICY = "Beer may be praised; odds of winning at cards may not be given."


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    folder = tmp_path / "regions"
    write_region(folder, "eu-bank", [MONEY])
    write_region(folder, "jp-games", text=POLICY, region="JP <b>east</b>")
    return folder


def run(config: RunConfig, prompts: pa.Table | None = None) -> tuple[StepManifest, bool]:
    return run_step(EvaluationStep(), config, inputs(config, prompts))


def rows(config: RunConfig, manifest: StepManifest, name: str) -> list[dict[str, Any]]:
    storage = open_storage(config.storage.root)
    found: list[dict[str, Any]] = read_table(storage, manifest.tables[name]).to_pylist()
    return found


def file(config: RunConfig, manifest: StepManifest, name: str) -> str:
    return open_storage(config.storage.root).read_bytes(manifest.files[name]).decode()


def ledger_sizes(config: RunConfig) -> tuple[int, int]:
    storage = open_storage(config.storage.root)
    return response_ledger(storage).stats().keys, verdict_ledger(storage).stats().keys


def test_every_system_answers_every_item_once(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    manifest, reused = run(config)
    assert not reused
    table = rows(config, manifest, "evaluation")
    assert len(table) == 4 * 2 * 6
    assert {row["system"] for row in table} == {"base", "ica", "sft", "dpo"}
    assert {row["prompt_type"] for row in table} >= {"allowed", "freeform"}
    assert {row["s"] for row in table} <= {1, -1, None}
    answers = rows(config, manifest, "answers")
    assert {a["generator"] for a in answers if a["config_id"] is None} == {"base"}
    assert len([a for a in answers if a["generator"] == "dpo"]) == 12
    verdicts = rows(config, manifest, "verdicts")
    assert {v["response_id"] for v in verdicts} == {row["response_id"] for row in table}
    assert len(verdicts) == len({v["response_id"] for v in verdicts})


def test_a_base_answer_serves_all_configs(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path, systems=("base",), prompts_per_config=50)
    manifest, _ = run(config)
    assert len(rows(config, manifest, "evaluation")) == 2 * 20
    assert manifest.counts["answers_made"] == len(rows(config, manifest, "answers")) == 20
    # One verdict a response for all configs, and one more for the free-form config.
    assert manifest.counts["verdicts_made"] == 20 + 20


def test_s_and_h_are_those_of_the_verdicts(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    manifest, _ = run(config)
    verdicts = {v["response_id"]: v for v in rows(config, manifest, "verdicts")}
    compared = 0
    for row in rows(config, manifest, "evaluation"):
        verdict = verdicts[row["response_id"]]
        rating = verdict["helpfulness"]
        assert row["h"] == (None if rating is None else pytest.approx(rating / 5))
        if row["prompt_type"] != "freeform" and verdict["known_mask"] == TAXONOMY.full_mask:
            assert row["s"] == (-1 if verdict["risk_mask"] & ~1 else 1)
            compared += 1
    assert compared > 5


def test_engines_start_once_each(tmp_path: Path, regions: Path) -> None:
    manifest, _ = run(run_config(tmp_path))
    assert manifest.counts["engine_starts"] == 4


def test_a_judge_that_also_answers_starts_once_and_is_pointed_out(
    tmp_path: Path, regions: Path
) -> None:
    config = run_config(tmp_path)
    alone, _ = run(config)
    models = config.models.model_copy(update={"judge": None})
    config = config.model_copy(
        update={
            "models": models,
            "storage": config.storage.model_copy(update={"root": str(tmp_path / "other")}),
        }
    )
    manifest, _ = run(config)
    assert manifest.counts["engine_starts"] == 3
    assert "The judge is also the model behind base and ica" in file(config, manifest, "report")
    assert "The judge is also" not in file(run_config(tmp_path), alone, "report")


def test_a_second_run_reuses_and_a_lost_result_comes_back_byte_for_byte(
    tmp_path: Path, regions: Path
) -> None:
    config = run_config(tmp_path)
    first, _ = run(config)
    assert run(config) == (first, True)
    storage = open_storage(config.storage.root)
    before = {name: file(config, first, name) for name in first.files}
    for stat in storage.list(f"steps/evaluation/{first.fingerprint}"):
        storage.delete(stat.path)
    again, reused = run(config)
    assert not reused
    assert again.tables == first.tables
    assert again.metrics == first.metrics
    assert {name: file(config, again, name) for name in again.files} == before
    assert again.counts["engine_starts"] == 0
    assert again.counts["answers_made"] == again.counts["verdicts_made"] == 0


def test_a_longer_context_is_another_result(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    engine = config.models.engine.model_copy(update={"max_model_len": 64})
    short = config.model_copy(
        update={"models": config.models.model_copy(update={"engine": engine})}
    )
    first, _ = run(short)
    assert first.metrics["coverage/base"] == 0.0
    again, reused = run(config)
    assert not reused
    assert (again.metrics["coverage/base"] or 0) > 0.5


def test_a_new_categorical_config_costs_its_answers_and_their_verdicts_only(
    tmp_path: Path, regions: Path
) -> None:
    config = run_config(tmp_path, prompts_per_config=50)
    before, _ = run(config)
    answers, verdicts = ledger_sizes(config)
    write_region(regions, "us-bank", [DRUGS], region="US")
    after, reused = run(config)
    assert not reused
    assert after.fingerprint != before.fingerprint
    assert after.counts["answers_made"] == 3 * 20  # base answers without a config: none new
    assert after.counts["verdicts_made"] == 3 * 20
    assert ledger_sizes(config) == (answers + 60, verdicts + 60)
    for system in ("base", "ica", "sft", "dpo"):
        name = f"cosa_score/{system}/eu-bank"
        assert after.metrics[name] == before.metrics[name]


def test_a_second_region_with_the_same_demand_costs_nothing(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    before, _ = run(config)
    write_region(regions, "us-bank", [MONEY], region="US")
    after, reused = run(config)
    assert not reused
    assert after.counts["answers_made"] == after.counts["verdicts_made"] == 0
    assert after.metrics["cosa_score/dpo/us-bank"] == before.metrics["cosa_score/dpo/eu-bank"]


def test_what_is_said_about_a_config_and_not_by_it_makes_no_new_result(
    tmp_path: Path, regions: Path
) -> None:
    config = run_config(tmp_path)
    first, _ = run(config)
    path = regions / "eu-bank.yaml"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["spec"]["owner"] = "safety-lead"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert run(config) == (first, True)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"max_tokens": 8}, {"systems": ("ica", "dpo")}, {"bootstrap": 200}]
)
def test_settings_that_change_the_result_make_a_new_one(
    tmp_path: Path, regions: Path, change: dict[str, object]
) -> None:
    first, _ = run(run_config(tmp_path))
    other, reused = run(run_config(tmp_path, **change))
    assert not reused
    assert other.fingerprint != first.fingerprint


def test_the_card_says_by_which_rules_answers_became_labels(tmp_path: Path, regions: Path) -> None:
    def rules(threshold: float, **evaluation: object) -> str:
        config = run_config(tmp_path, **evaluation)
        scoring = config.scoring.model_copy(update={"threshold": threshold})
        config = config.model_copy(update={"scoring": scoring})
        card = json.loads(file(config, run(config)[0], "scores"))
        return str(card["models"]["judge"]["rules"])

    assert rules(0.5) == rules(0.5, prompts_per_config=2)
    assert rules(0.5) != rules(0.9)


def test_metrics_are_flat_and_complete(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    manifest, _ = run(config)
    for system in ("base", "ica", "sft", "dpo"):
        for name in ("cosa_score", "cosa_score_low", "cosa_score_high", "coverage",
                     "helpful_safe", "helpful_unsafe", "cosa_score_worst"):  # fmt: skip
            assert f"{name}/{system}" in manifest.metrics
        low, score, high = (
            manifest.metrics[f"cosa_score{end}/{system}"] for end in ("_low", "", "_high")
        )
        assert low is not None
        assert score is not None
        assert high is not None
        assert low <= score <= high
    assert {"difference/dpo/ica", "difference/ica/base"} <= manifest.metrics.keys()
    assert "difference/base/ica" not in manifest.metrics
    card = json.loads(file(config, manifest, "scores"))
    assert card["overall"]["dpo"]["score"] == manifest.metrics["cosa_score/dpo"]
    assert [c["kind"] for c in card["configs"]] == ["categorical", "freeform"]


def test_the_scores_are_those_of_the_table(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    manifest, _ = run(config)
    means = []
    table = [r for r in rows(config, manifest, "evaluation") if r["system"] == "sft"]
    for config in sorted({row["config"] for row in table}):
        known = [
            row["h"] * row["s"]
            for row in table
            if row["config"] == config and None not in (row["h"], row["s"])
        ]
        means.append(sum(known) / len(known))
    assert manifest.metrics["cosa_score/sft"] == pytest.approx(sum(means) / 2, abs=1e-6)


def test_a_benchmark_alone_is_split_into_seen_and_unseen(tmp_path: Path) -> None:
    bench = [
        benchmark_row(f"Odds of {i} aces?", [FIGHT] if i % 2 else [], [MONEY], split=split)
        for i, split in enumerate(["seen", "unseen"] * 5)
    ]
    (tmp_path / "bench.jsonl").write_bytes(jsonl(bench))
    config = run_config(tmp_path, benchmark=str(tmp_path / "bench.jsonl"))
    config = config.model_copy(update={"configs": config.configs.model_copy(update={"files": ()})})
    manifest, _ = run(config, prompts_table(0))
    card = json.loads(file(config, manifest, "scores"))
    assert card["by_split"]["seen"]["scores"]["dpo"]["items"] == 5
    assert card["by_split"]["unseen"]["scores"]["dpo"]["items"] == 5
    assert "cosa_score/dpo/benchmark:violence" in manifest.metrics
    assert list(card["suites"]) == ["benchmark:bench"]


def test_answers_that_failed_are_unknown_and_lower_coverage(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path, systems=("ica",))
    engine = config.models.engine.model_copy(update={"max_model_len": 64})
    models = config.models.model_copy(update={"engine": engine})
    config = config.model_copy(update={"models": models})
    manifest, _ = run(config)
    assert manifest.metrics["coverage/ica"] == 0.0
    assert manifest.metrics["cosa_score/ica"] is None
    assert (manifest.metrics["cosa_score_worst/ica"], manifest.metrics["cosa_score_best/ica"]) == (
        -1.0,
        1.0,
    )
    assert manifest.counts["verdicts_made"] == 0
    assert "Few items could be judged (ica 0%)" in file(config, manifest, "report")


def test_the_report_escapes_and_holds_no_text(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    manifest, _ = run(config)
    page = file(config, manifest, "report")
    assert "JP &lt;b&gt;east&lt;/b&gt;" in page
    assert "<b>east" not in page
    shown = unescape(page) + unescape(file(config, manifest, "scores"))
    for row in rows(config, manifest, "answers"):
        assert row["text"] not in shown
    for row in prompts_table().to_pylist():
        assert row["text"] not in shown
    assert POLICY not in shown
    assert "http" not in page
    assert "<script" not in page


def test_texts_are_in_the_report_alone_and_only_where_asked_for(
    tmp_path: Path, regions: Path
) -> None:
    without, config = run_config(tmp_path), run_config(tmp_path, report_texts=True)
    plain, _ = run(without)
    manifest, reused = run(config)
    assert not reused
    assert manifest.counts["answers_made"] == manifest.counts["verdicts_made"] == 0
    assert {n: t.sha256 for n, t in manifest.tables.items()} == {
        n: t.sha256 for n, t in plain.tables.items()
    }
    assert file(config, manifest, "scores") == file(without, plain, "scores")
    page = unescape(file(config, manifest, "report"))
    answers = rows(config, manifest, "answers")
    assert "<dd>" not in file(without, plain, "report")
    for answer in answers:
        assert f"<dd>{answer['text']}</dd>" in page
    assert all(
        f"<dd>{answer['text']}</dd>" not in file(without, plain, "report") for answer in answers
    )
    asked = {answer["prompt_id"] for answer in answers}
    for row in prompts_table().to_pylist():
        assert (f"<dd>{row['text']}</dd>" in page) == (row["prompt_id"] in asked)


def test_the_report_shows_the_funnel_and_the_items(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path, prompts_per_config=50)
    manifest, _ = run(config)
    page = file(config, manifest, "report")
    assert "From prompts to training data" in page
    assert "40 of 40 items, by id" in page
    for row in rows(config, manifest, "evaluation"):
        assert f"<code>{row['prompt_id'][:8]}</code>" in page


def test_the_container_entry_writes_its_manifest(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    (tmp_path / "run.yaml").write_text(dump_run_config(config), encoding="utf-8")
    arguments = ["--run-config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "m.json")]
    for name, manifest in inputs(config).items():
        (tmp_path / f"{name}.json").write_text(manifest.model_dump_json(), encoding="utf-8")
        arguments += [f"--{name}", str(tmp_path / f"{name}.json")]
    assert main(EvaluationStep(), arguments) == 0
    assert json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))["step"] == "evaluation"
    for path in regions.iterdir():
        path.unlink()
    assert main(EvaluationStep(), arguments) == 2


def test_a_system_named_twice_is_refused(
    tmp_path: Path, regions: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = run_config(tmp_path, systems=("ica", "ica"))
    (tmp_path / "run.yaml").write_text(dump_run_config(config), encoding="utf-8")
    arguments = ["--run-config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "m.json")]
    for name, manifest in inputs(config).items():
        (tmp_path / f"{name}.json").write_text(manifest.model_dump_json(), encoding="utf-8")
        arguments += [f"--{name}", str(tmp_path / f"{name}.json")]
    assert main(EvaluationStep(), arguments) == 2
    assert "each once" in capfd.readouterr().err


def test_uncertain_answers_go_to_the_second_judge(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path, systems=("base", "ica"))
    plain, _ = run(config)
    judging = config.judging.model_copy(
        update={
            "second": SecondJudge(model="double:second", mode="labels"),
            "uncertain_band": (0.05, 0.95),
            "max_escalated_share": 0.5,
        }
    )
    escalated = config.model_copy(update={"judging": judging})
    manifest, reused = run(escalated)
    assert not reused
    first = rows(escalated, manifest, "first_verdicts")
    assert len(first) == manifest.counts["escalated"] > 0
    before = {row["response_id"]: str(row) for row in rows(config, plain, "verdicts")}
    assert {row["response_id"]: str(row) for row in first}.items() <= before.items()
    judges = {row["judge"] for row in rows(escalated, manifest, "verdicts")}
    assert len(judges) == 2
    assert manifest.metrics["escalation_agreement"] is not None
    # The answers and the first judge's verdicts stood in the ledgers.
    assert manifest.counts["answers_made"] == 0
    assert manifest.counts["verdicts_made"] == manifest.counts["escalated"]


def test_kfp_shows_the_report_and_the_metrics(tmp_path: Path, regions: Path) -> None:
    config = run_config(tmp_path)
    (tmp_path / "run.yaml").write_text(dump_run_config(config), encoding="utf-8")
    artifacts = {}
    for name, manifest in inputs(config).items():
        (tmp_path / f"{name}.json").write_text(manifest.model_dump_json(), encoding="utf-8")
        artifacts[name] = {"artifacts": [{"uri": str(tmp_path / f"{name}.json")}]}
    outputs = {
        name: {"artifacts": [{"name": name, "uri": str(tmp_path / "kfp" / name)}]}
        for name in ("evaluation", "report", "metrics")
    }
    told = {
        "inputs": {
            "parameterValues": {"run_config_uri": str(tmp_path / "run.yaml")},
            "artifacts": artifacts,
        },
        "outputs": {"artifacts": outputs, "outputFile": str(tmp_path / "kfp" / "out.json")},
    }
    assert main(EvaluationStep(), ["--executor-input", json.dumps(told)]) == 0
    page = (tmp_path / "kfp" / "report").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "did not pass the gate" in page
    written = json.loads((tmp_path / "kfp" / "out.json").read_text(encoding="utf-8"))
    metrics = written["artifacts"]["metrics"]["artifacts"][0]["metadata"]
    assert metrics["gate_passed"] == 0.0
    assert {"cosa_score/dpo", "cosa_score_low/dpo", "coverage/dpo"} <= metrics.keys()
    assert None not in metrics.values()
