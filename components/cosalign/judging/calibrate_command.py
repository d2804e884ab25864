"""What ``cosalign judge calibrate`` does: open the run's judge, have it answer, write files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import RunConfig, ScoringGroup
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.judging.calibration import MEASURED_FILE, calibration_bytes
from cosalign.judging.calibration_fit import ThresholdRule
from cosalign.judging.calibration_report import render_calibration_report
from cosalign.judging.judge_calibration import (
    CalibrationOrder,
    CalibrationOutcome,
    calibrate_judge,
    plain_outcome,
)
from cosalign.judging.judge_sensitivity import variations
from cosalign.judging.labelled_examples import LabelledExamples, read_examples
from cosalign.judging.open_judge import open_judge
from cosalign.runtime.run_config import load_run_config
from cosalign.runtime.safety_config_files import run_taxonomy
from cosalign.store.storage import open_storage, write_uri


@dataclass(frozen=True)
class CalibrateRequest:
    """The command's arguments; see its help."""

    examples: str
    profile: str
    overrides: tuple[str, ...] = ()
    rule: str = "f1"
    sensitivity_rows: int = 100
    rows: int = 0
    seed: int = 0


def run_calibrate(request: CalibrateRequest, out: str) -> tuple[CalibrationOutcome, list[str]]:
    """Calibrates the judge of a run config.

    Returns:
        The outcome, and the addresses of the files written.

    Raises:
        UserError: The run config, the examples or the judge are wrong, or the judge was fitted on
            prompts that stand among the examples.
    """
    rule = ThresholdRule.parse(request.rule)
    config = load_run_config(request.profile, request.overrides)
    taxonomy = run_taxonomy(config.taxonomy)
    examples = _examples(request, taxonomy)
    outcome = _calibrated(config, taxonomy, examples, request, rule)
    plain = plain_outcome(outcome)
    measured = f"{json.dumps(plain, indent=2, sort_keys=True, allow_nan=False)}\n"
    files = {
        "calibration.json": calibration_bytes(outcome.calibration),
        MEASURED_FILE: measured.encode(),
        "report.html": render_calibration_report(plain, request.rule).encode(),
    }
    folder = out.rstrip("/")
    for name, data in files.items():
        write_uri(f"{folder}/{name}", data)
    return outcome, [f"{folder}/{name}" for name in files]


def _examples(request: CalibrateRequest, taxonomy: Taxonomy) -> LabelledExamples:
    examples = read_examples(request.examples, taxonomy, may_leave_open=True)
    if request.rows < 0 or request.sensitivity_rows < 0:
        raise ConfigError("--rows and --sensitivity-rows must not be negative")
    if request.rows:
        return replace(examples, rows=examples.sample(request.rows, request.seed))
    return examples


def _calibrated(
    config: RunConfig,
    taxonomy: Taxonomy,
    examples: LabelledExamples,
    request: CalibrateRequest,
    rule: ThresholdRule,
) -> CalibrationOutcome:
    # A fitted classifier reads no question: neither order nor wording can move it.
    asks = config.judging.examples is None and request.sensitivity_rows > 0
    order = CalibrationOrder(
        rule=rule,
        variations=variations(taxonomy, request.seed) if asks else (),
        sensitivity_rows=request.sensitivity_rows,
        seed=request.seed,
    )
    # The judge's own probabilities are measured, whatever the run makes of them.
    settings = ScoringGroup(
        threshold=config.scoring.threshold, min_label_mass=config.scoring.min_label_mass
    )
    storage = open_storage(config.storage.root)
    with EngineHost(config.models.engine) as host:
        judge = open_judge(config, taxonomy, storage, host)
        return calibrate_judge(judge, taxonomy, examples, settings, order)
