"""From what regions want to what is accepted: every config judged, the next accepted set made.

A version that is refused changes nothing: what was accepted before stays, as long as it is in
force. A config that is wanted no more, or has run out, leaves the set at once, with nobody's
approval: to stop using a policy can wait for no one, and to use it again takes an approval anew. So
does one that nobody is known to have approved where approvals are asked for. Nor can that wait for
anybody else's config: one that cannot be judged (a torn reading of its prose, a taxonomy that is
known no longer) stays as it is, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from cosalign.domain.config_change import PolicyReader
from cosalign.domain.errors import DataError, SafetyConfigError, UserError
from cosalign.domain.safety_config import SafetyConfig, Spec, safety_config_of
from cosalign.domain.validation import validated
from cosalign.retraining.admission import Accepted, Admission, Reason, admit
from cosalign.retraining.approvers import Approvers
from cosalign.retraining.desired_configs import DesiredConfig, DesiredConfigs, Key, Taxonomies
from cosalign.store.accepted_configs import AcceptedConfig, AcceptedConfigs, accepted_config

INVALID = "Invalid"
"""The reason of a config that cannot be read."""
UNJUDGED = "Unjudged"
"""The reason of a config that can be read, where what it has to be judged by cannot."""

WAITING = frozenset({str(Reason.NOT_YET_EFFECTIVE)})
"""Reasons for which a config is not accepted and nobody has to do anything."""


@dataclass(frozen=True)
class Verdict:
    """What became of one wanted config.

    Attributes:
        desired: The config.
        accepted: Whether it stands in the accepted set as it is wanted.
        reason: Why, in one word.
        message: The same for people.
        admission: What was weighed; ``None`` where it could not be read.
    """

    desired: DesiredConfig
    accepted: bool
    reason: str
    message: str
    admission: Admission | None = None

    @property
    def refused(self) -> bool:
        """Whether somebody has to do something before it can be accepted."""
        return not self.accepted and self.reason not in WAITING


@dataclass(frozen=True)
class Rules:
    """What configs are judged by.

    Attributes:
        approvers: Who may propose and approve.
        taxonomies: Known taxonomies by ``"name version"``.
        reader: Who reads policies in prose; without one no prose is admitted anew.
    """

    approvers: Approvers
    taxonomies: Taxonomies
    reader: PolicyReader | None = None


class TaxonomyEditedError(DataError):
    """A taxonomy says something else than when a config was accepted under it.

    That is no one config's problem: whatever stands on that taxonomy would be trained on and served
    as something that nobody approved.
    """


@dataclass(frozen=True)
class Admitted:
    """All verdicts, and the accepted set that follows from them.

    Attributes:
        verdicts: What became of each wanted config.
        accepted: What is accepted now.
        unproven: What stood in the set before and does not count as approved, and why.
    """

    verdicts: tuple[Verdict, ...]
    accepted: tuple[AcceptedConfig, ...]
    unproven: tuple[tuple[AcceptedConfig, str], ...] = ()


def admit_all(
    desired: DesiredConfigs,
    current: AcceptedConfigs | None,
    rules: Rules,
    moment: datetime,
    unproven: Mapping[Key, str],
) -> Admitted:
    """Judges every wanted config against what is accepted.

    Args:
        desired: What regions want.
        current: What is accepted now.
        rules: What is judged by.
        moment: Now.
        unproven: Why accepted configs do not count as approved (``stored_approvals.unproven``), by
            key: they are judged as if they were not accepted.
    """
    there = current.configs if current else ()
    before = {config.key: config for config in there if config.key not in unproven}
    verdicts: list[Verdict] = []
    after: dict[Key, AcceptedConfig] = {} if desired.complete else _in_force(before, moment)
    for wanted in desired.configs:
        old = before.get(wanted.key)
        statement = current.last_statement(wanted.name, wanted.namespace) if current else None
        verdict = _verdict(wanted, old, statement, rules, moment)
        if not verdict.accepted and wanted.key in unproven:
            says = f"the version before is not in force, since {unproven[wanted.key]}"
            verdict = replace(verdict, message=f"{verdict.message}; {says}")
        kept = _next(verdict, old, moment)
        after.pop(wanted.key, None)
        if kept is not None:
            after[wanted.key] = kept
        verdicts.append(verdict)
    return Admitted(
        tuple(verdicts), tuple(after[key] for key in sorted(after)),
        tuple((config, unproven[config.key]) for config in there if config.key in unproven),
    )  # fmt: skip


def parsed(config: AcceptedConfig, taxonomies: Taxonomies) -> SafetyConfig:
    """An accepted config, checked again.

    Raises:
        TaxonomyEditedError: It demands something else than what was accepted.
    """
    found = safety_config_of(config.document, f"accepted config {config.name}", taxonomies)
    if found.digest != config.digest:
        taxonomy = f"{found.spec.taxonomy.name} {found.spec.taxonomy.version}"
        raise TaxonomyEditedError(
            f"accepted config {config.name}: it demands something else than what was accepted, so "
            f"taxonomy {taxonomy} was edited in place; put it back as it was, and give what is new "
            "a version of its own that says what it supersedes. Until then nothing is done"
        )
    return found


def _accepted(
    old: AcceptedConfig | None, statement: str | None, namespace: str | None, rules: Rules
) -> Accepted:
    return Accepted(parsed(old, rules.taxonomies) if old else None, statement, namespace)


def _verdict(
    wanted: DesiredConfig,
    old: AcceptedConfig | None,
    statement: str | None,
    rules: Rules,
    moment: datetime,
) -> Verdict:
    if wanted.config is None:
        return Verdict(wanted, False, INVALID, wanted.problem)
    try:
        accepted = _accepted(old, statement, wanted.namespace, rules)
        found = admit(
            wanted.config, accepted, wanted.approvals, rules.approvers, moment, rules.reader,
            taxonomies=rules.taxonomies,
        )  # fmt: skip
    except TaxonomyEditedError:
        raise
    except UserError as problem:
        return Verdict(wanted, False, UNJUDGED, str(problem))
    return Verdict(wanted, found.accepted, str(found.reason), found.message, found)


def _next(verdict: Verdict, old: AcceptedConfig | None, moment: datetime) -> AcceptedConfig | None:
    """What is accepted of a config after its verdict."""
    wanted, admission = verdict.desired, verdict.admission
    if not verdict.accepted or admission is None or wanted.config is None:
        return old if old is not None and _is_in_force(old, moment) else None
    unchanged = old is not None and admission.reason == Reason.UNCHANGED
    return accepted_config(
        wanted.config, plain_document(wanted.document), moment.isoformat(timespec="seconds"),
        old.approvers if unchanged and old else admission.approvers, admission.statement,
    )  # fmt: skip


def plain_document(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without what a server adds, so that the same config is the same set."""
    return {key: document[key] for key in ("apiVersion", "kind", "metadata", "spec")}


def _in_force(before: Mapping[Key, AcceptedConfig], moment: datetime) -> dict[Key, AcceptedConfig]:
    return {key: config for key, config in before.items() if _is_in_force(config, moment)}


def _is_in_force(config: AcceptedConfig, moment: datetime) -> bool:
    """By its dates alone, which say so whether or not its taxonomy is known still."""
    source = f"accepted config {config.name}"
    return validated(Spec, config.document["spec"], source, SafetyConfigError).in_force(moment)
