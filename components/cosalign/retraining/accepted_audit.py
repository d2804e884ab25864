"""Does the audit log say of everything that was ever accepted who allowed it?

An accepted set says itself who approved what stands in it, and its rows in the log are derived from
it; so a set that somebody wrote by hand gets its row like any other. What cannot be derived is the
row that came *before* it: the approval of each config that joined or changed, with the statement
that it rests on, or that it was admitted without. Here each entry of each accepted set is held
against those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cosalign.domain.errors import DataError
from cosalign.retraining.stored_approvals import APPROVED
from cosalign.store.accepted_configs import AcceptedConfig, AcceptedConfigs, AcceptedSet
from cosalign.store.audit_log import AuditEntry
from cosalign.store.audit_verification import Fault
from cosalign.store.storage import Storage

WAIVED = "ConfigAdmittedWithoutApproval"
ACCEPTED_FOLDER = "accepted"


def waiver_identity(name: str, number: int, config: AcceptedConfig) -> str:
    """Identity of the row that says that a config was admitted without approvals.

    Args:
        name: The accepted set's name.
        number: Number of the set that it was judged against; 0 for none.
        config: The config as it was accepted then.
    """
    return "/".join((name, str(number), *config.key, config.terms))


@dataclass
class AcceptedAudit:
    """What the log says of admissions; :meth:`note` takes its entries, in any order."""

    approved: dict[str, AuditEntry] = field(default_factory=dict)
    waived: set[str] = field(default_factory=set)

    def note(self, entry: AuditEntry) -> None:
        """Takes an entry of the log."""
        if entry.event == APPROVED and entry.identity is not None:
            self.approved[entry.identity] = entry
        elif entry.event == WAIVED and entry.identity is not None:
            self.waived.add(entry.identity)

    def faults(self, storage: Storage) -> list[Fault]:
        """What stands in accepted sets, now or earlier, and was not admitted by the log."""
        stored = storage.list(ACCEPTED_FOLDER)
        names = sorted({stat.path.split("/")[1] for stat in stored})
        return [fault for name in names for fault in self._of_set(AcceptedSet(storage, name))]

    def _of_set(self, accepted: AcceptedSet) -> Iterator[Fault]:
        try:
            history = accepted.history()
        except DataError as problem:
            yield Fault(*str(problem).split(": ", 1))
            return
        then: AcceptedConfigs | None = None
        named = False
        for now in history:
            # Sets from before they named the approvers file left no row of what was waived.
            named = named or now.approvers_file is not None
            where = accepted.storage.uri_of(accepted.path_of(now.number))
            for config in now.configs:
                try:
                    says = self._fault(accepted.name, config, then, named)
                except DataError as problem:
                    says = f"cannot be read: {problem}"
                if says:
                    yield Fault(where, f"config {'/'.join(config.key).lstrip('/')} {says}")
            then = now

    def _fault(
        self, name: str, config: AcceptedConfig, then: AcceptedConfigs | None, named: bool
    ) -> str:
        """What is wrong with a config of a set, by the set before it; empty where nothing is."""
        old = then.find(config.name, config.namespace) if then else None
        if old is not None and _admitted_as(old) == _admitted_as(config):
            return ""
        if not config.approvers:
            identity = waiver_identity(name, then.number if then else 0, config)
            silent = named and identity not in self.waived
            return "was admitted without approvals, and the log does not say so" if silent else ""
        last = then.last_statement(config.name, config.namespace) if then else None
        return self._unapproved(config, last)

    def _unapproved(self, config: AcceptedConfig, last: str | None) -> str:
        row = self.approved.get(config.statement or "")
        if row is None:
            who = ", ".join(config.approvers)
            return f"is said to be approved by {who}, and the log holds no such approval"
        said = row.details
        if (row.subject, said.get("namespace"), said.get("after")) != (
            config.name, config.namespace, config.terms,
        ):  # fmt: skip
            return f"is not what was approved by entry {row.number}"
        people = said.get("approvers")
        if not isinstance(people, list) or not set(map(str, people)) <= set(config.approvers):
            return f"was approved by others, by entry {row.number}"
        if said.get("previous", last) != last:
            return f"rests on entry {row.number}, which was for another step of its history"
        return ""


def _admitted_as(config: AcceptedConfig) -> tuple[str, str | None, tuple[str, ...]]:
    return config.terms, config.statement, config.approvers
