"""The verdict on one wanted config: may it take the place of the one in force, and who said so?

Everything that acts on configs asks here first, and acts on nothing that is not admitted. The
answer depends on its arguments alone, so it is the same for two reconcilers, on a laptop and in a
dry run, and asking again is free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from cosalign.domain.config_change import (
    ConfigChange,
    Effect,
    NoReader,
    PolicyReader,
    Taxonomies,
    config_change,
)
from cosalign.domain.safety_config import SafetyConfig, moment_of
from cosalign.retraining.approvals import SignedStatement, Statement, Verified, verify_signatures
from cosalign.retraining.approvers import Approvers

CLOCK_SKEW = timedelta(minutes=10)
"""How far ahead the clock of whoever proposed a change may be."""


class Reason(StrEnum):
    """Why a config is admitted or not, as a Kubernetes condition names it."""

    UNCHANGED = "Unchanged"
    REMOVED = "Removed"
    APPROVED = "Approved"
    APPROVALS_WAIVED = "ApprovalsWaived"
    NEVER_ALLOWABLE = "NeverAllowable"
    NOT_READ = "NotRead"
    EXPIRED = "Expired"
    NOT_YET_EFFECTIVE = "NotYetEffective"
    APPROVALS_MISSING = "ApprovalsMissing"
    APPROVED_OTHERWISE = "ApprovedOtherwise"
    APPROVAL_REPLAYED = "ApprovalReplayed"
    APPROVAL_OUT_OF_DATE = "ApprovalOutOfDate"
    LOOSENS = "Loosens"
    AUTHOR_UNPROVEN = "AuthorUnproven"
    APPROVER_UNKNOWN = "ApproverUnknown"


@dataclass(frozen=True)
class Accepted:
    """What is in force of one config.

    Whoever keeps it keeps ``statement`` also when the config is removed: without it the approval
    that once added the config would be good again.

    Attributes:
        config: The version in force; ``None`` where there is none, or none any more.
        statement: SHA-256 of the statement that brought this state about; ``None`` where none did.
        namespace: The config's Kubernetes namespace; ``None`` for one from a folder.
    """

    config: SafetyConfig | None
    statement: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Admission:
    """The verdict.

    Attributes:
        accepted: Whether the wanted version may be trained on, measured and served.
        reason: Why, in one word.
        message: The same for people: what is missing, and what to do.
        change: What changes.
        approvers: Who approved, sorted.
        author: Who proposed it; ``None`` where nobody proved to have.
        statement: What :class:`Accepted` is to keep once this verdict is acted on.
    """

    accepted: bool
    reason: Reason
    message: str
    change: ConfigChange
    approvers: tuple[str, ...] = ()
    author: str | None = None
    statement: str | None = None


def admit(
    desired: SafetyConfig | None,
    accepted: Accepted,
    approvals: Iterable[SignedStatement],
    approvers: Approvers,
    moment: datetime,
    reading: PolicyReader | None,
    *,
    taxonomies: Taxonomies,
) -> Admission:
    """Says whether a wanted config may take the place of the one in force.

    Args:
        desired: The version wanted; ``None`` where its file or object is gone.
        accepted: What is in force; one of the two has to be a config.
        approvals: Statements and signatures found beside it, whatever they are about.
        approvers: Who may propose and approve.
        moment: Now.
        reading: Who reads policies in prose; prose that it does not know is not admitted.
        taxonomies: Known taxonomies by ``"name version"``.
    """
    change = config_change(accepted.config, desired, taxonomies, reading)
    verdict = _forbidden(desired, accepted, change, reading or NoReader(), taxonomies, moment)
    if verdict is None and change.effect is Effect.SAME:
        verdict = Admission(True, Reason.UNCHANGED, "nothing to approve", change)
    elif verdict is None and desired is None:
        says = "nothing is served under it any more; to use it again takes an approval anew"
        verdict = Admission(True, Reason.REMOVED, says, change)
    elif verdict is None and not approvers.required:
        says = "approvals are not required here; the approvers file says so"
        verdict = Admission(True, Reason.APPROVALS_WAIVED, says, change)
    elif verdict is None:
        step = _Step(desired, change, accepted, approvers, moment)
        verdict = step.on_approvals(approvals)
    if verdict.statement is None:
        verdict = replace(verdict, statement=accepted.statement)
    return _once_effective(verdict, desired, moment)


def _forbidden(
    desired: SafetyConfig | None,
    accepted: Accepted,
    change: ConfigChange,
    reading: PolicyReader,
    taxonomies: Taxonomies,
    moment: datetime,
) -> Admission | None:
    """What no approval can allow."""
    if desired is None:
        return None
    taxonomy = next(t for t in taxonomies.values() if t.digest == desired.taxonomy_digest)
    permits = desired.allowed_mask
    if desired.text is not None:
        permits = reading.read(desired, taxonomy).found
    if permits is not None and permits & taxonomy.catch_all:
        says = (
            f"it permits {taxonomy.names[-1]!r}, which no config can allow; say in the text that "
            "harm of kinds that it does not name is not permitted"
        )
        return Admission(False, Reason.NEVER_ALLOWABLE, says, change)
    end = desired.spec.expires
    if end is not None and moment_of(end) <= moment:
        says = f"it expired at {end}; remove it, or propose a later `expires`"
        return Admission(False, Reason.EXPIRED, says, change)
    known = accepted.config is not None and accepted.config.digest == desired.digest
    if permits is None and not known:
        says = (
            "the run's judge did not read its text, so nothing says that it does not permit "
            f"{taxonomy.names[-1]!r}; read it with cosalign judge read FILE --profile RUN_CONFIG, "
            "by the run config that reconcile goes by"
        )
        return Admission(False, Reason.NOT_READ, says, change)
    return None


def _once_effective(
    verdict: Admission, desired: SafetyConfig | None, moment: datetime
) -> Admission:
    """The verdict, unless it would put a config in force before its time."""
    begin = desired.spec.effective_from if desired is not None else None
    if not verdict.accepted or begin is None or moment_of(begin) <= moment:
        return verdict
    says = f"it takes effect at {begin}; until then what was in force before stays"
    return replace(verdict, accepted=False, reason=Reason.NOT_YET_EFFECTIVE, message=says)


_FURTHEST = [
    Reason.APPROVED_OTHERWISE,
    Reason.APPROVAL_REPLAYED,
    Reason.APPROVAL_OUT_OF_DATE,
    Reason.LOOSENS,
    Reason.AUTHOR_UNPROVEN,
    Reason.APPROVER_UNKNOWN,
    Reason.APPROVALS_MISSING,
    Reason.APPROVED,
]


@dataclass(frozen=True)
class _Step:
    """One step of one config's history, which statements are held against."""

    desired: SafetyConfig | None
    change: ConfigChange
    accepted: Accepted
    approvers: Approvers
    moment: datetime

    def on_approvals(self, approvals: Iterable[SignedStatement]) -> Admission:
        """The best of what the statements found come to."""
        ours = [s for s in approvals if s.statement.config == self.change.name]
        verdicts = [self._weighed(signed) for signed in ours]
        if not verdicts:
            says = f"nobody proposed it: {_needs(self.change)}; see cosalign config propose"
            return Admission(False, Reason.APPROVALS_MISSING, says, self.change)
        # What gets furthest tells most; a statement about another change says the least.
        return max(
            verdicts, key=lambda v: (v.accepted, _FURTHEST.index(v.reason), len(v.approvers))
        )

    def _weighed(self, signed: SignedStatement) -> Admission:
        """What one statement about this config comes to."""
        statement, change = signed.statement, self.change
        other = self._differs(statement)
        if other is not None:
            says = f"what was approved is another change: {other}; propose this one"
            return Admission(False, Reason.APPROVED_OTHERWISE, says, change)
        if statement.previous != self.accepted.statement:
            says = (
                "the approval was given for another step of this config's history, and cannot be "
                "used again; propose the change anew"
            )
            return Admission(False, Reason.APPROVAL_REPLAYED, says, change)
        stale = _stale(statement, self.moment)
        if stale is not None:
            return Admission(False, Reason.APPROVAL_OUT_OF_DATE, stale, change)
        if statement.effect.approvals < change.approvals:
            says = f"it was approved as a change that {statement.effect}, and it {_why(change)}"
            return Admission(False, Reason.LOOSENS, f"{says}; propose it anew", change)
        return _counted(signed, verify_signatures(signed, self.approvers, self.moment), change)

    def _differs(self, statement: Statement) -> str | None:
        """In what a statement is about another change; ``None`` where it is about this one."""
        wanted = {
            "installation": self.approvers.installation,
            "namespace": self.accepted.namespace,
            "regions": self.change.regions,
            "before": self.change.before,
            "after": self.change.after,
            "demands": None if self.desired is None else self.desired.digest,
        }
        for field, value in wanted.items():
            found = getattr(statement, field)
            if found != value:
                return f"{field} {_shown(found)}, and here it is {_shown(value)}"
        return None


def _counted(signed: SignedStatement, found: Verified, change: ConfigChange) -> Admission:
    """Whether the signatures that hold are enough."""
    reason, says = Reason.APPROVED, f"approved by {', '.join(found.approvers)}"
    why = f" ({'; '.join(found.refused)})" if found.refused else ""
    missing = change.approvals - len(found.approvers)
    if found.author is None:
        reason = Reason.AUTHOR_UNPROVEN
        says = f"{signed.statement.author} is named as its author, and has not signed it{why}"
    elif missing > 0:
        reason = Reason.APPROVER_UNKNOWN if found.unknown else Reason.APPROVALS_MISSING
        keys = f"; keys of nobody: {', '.join(found.unknown)}" if found.unknown else ""
        says = f"{missing} missing of {_needs(change)}{keys}{why}"
    return Admission(
        reason is Reason.APPROVED, reason, says, change, found.approvers, found.author,
        signed.digest if reason is Reason.APPROVED else None,
    )  # fmt: skip


def _stale(statement: Statement, moment: datetime) -> str | None:
    if moment_of(statement.issued) > moment + CLOCK_SKEW:
        return f"the change was proposed at {statement.issued}, which is not yet; check the clocks"
    if moment >= moment_of(statement.valid_until):
        return f"its approvals could be used until {statement.valid_until}; propose the change anew"
    return None


def _needs(change: ConfigChange) -> str:
    people = "1 approval" if change.approvals == 1 else f"{change.approvals} approvals"
    return f"{people} by people other than its author, since it {_why(change)}"


def _why(change: ConfigChange) -> str:
    """What makes the change what it is."""
    parts = [p for p in change.parts if p.effect is change.effect]
    return f"{change.effect.value} ({'; '.join(f'{p.field}: {p.says}' for p in parts)})"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "/".join(str(item) for item in value)
    return "none" if value is None else str(value)[:16]
