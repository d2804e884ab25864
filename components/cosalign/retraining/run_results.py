"""How a run ended and what it found, read from what it left in storage.

A run is known by the digest of its run config: its steps note their results under that
(``runtime/result_notes.py``), whoever carried them out. What counts is the evaluation: its gate
says which regions let the model pass, its scorecard the scores, and the model pointer whether the
model was promoted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cosalign.domain.errors import UserError
from cosalign.retraining.run_lane import Ending, Measure, RunOutcome, RunPlan
from cosalign.retraining.submitters import SubmittedRun
from cosalign.runtime.permanent_failure import permanent_failures
from cosalign.runtime.result_notes import run_record_uri
from cosalign.runtime.run_record import read_run_record
from cosalign.runtime.step import StepManifest, parse_manifest
from cosalign.store.gate_file import StoredGate, read_gate
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import Storage, read_uri

CONTROL = "control"
"""The suite of the regions' configs, as scorecards name it."""

EVERYWHERE = frozenset({"canaries", "gate"})
"""Rules that speak of the measuring itself: where one fails, nothing is known of any config."""
_SHOWN = 10
"""Failed checks that a message names; the report has all of them."""


def outcome_of_run(
    storage: Storage, plan: RunPlan, run: SubmittedRun | None, pointer: ModelPointer
) -> RunOutcome:
    """What became of a run that ended.

    Args:
        storage: The storage root.
        plan: What it was to do.
        run: What the submitter says of it; ``None`` where it knows it no longer.
        pointer: The pointer that the run may have moved.
    """
    if run is None:
        return RunOutcome(ending="lost", message="its server knows it no longer")
    if run.status != "succeeded":
        return _failed(storage, run)
    try:
        return _succeeded(storage, plan, pointer)
    except UserError as problem:
        return RunOutcome(ending="wrong", message=f"it ended well, and then: {problem}")


def _failed(storage: Storage, run: SubmittedRun) -> RunOutcome:
    ending: Ending = "cancelled" if run.status == "cancelled" else "failed"
    reasons = [failure.reason for failure in permanent_failures(storage, f"/{run.run_id}/")]
    if ending == "failed" and (run.wrong or reasons):
        ending = "wrong"
    return RunOutcome(ending=ending, message="; ".join(reasons) or run.message)


def _succeeded(storage: Storage, plan: RunPlan, pointer: ModelPointer) -> RunOutcome:
    uri = run_record_uri(storage, plan.config_digest)
    manifest = parse_manifest(read_uri(uri), uri) if uri else None
    if uri is None or manifest is None or not {"gate", "scores"} <= manifest.files.keys():
        return RunOutcome(
            ending="wrong",
            message="it left no gate: evaluation.systems has to hold gate.candidate",
        )
    gate = read_gate(storage, manifest.files["gate"])
    model = gate.file.model.digest
    if plan.kind == "evaluate" and model != plan.model:
        return RunOutcome(ending="failed", message="its result is of another model; measured again")
    broken = [f"{c['rule']}:{c['code']}" for c in gate.file.checks
              if c["rule"] in EVERYWHERE and not c["passed"]]  # fmt: skip
    if plan.kind == "evaluate" and broken:
        # To train because the judge is unwell would be the wrong cure.
        return RunOutcome(
            ending="wrong", model=model, record=uri, gate=gate.uri, gate_sha256=gate.sha256,
            message=f"the measuring itself did not pass its gate: {', '.join(broken)}",
        )  # fmt: skip
    pairs = 0 if plan.kind == "evaluate" else _pairs(storage, uri)
    return RunOutcome(
        ending="succeeded", model=model, passed=gate.file.passed, record=uri,
        promoted=plan.kind != "evaluate" and _is_current(pointer, model),
        gate=gate.uri, gate_sha256=gate.sha256, measures=_measures(storage, manifest, gate, plan),
        message=_failures(gate), pairs=pairs,
    )  # fmt: skip


def _failures(gate: StoredGate) -> str:
    """The checks that failed, with their places: whoever waits for a model sees for whom."""
    failed = [
        f"{check['rule']}:{check['code']}" + (f" ({check['where']})" if check["where"] else "")
        for check in gate.file.checks
        if not check["passed"]
    ]
    more = f", and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    return ", ".join(failed[:_SHOWN]) + more


def _is_current(pointer: ModelPointer, model: str) -> bool:
    current = pointer.settle()
    return current is not None and current.digest == model


def _pairs(storage: Storage, uri: str) -> int:
    """Pairs that a training run made."""
    try:
        pairing = read_run_record(storage, uri).manifests["pairing"]
    except UserError:
        # A run of an earlier release: it can be promoted, and not be extended.
        return 0
    rows = pairing.tables["pairs"].rows if "pairs" in pairing.tables else 0
    # An increment's table holds the extended run's pairs too.
    return pairing.counts.get("pairs_added", rows)


def _measures(
    storage: Storage, manifest: StepManifest, gate: StoredGate, plan: RunPlan
) -> dict[str, Measure]:
    """What was measured, by demand."""
    card: Mapping[str, Any] = json.loads(storage.read_bytes(manifest.files["scores"]))
    parts = {
        name: part for part in card["configs"] if part["suite"] == CONTROL for name in part["names"]
    }
    return {
        demand: _measure(plan.names[demand], parts.get(plan.names[demand]), gate)
        for demand in plan.covers
    }


def _measure(name: str, part: Mapping[str, Any] | None, gate: StoredGate) -> Measure:
    if part is None:
        return Measure(followed=False, codes=("coverage:not_measured",))
    score = part["scores"].get(gate.file.candidate) or {}
    codes = tuple(dict.fromkeys(_codes(gate.file.checks, {name, str(part["label"])})))
    return Measure(
        followed=not codes, score=score.get("score"), low=score.get("low"),
        high=score.get("high"), codes=codes,
    )  # fmt: skip


def _codes(checks: Iterable[Mapping[str, Any]], places: set[str]) -> Iterable[str]:
    """Checks that one config did not pass; places are its names in the checks."""
    for check in checks:
        if not check["passed"] and (check["where"] in places or check["rule"] in EVERYWHERE):
            yield f"{check['rule']}:{check['code']}"
