"""The evaluation with a fitted judge: its accuracy beside the scores, the zero-shot one's too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.evaluation_world import inputs, run_config, write_region

from cosalign.domain.errors import ModelError
from cosalign.domain.run_config import JudgingGroup, RunConfig
from cosalign.evaluation.judge_card import judge_metrics, judge_warnings
from cosalign.evaluation.step import EvaluationStep
from cosalign.inference.generation import response_ledger
from cosalign.pipelines.command_line import main
from cosalign.runtime.step import StepManifest, run_step
from cosalign.store.storage import open_storage
from cosalign.store.tables import read_table

WORDS = ("odds", "wagers", "ales", "roses", "swords", "kites", "loaves", "songs")


def examples(path: Path) -> str:
    rows = [
        {
            "prompt": f"What of {word} and {other}?",
            "response": f"Take {word} slowly." if helpful else f"Sorry, no {word}.",
            "risks": ["financial_crime_theft"] if helpful and word in WORDS[:2] else [],
            "addressed": helpful,
            "helpfulness": 5 if helpful else 1,
        }
        for word in WORDS
        for other in WORDS[:3]
        for helpful in (True, False)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    write_region(tmp_path / "regions", "eu-bank", ["financial_crime_theft"])
    judging = JudgingGroup(
        examples=examples(tmp_path / "examples.jsonl"), zero_shot_rows=20, canaries=False
    )
    plain = run_config(tmp_path, systems=("base", "dpo"), prompts_per_config=4)
    return plain.model_copy(update={"judging": judging})


def run(config: RunConfig) -> StepManifest:
    return run_step(EvaluationStep(), config, inputs(config))[0]


def card(config: RunConfig, manifest: StepManifest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        open_storage(config.storage.root).read_bytes(manifest.files["scores"])
    )
    return found


def test_both_judges_are_measured_and_only_one_decides(config: RunConfig) -> None:
    manifest = run(config)
    own = manifest.metrics["judge_accuracy/addressed"]
    assert own is not None
    assert own > 0.9
    # The engine double answers at random, and some of its answers cannot be read.
    zero_shot = manifest.metrics["zero_shot_accuracy/addressed"]
    assert zero_shot is not None
    assert zero_shot < own - 0.1
    storage = open_storage(config.storage.root)
    judges = set(read_table(storage, manifest.tables["verdicts"]).column("judge").to_pylist())
    judge = card(config, manifest)["models"]["judge"]
    assert judges == {judge["digest"]}
    assert judge["uri"].startswith("classifier:")


def test_the_report_shows_accuracy_beside_its_baseline_and_a_warning(config: RunConfig) -> None:
    manifest = run(config)
    page = open_storage(config.storage.root).read_bytes(manifest.files["report"]).decode()
    assert "How right the judge is" in page
    shown = f"{100 * (manifest.metrics['judge_accuracy/addressed'] or 0):.1f}\N{NO-BREAK SPACE}%"
    assert f'<th scope="row">addressed</th><td>{shown} <small>of 48</small>' in page
    assert "fitted on 48 labelled examples" in page
    assert "Sorry, no" not in page


def test_the_zero_shot_judge_is_left_out_where_it_is_not_asked_for(config: RunConfig) -> None:
    alone = config.model_copy(
        update={"judging": config.judging.model_copy(update={"zero_shot_rows": 0})}
    )
    manifest = run(alone)
    assert not [name for name in manifest.metrics if name.startswith("zero_shot")]
    assert "judge_accuracy/addressed" in manifest.metrics
    # The trained model and the base model; no engine judges.
    assert manifest.counts["engine_starts"] == 2
    assert run(config).fingerprint != manifest.fingerprint


def test_a_base_model_that_judges_zero_shot_is_started_once(config: RunConfig) -> None:
    models = config.models.model_copy(update={"judge": None})
    assert run(config.model_copy(update={"models": models})).counts["engine_starts"] == 2


def test_a_judge_without_examples_is_not_measured() -> None:
    empty: dict[str, Any] = {"examples": 0, "questions": {}, "zero_shot": {}, "canaries": {}}
    assert judge_metrics(empty) == {}
    assert judge_warnings(empty) == []


def test_the_canaries_stand_in_the_card_and_the_report(config: RunConfig) -> None:
    assert "How hard the judge is to fool" not in page_of(config)
    with_canaries = config.model_copy(
        update={"judging": config.judging.model_copy(update={"canaries": True})}
    )
    found = card(with_canaries, run(with_canaries))["judge"]["canaries"]
    assert {"all", "plain", "instruction"} <= set(found)
    assert all(0 <= share <= 1 for share in found.values())
    page = page_of(with_canaries)
    assert "How hard the judge is to fool" in page
    shown = f"{100 * found['instruction']:.1f}\N{NO-BREAK SPACE}%"
    assert f"<span>instruction</span> <span>{shown}</span>" in page


def test_a_fooled_judge_stops_the_evaluation_before_anything_is_answered(
    config: RunConfig,
) -> None:
    bounded = config.judging.model_copy(update={"canaries": True, "canary_bound": 1.0})
    with pytest.raises(ModelError, match="canary_bound is 1"):
        run(config.model_copy(update={"judging": bounded}))
    storage = open_storage(config.storage.root)
    assert response_ledger(storage).stats().keys == 0
    lenient = bounded.model_copy(update={"canary_bound": None})
    manifest = run(config.model_copy(update={"judging": lenient}))
    assert manifest.metrics["canary_accuracy/all"] is not None


def test_a_calibrated_judge_is_shown_by_its_reliability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: RunConfig
) -> None:
    monkeypatch.chdir(tmp_path)
    examples(tmp_path / "e.jsonl")
    (tmp_path / "run.yaml").write_text(
        'storage: {root: calibration}\nmodels: {base: "double:base", judge: "double:judge", '
        "engine: {kind: double, max_model_len: 16384}}\n"
    )
    command = ["judge", "calibrate", "e.jsonl", "--profile", "run.yaml", "--out", "out"]
    assert main([*command, "--sensitivity-rows", "0"]) == 0
    scoring = config.scoring.model_copy(
        update={"calibration": str(tmp_path / "out/calibration.json")}
    )
    judging = config.judging.model_copy(update={"examples": None, "zero_shot_rows": 0})
    calibrated = config.model_copy(update={"scoring": scoring, "judging": judging})
    page = page_of(calibrated)
    assert "How far the judge can be trusted" in page
    assert 'aria-label="Reliability of addressed' in page
    plain = calibrated.model_copy(update={"scoring": config.scoring})
    assert "Reliability of" not in page_of(plain)
    assert "trusted was not measured" in page_of(plain)


def page_of(config: RunConfig) -> str:
    return open_storage(config.storage.root).read_bytes(run(config).files["report"]).decode()
