"""The audit log's rows on what reconcile does: who allowed which config, and which runs followed.

What admits a config is kept with its row, the signed statement, its signatures and the file that
said who may approve, so that an auditor can check them years later without the repository that they
came from. Approvals, what went without them, and refusals are recorded before the accepted set is
published: who dies in between records nothing twice. All else follows from guarded histories, also
where another process died before its row.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.retraining.accepted_audit import WAIVED, waiver_identity
from cosalign.retraining.admission import Reason
from cosalign.retraining.admitted_configs import Admitted, Verdict
from cosalign.retraining.approvers import Approvers
from cosalign.retraining.run_lane import LaneEntry, RunLane
from cosalign.retraining.stored_approvals import (
    APPROVED,
    approvers_path,
    keep_approvers,
    keep_statement,
)
from cosalign.store.accepted_configs import AcceptedConfig, AcceptedConfigs, AcceptedSet
from cosalign.store.audit_log import READERS, AuditLog, Record
from cosalign.store.history_audit import Row, artifact, record_history
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.promotion_audit import record_choices
from cosalign.store.storage import Storage

_SHOWN = 100


def record_verdicts(
    accepted: AcceptedSet, admitted: Admitted, approvers: Approvers, number: int, by: str
) -> None:
    """Records once each approval, each config admitted without, each in doubt, and each refusal.

    Args:
        accepted: The set that is about to be published.
        admitted: What became of the configs that are wanted.
        approvers: Who may propose and approve.
        number: Number of the set that they were judged against; 0 for none.
        by: Who judged.
    """
    storage = accepted.storage
    file = keep_approvers(storage, approvers)
    approved = [v for v in admitted.verdicts if v.reason == Reason.APPROVED]
    with ThreadPoolExecutor(READERS) as pool:
        records = list(pool.map(lambda verdict: _approval(storage, verdict, file), approved))
    waived = {v.desired.key for v in admitted.verdicts if v.reason == Reason.APPROVALS_WAIVED}
    for config in admitted.accepted:
        if config.key in waived:
            identity = waiver_identity(accepted.name, number, config)
            records.append(_unapproved(WAIVED, config, identity, file, by, after=config.terms))
    for config, why in admitted.unproven:
        identity = f"{accepted.name}/{number}/{'/'.join(config.key)}"
        records.append(_unapproved("ConfigUnproven", config, identity, file, by, why=why))
    records += [_refusal(accepted.name, v, by) for v in admitted.verdicts if v.refused]
    AuditLog(storage).append_all(records)


def record_histories(accepted: AcceptedSet, pointer: ModelPointer, lanes: Iterable[RunLane]) -> int:
    """Gives all that was published, promoted and run its rows; gives how many were added."""
    log = AuditLog(accepted.storage)
    added = record_history(accepted, log, lambda now, then: _accepted_row(accepted, now, then))
    added += record_choices(pointer)
    return added + sum(record_history(lane, log, partial(_run_row, lane)) for lane in lanes)


def _approval(storage: Storage, verdict: Verdict, file: dict[str, str]) -> Record:
    admission = verdict.admission
    assert admission is not None  # noqa: S101  it was approved
    signed = next(s for s in verdict.desired.approvals if s.digest == admission.statement)
    details: dict[str, Json] = {
        "effect": admission.change.effect.value, "approvers": list(admission.approvers),
        "regions": list(admission.change.regions), "before": admission.change.before,
        "after": admission.change.after, "demands": signed.statement.demands,
        "namespace": verdict.desired.namespace, "statement": signed.digest,
        "previous": signed.statement.previous, "approvers_file": next(iter(file.values())),
        "parts": [[part.field, part.effect.value] for part in admission.change.parts],
    }  # fmt: skip
    return Record(
        APPROVED, verdict.desired.name, by=admission.author or "", identity=signed.digest,
        artifacts={**keep_statement(storage, signed), **file}, details=details,
    )  # fmt: skip


def _unapproved(
    event: str, config: AcceptedConfig, identity: str, file: dict[str, str], by: str, **more: Json
) -> Record:
    """A config that stands, or stood, in the accepted set with nobody's approval."""
    details: dict[str, Json] = {
        "namespace": config.namespace, "region": config.region,
        "demands": config.digest, "statement": config.statement,
        "approvers": list(config.approvers), "approvers_file": next(iter(file.values())), **more,
    }  # fmt: skip
    return Record(event, config.name, by=by, identity=identity, artifacts=file, details=details)


def _refusal(name: str, verdict: Verdict, by: str) -> Record:
    """A refusal; another document, step of the config's history or signature is another one."""
    desired, admission = verdict.desired, verdict.admission
    change = admission.change if admission else None
    details: dict[str, Json] = {
        "reason": verdict.reason, "after": change.after if change else None,
        "before": change.before if change else None, "namespace": desired.namespace,
        "effect": change.effect.value if change else None,
        "author": admission.author if admission else None,
        "approvers": list(admission.approvers) if admission else [],
        "statement": admission.statement if admission else None, "revision": desired.revision,
    }  # fmt: skip
    identity = fingerprint("config-refused", [name, desired.name, details, desired.problem])
    return Record("ConfigRefused", desired.name, by=by, identity=identity, details=details)


def _accepted_row(history: AcceptedSet, now: AcceptedConfigs, then: AcceptedConfigs | None) -> Row:
    before = {config.key: config for config in then.configs} if then else {}
    after = {config.key: config for config in now.configs}
    changed = [c for key, c in after.items() if key not in before or not c.accepted_as(before[key])]
    keys = {config.key for config in changed}
    followed = [
        c for key, c in after.items()
        if key not in keys and c.followed_by != before[key].followed_by
    ]  # fmt: skip
    details: dict[str, Json] = {
        "set": now.digest, "configs": len(after), "accepted": len(changed),
        "changes": [_shown(config) for config in changed[:_SHOWN]],
        "withdrawn": ["/".join(key) for key in sorted(before.keys() - after.keys())][:_SHOWN],
        "followed": {"/".join(c.key): c.followed_by for c in followed[:_SHOWN]},
        "approvers_file": now.approvers_file,
    }  # fmt: skip
    event = "ConfigsFollowed" if followed or then is None else "ApproversChanged"
    if changed or before.keys() - after.keys():
        event = "ConfigsAccepted"
    file = history.storage.uri_of(approvers_path(now.approvers_file or ""))
    return Row(event, history.name, now.by, now.at, artifact(history.storage, file), details)


def _shown(config: AcceptedConfig) -> Json:
    return {
        "name": "/".join(config.key), "region": config.region, "digest": config.digest,
        "approvers": list(config.approvers), "statement": config.statement,
    }  # fmt: skip


def _run_row(lane: RunLane, entry: LaneEntry, before: LaneEntry | None) -> Row:  # noqa: ARG001
    plan, outcome = entry.plan, entry.outcome
    details: dict[str, Json] = {
        "lane": lane.lane, "kind": plan.kind, "reason": plan.reason, "attempt": entry.attempt,
        "run_id": entry.run_id, "inputs": plan.inputs, "config": plan.config_digest,
        "current": plan.model, "covers": len(plan.covers), "about": list(plan.demands[:_SHOWN]),
    }  # fmt: skip
    artifacts = artifact(lane.storage, plan.config_uri)
    if outcome is not None:
        details |= {
            "ending": outcome.ending, "model": outcome.model, "passed": outcome.passed,
            "promoted": outcome.promoted, "pairs": outcome.pairs, "record": outcome.record,
        }  # fmt: skip
        for uri in (outcome.gate, outcome.record):
            artifacts |= artifact(lane.storage, uri) if uri else {}
    event = f"Run{entry.phase.capitalize()}"
    return Row(event, entry.run, entry.holder, entry.at, artifacts, details)
