"""What a run says of its judges and its trained models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cosalign.pipelines.local_run import TaskReport
from cosalign.pipelines.resolution import RuntimeArtifact, TaskOutputs
from cosalign.pipelines.run_summary import RunSummary, summarise
from cosalign.runtime.step import StepManifest

METRICS: dict[str, float | None] = {
    "cosa_score/dpo": 0.5,
    "judge_accuracy/beer": 0.9,
    "judge_accuracy/addressed": 0.7,
    "judge_auc/beer": 0.95,
    "judge_auc/addressed": None,
}


def text(metrics: dict[str, float | None]) -> str:
    return RunSummary("r", "p", "0", (), metrics).as_text()


def test_a_measured_judge_stands_below_the_scores() -> None:
    shown = text(METRICS)
    told = "judge: right 0.800 on average over 2 questions, 0.700 at worst (addressed); AUC 0.950"
    assert shown.index("0.500") < shown.index(told)
    assert "zero-shot" not in shown
    both = text({**METRICS, "zero_shot_accuracy/beer": 0.25, "zero_shot_auc/beer": None})
    assert (
        "zero-shot: right 0.250 on average over 1 questions, 0.250 at worst (beer); AUC -" in both
    )


def test_questions_are_no_systems() -> None:
    assert "addressed " not in text(METRICS).split("judge:")[0]


def test_systems_stand_from_untrained_to_trained_and_others_after() -> None:
    systems = ("another", "base", "dpo", "ica", "sft")
    shown = text({f"cosa_score/{system}": 0.5 for system in systems}).splitlines()
    assert [line.split()[0] for line in shown[-5:]] == ["base", "ica", "sft", "dpo", "another"]


def test_declines_stand_below_the_scores_by_what_was_asked() -> None:
    declined: dict[str, float | None] = {
        "declined_allowed/dpo": 0.1,
        "declined_disallowed/dpo": 0.8,
        "declined_allowed/ica": 0.3,
        "declined_disallowed/ica": None,
    }
    lines = text({"cosa_score/dpo": 0.5, **declined}).splitlines()
    assert [line.split() for line in lines[-3:]] == [
        ["declined", "if", "allowed", "forbidden"],
        ["ica", "0.300", "-"],
        ["dpo", "0.100", "0.800"],
    ]
    assert "declined" not in text({"cosa_score/dpo": 0.5})


def test_an_unmeasured_judge_is_not_mentioned() -> None:
    assert "right" not in text({"cosa_score/dpo": 0.5})


@pytest.mark.parametrize("trained", [True, False])
def test_trained_models_are_named_for_programs(tmp_path: Path, trained: bool) -> None:
    manifest = StepManifest(
        step="training", fingerprint="0", storage="file:///x", models={"dpo": "file:///x/m"}
    )
    path = tmp_path / "training.json"
    path.write_text(manifest.model_dump_json())
    artifact = RuntimeArtifact(name="training", type={}, uri=str(path), metadata={})
    outputs = TaskOutputs({}, {"training": artifact}) if trained else None
    report = TaskReport("training", 1.0, 0 if trained else 70, 1, outputs)
    summary = json.loads(summarise("r", "p", "0", [report]).as_json())
    assert summary["models"] == ({"dpo": "file:///x/m"} if trained else {})


def test_the_data_card_and_the_report_are_named_where_they_were_written(tmp_path: Path) -> None:
    page = tmp_path / "data_card"
    page.write_text("<html>")
    found = {
        name: RuntimeArtifact(name=name, type={}, uri=str(tmp_path / name), metadata={})
        for name in ("data_card", "report")
    }
    report = TaskReport("pairing", 1.0, 0, 1, TaskOutputs({}, found))
    summary = summarise("r", "p", "0", [report])
    assert json.loads(summary.as_json())["data_card"] == str(page)
    assert summary.as_text().endswith(f"data card: {page}")
    assert "report:" not in summary.as_text()


def test_the_gates_verdict_stands_last_where_there_was_a_gate() -> None:
    assert "gate:" not in text(METRICS)
    assert "\ngate: passed" in text({**METRICS, "gate_passed": 1.0, "gate_failed_checks": 0.0})
    failed = text({**METRICS, "gate_passed": 0.0, "gate_failed_checks": 3.0})
    assert "\ngate: failed checks: 3, see the report" in failed
    assert "gate_passed" not in failed
