"""What a run says about itself at its end, to people (a table) and to programs (``summary.json``).

Made from the task reports alone, so that a run that failed half-way reports in the same form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from cosalign.pipelines.local_run import TaskReport
from cosalign.pipelines.resolution import RuntimeArtifact
from cosalign.runtime.step import read_manifest

TRAINING = "training"
EVALUATION = "evaluation"
REPORT = "report"
DATA_CARD = "data_card"
CURVES = "training_curves"
SCORE = "cosa_score"
COLUMNS = {
    SCORE: "CoSA-Score",
    "cosa_score_low": "interval from",
    "cosa_score_high": "to",
    "coverage": "coverage",
    "helpful_safe": "helpful+safe",
    "helpful_unsafe": "helpful+unsafe",
}
"""Metrics that the terminal's table shows, and their titles."""

DECLINED = {"allowed": "allowed", "partial": "partly allowed", "disallowed": "forbidden"}
"""Prompt types, and what the terminal calls them; the metric is ``declined_TYPE/SYSTEM``."""

SYSTEMS = ("base", "ica", "sft", "dpo")
"""The order of the table's rows, from untrained to trained; others come after."""

JUDGES = {"judge": "judge", "zero_shot": "zero-shot"}
"""Prefixes of the metrics that say how right a judge is, and what the terminal calls it."""


@dataclass(frozen=True)
class RunSummary:
    """How a run went.

    Attributes:
        run_id: The run's name.
        pipeline: The pipeline's name.
        config_digest: Digest of the resolved run config.
        reports: One a task that was started, in order.
        metrics: The evaluation's figures; ``None`` where one could not be measured.
        models: Addresses of the trained models by name; empty where training did not end.
        finished: When the run ended, ISO 8601 in UTC; run ids that people choose tell no time.
        report: The report's path, where there is one.
        data_card: The data card's, likewise.
        training_curves: The training curves', likewise.
        fingerprints: Fingerprints of the steps that ended, by step.
        record: Address of the manifest that leads to all results of the run; ``None`` where it did
            not come as far as training.
    """

    run_id: str
    pipeline: str
    config_digest: str
    reports: tuple[TaskReport, ...]
    metrics: dict[str, float | None] = field(default_factory=dict)
    report: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    finished: str = ""
    data_card: str | None = None
    training_curves: str | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    record: str | None = None

    def as_json(self) -> bytes:
        """The content of ``summary.json``."""
        stages = [
            {
                "name": report.task,
                "seconds": round(report.seconds, 3),
                "exit_code": report.exit_code,
                "attempts": report.attempts,
                "reused": report.reused,
            }
            for report in self.reports
        ]
        content = {
            "run_id": self.run_id,
            "pipeline": self.pipeline,
            "finished": self.finished,
            "run_config_digest": self.config_digest,
            "stages": stages,
            "metrics": self.metrics,
            "models": self.models,
            "fingerprints": self.fingerprints,
            "record": self.record,
            "report": self.report,
            "data_card": self.data_card,
            "training_curves": self.training_curves,
        }
        return f"{json.dumps(content, indent=2)}\n".encode()

    def as_text(self) -> str:
        """The tables for the terminal."""
        lines = _stage_lines(self.reports)
        if self.reports and all(report.reused for report in self.reports):
            lines.append("nothing to do: every stage was already done")
        if self.metrics:
            lines += ["", *_metric_lines(self.metrics), *_declined_lines(self.metrics)]
            lines += _judge_lines(self.metrics) + _gate_lines(self.metrics)
        pages = {
            "data card": self.data_card,
            "training curves": self.training_curves,
            "report": self.report,
        }
        lines += ["", *(f"{name}: {path}" for name, path in pages.items() if path)]
        return "\n".join(lines).rstrip("\n")


def summarise(
    run_id: str, pipeline: str, config_digest: str, reports: Sequence[TaskReport]
) -> RunSummary:
    """Gathers the summary of a run; reads the evaluation's manifest where there is one.

    Raises:
        DataError: The evaluation's artifact is no step manifest.
    """
    evaluation = _artifact(reports, EVALUATION)
    metrics = read_manifest(Path(evaluation.path)).metrics if evaluation else {}
    report, data_card = _page(reports, REPORT), _page(reports, DATA_CARD)
    trained = _artifact(reports, TRAINING)
    models = read_manifest(Path(trained.path)).models if trained else {}
    return RunSummary(
        run_id, pipeline, config_digest, tuple(reports), metrics, report, models,
        data_card=data_card, training_curves=_page(reports, CURVES),
        fingerprints=_fingerprints(reports),
    )  # fmt: skip


def _fingerprints(reports: Sequence[TaskReport]) -> dict[str, str]:
    found = {report.task: _artifact(reports, report.task) for report in reports}
    return {
        name: str(artifact.metadata["fingerprint"])
        for name, artifact in found.items()
        if artifact and "fingerprint" in artifact.metadata
    }


def _page(reports: Sequence[TaskReport], name: str) -> str | None:
    found = _artifact(reports, name)
    return found.path if found and Path(found.path).is_file() else None


def _artifact(reports: Sequence[TaskReport], name: str) -> RuntimeArtifact | None:
    found = [
        r.outputs.artifacts[name] for r in reports if r.outputs and name in r.outputs.artifacts
    ]
    return found[-1] if found else None


def _stage_lines(reports: Sequence[TaskReport]) -> list[str]:
    width = max([len("stage"), *(len(report.task) for report in reports)])
    rows = [f"{r.task:<{width}}  {r.seconds:>9.1f}  {_result(r)}" for r in reports]
    return [f"{'stage':<{width}}  {'seconds':>9}  result", *rows]


def _result(report: TaskReport) -> str:
    if report.exit_code:
        return f"failed (exit code {report.exit_code})"
    if report.reused:
        return "nothing to do"
    return "done" if report.attempts == 1 else f"done, attempt {report.attempts}"


def _metric_lines(metrics: dict[str, float | None]) -> list[str]:
    """One row a system; metrics are named ``NAME/SYSTEM``. All of them are in ``summary.json``."""
    return _table("system", COLUMNS, metrics, SCORE)


def _declined_lines(metrics: dict[str, float | None]) -> list[str]:
    """Which share of each type of prompt a system declined; without it a score misleads."""
    columns = {
        f"declined_{kind}": title
        for kind, title in DECLINED.items()
        if any(name.startswith(f"declined_{kind}/") for name in metrics)
    }
    if not columns:
        return []
    return ["", *_table("declined if", columns, metrics, next(iter(columns)))]


def _table(
    corner: str, columns: dict[str, str], metrics: dict[str, float | None], present: str
) -> list[str]:
    """Rows of the systems that have the metric ``present``."""
    systems = list(dict.fromkeys(n.partition("/")[2] for n in metrics if n.count("/") == 1))
    known = [s for s in SYSTEMS if s in systems]
    ordered = [*known, *(s for s in systems if s not in known)]
    shown = [s for s in ordered if f"{present}/{s}" in metrics]
    width = max([len(corner), *(len(system) for system in shown)])
    header = f"{corner:<{width}}" + "".join(f"  {title:>14}" for title in columns.values())
    rows = [
        f"{system:<{width}}"
        + "".join(f"  {_figure(metrics.get(f'{name}/{system}')):>14}" for name in columns)
        for system in shown
    ]
    return [header, *rows]


def _judge_lines(metrics: dict[str, float | None]) -> list[str]:
    """One line a judge that was measured on labelled examples."""
    lines = []
    for prefix, name in JUDGES.items():
        right = _by_question(metrics, f"{prefix}_accuracy/")
        auc = _by_question(metrics, f"{prefix}_auc/")
        if right:
            worst = min(right, key=lambda question: right[question])
            mean_auc = _figure(fmean(auc.values())) if auc else "-"
            lines.append(
                f"{name}: right {fmean(right.values()):.3f} on average over {len(right)} "
                f"questions, {right[worst]:.3f} at worst ({worst}); AUC {mean_auc}"
            )
    return ["", *lines] if lines else []


def _gate_lines(metrics: dict[str, float | None]) -> list[str]:
    """Whether the gate let the candidate pass; nothing where there was none."""
    if "gate_passed" not in metrics:
        return []
    failed = int(metrics.get("gate_failed_checks") or 0)
    verdict = "passed" if metrics["gate_passed"] else f"failed checks: {failed}, see the report"
    return ["", f"gate: {verdict}"]


def _by_question(metrics: dict[str, float | None], prefix: str) -> dict[str, float]:
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix) and value is not None
    }


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
