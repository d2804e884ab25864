"""What reconcile did, into the audit log: from the histories, with nothing left out or doubled.

Every change of the accepted set and every step of a run is an entry of a history already. Each gets
a row with an identity made of the history and the number, so whoever records it, after however many
crashes, it stands in the log once and completely. A set that changes at a thousand places is one
decision and one row. Refusals, which change no history, are recorded once for each version and
reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cosalign.domain.errors import UserError
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.retraining.admitted_configs import Verdict
from cosalign.retraining.reconcile import Tick
from cosalign.retraining.run_lane import LaneEntry, Measure, RunLane
from cosalign.retraining.status_file import Told
from cosalign.runtime.run_record import read_run_record
from cosalign.runtime.step import parse_manifest
from cosalign.store.accepted_configs import AcceptedConfig, AcceptedConfigs, AcceptedSet
from cosalign.store.audit_log import AuditLog
from cosalign.store.storage import Storage, read_uri


def audit(storage: Storage, tick: Tick, name: str, by: str, told: Told) -> Told:
    """Records what happened since, and says how far the log has come.

    Args:
        storage: The storage root.
        tick: The newest look.
        name: As of the model that is reconciled.
        by: In whose name.
        told: How far the log had come.
    """
    audit_log = AuditLog(storage)
    trail = _Trail(storage, audit_log, name, by)
    verdicts = {verdict.desired.key: verdict for verdict in tick.verdicts}
    accepted = trail.accepted(AcceptedSet(storage, name), told.accepted, verdicts)
    evaluate = trail.lane(RunLane(storage, name, "evaluate"), told.evaluate)
    train = trail.lane(RunLane(storage, name, "train"), told.train)
    return Told(accepted=accepted, evaluate=evaluate, train=train)


def audit_refusals(storage: Storage, name: str, by: str, refused: Iterable[Verdict]) -> None:
    """Records refusals in one row; the same ones again are not recorded twice.

    Args:
        storage: The storage root.
        name: As of the model that is reconciled.
        by: In whose name.
        refused: Those that are new.
    """
    rows = [_refusal(verdict) for verdict in refused]
    if not rows:
        return
    subject = str(rows[0]["name"]) if len(rows) == 1 else name
    identity = f"{name}:{fingerprint('refusals', rows)}"
    AuditLog(storage).append("ConfigsRefused", subject, by=by, identity=identity, configs=rows)


def _refusal(verdict: Verdict) -> dict[str, Json]:
    desired, admission = verdict.desired, verdict.admission
    spec: Json = desired.document.get("spec")
    return {
        "name": desired.name, "namespace": desired.namespace, "reason": verdict.reason,
        "version": fingerprint("config-version", spec),
        "effect": str(admission.change.effect) if admission else None,
        "approvers": list(admission.approvers) if admission else [],
    }  # fmt: skip


class _Trail:
    """Rows from histories."""

    def __init__(self, storage: Storage, audit_log: AuditLog, name: str, by: str) -> None:
        self.storage = storage
        self.log = audit_log
        self.name = name
        self.by = by

    def accepted(
        self, accepted: AcceptedSet, after: int, verdicts: Mapping[tuple[str, str], Verdict]
    ) -> int:
        """Rows of the sets behind a number; gives the number of the newest."""
        head = accepted.settle()
        number = head.number if head else 0
        before = accepted.entry(after) if after else None
        for each in range(after + 1, number + 1):
            now = accepted.entry(each)
            self._changes(before, now, verdicts)
            before = now
        return number

    def _changes(
        self,
        before: AcceptedConfigs | None,
        now: AcceptedConfigs,
        verdicts: Mapping[tuple[str, str], Verdict],
    ) -> None:
        old = {config.key: config for config in before.configs} if before else {}
        new = {config.key: config for config in now.configs}
        changes = [
            _acceptance(config, old.get(key), verdicts.get(key))
            for key, config in new.items()
            if key not in old or not config.accepted_as(old[key])
        ]
        gone = [_named(config) for key, config in old.items() if key not in new]
        if not changes and not gone:
            return  # Which model follows them changed, and that is a run's row.
        names = [row["name"] for row in (*changes, *gone)]
        self._append(
            "ConfigsAccepted" if changes else "ConfigsWithdrawn",
            str(names[0]) if len(names) == 1 else self.name, f"accepted:{now.number}",
            {"set": now.number, "set_digest": now.digest, "accepted": changes, "withdrawn": gone},
        )  # fmt: skip

    def lane(self, lane: RunLane, after: int) -> int:
        """Rows of a lane's steps behind a number; gives the number of the newest."""
        head = lane.settle()
        number = head.number if head else 0
        for each in range(after + 1, number + 1):
            self._step(lane.lane, lane.entry(each))
        return number

    def _step(self, lane: str, entry: LaneEntry) -> None:
        plan, outcome = entry.plan, entry.outcome
        details: dict[str, Json] = {
            "kind": plan.kind, "reason": plan.reason, "attempt": entry.attempt,
            "run_id": entry.run_id, "run_config": plan.config_digest, "model": plan.model,
            "configs": {demand: plan.names.get(demand) for demand in plan.demands},
        }  # fmt: skip
        artifacts: dict[str, str] = {}
        if outcome is not None:
            details |= {
                "ending": outcome.ending, "message": outcome.message, "passed": outcome.passed,
                "measured_model": outcome.model, "promoted": outcome.promoted,
                "measures": {key: _plain(m) for key, m in outcome.measures.items()},
            }  # fmt: skip
            artifacts = self._artifacts(entry)
        event = {"claimed": "RunClaimed", "submitted": "RunSubmitted", "ended": "RunEnded"}
        self._append(event[entry.phase], entry.run, f"{lane}:{entry.number}", details, artifacts)
        if outcome is not None and outcome.promoted:
            self._append(
                "ModelPromoted", str(outcome.model), f"{lane}:{entry.number}",
                {"run": entry.run, "replaces": plan.model}, artifacts,
            )  # fmt: skip

    def _artifacts(self, entry: LaneEntry) -> dict[str, str]:
        """Everything that a run's end rests on: its gate, and the tables of all of its steps."""
        outcome = entry.outcome
        if outcome is None or outcome.record is None or outcome.gate is None:
            return {}
        root = f"{self.storage.uri}/"
        found = {}
        if outcome.gate_sha256 is not None and outcome.gate.startswith(root):
            found[outcome.gate.removeprefix(root)] = outcome.gate_sha256
        try:
            manifests = list(read_run_record(self.storage, outcome.record).manifests.values())
        except UserError:
            # An evaluation of a model alone leads to no training.
            manifests = [parse_manifest(read_uri(outcome.record), outcome.record)]
        for manifest in manifests:
            found |= {table.path: table.sha256 for table in manifest.tables.values()}
        return found

    def _append(
        self,
        event: str,
        subject: str,
        identity: str,
        details: Mapping[str, Json],
        artifacts: Mapping[str, str] | None = None,
    ) -> None:
        rows: dict[str, Any] = dict(details)
        self.log.append(
            event, subject, by=self.by, identity=f"{self.name}:{identity}", artifacts=artifacts,
            **rows,
        )  # fmt: skip


def _named(config: AcceptedConfig) -> dict[str, Json]:
    return {
        "name": config.name, "namespace": config.namespace, "region": config.region,
        "digest": config.digest,
    }  # fmt: skip


def _acceptance(
    config: AcceptedConfig, earlier: AcceptedConfig | None, verdict: Verdict | None
) -> dict[str, Json]:
    row: dict[str, Json] = {
        **_named(config), "before": earlier.digest if earlier else None,
        "statement": config.statement, "approvers": list(config.approvers),
    }  # fmt: skip
    admission = verdict.admission if verdict is not None and verdict.accepted else None
    if admission is not None and admission.statement == config.statement:
        row |= {"author": admission.author, "effect": str(admission.change.effect)}
    return row


def _plain(measure: Measure) -> Json:
    return {"followed": measure.followed, "score": measure.score, "codes": list(measure.codes)}
