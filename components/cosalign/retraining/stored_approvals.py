"""Approvals as they lie in the storage root, and whether what is in force rests on them.

::

    approvals/STATEMENT.json             a statement with the signatures that admitted a config
    approvals/approvers/DIGEST.yaml      an approvers file that configs were admitted by

Both lie under digests of their content. An accepted set only *says* who approved what stands in it,
and whoever can write to storage can write that; so a config counts as in force as long as it leads
to a stored statement about it, with signatures of people who might give them. Which people is said
by today's approvers file, or by the one of then, which the audit log names: who leaves takes
nothing out of force.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import content_sha256
from cosalign.retraining.approvals import (
    SignedStatement,
    Statement,
    as_bundle,
    parse_bundle,
    verify_signatures,
)
from cosalign.retraining.approvers import Approvers, parse_approvers
from cosalign.retraining.desired_configs import Key
from cosalign.store.accepted_configs import AcceptedConfig, AcceptedSet
from cosalign.store.audit_log import READERS, AuditLog
from cosalign.store.storage import GenerationMismatch, Storage

FOLDER = "approvals"
APPROVERS_FOLDER = f"{FOLDER}/approvers"
APPROVED = "ConfigApproved"
"""The event of an approval, whose identity is the statement's digest."""


def keep_statement(storage: Storage, signed: SignedStatement) -> dict[str, str]:
    """Stores a statement with the signatures that admitted it first; gives path and SHA-256."""
    path = _statement_path(signed.digest)
    with suppress(GenerationMismatch):
        storage.write_bytes(path, as_bundle([signed]).encode(), if_generation=0)
    return {path: content_sha256(storage.read_bytes(path))}


def keep_approvers(storage: Storage, approvers: Approvers) -> dict[str, str]:
    """Stores an approvers file as it was read; gives path and SHA-256."""
    path = approvers_path(approvers.digest)
    if storage.stat(path) is None:
        with suppress(GenerationMismatch):
            storage.write_bytes(path, approvers.text.encode(), if_generation=0)
    return {path: approvers.digest}


def approvers_path(digest: str) -> str:
    """Where the approvers file of a digest lies under the root."""
    return f"{APPROVERS_FOLDER}/{digest}.yaml"


def asks_for_approvals(storage: Storage, name: str) -> bool:
    """Whether the accepted set of a name was last judged by a file that asks for approvals."""
    head = AcceptedSet(storage, name).head()
    if head is None:
        return False
    if head.approvers_file is None:  # From before sets named it.
        return any(config.approvers for config in head.configs)
    then = _stored_approvers(storage, approvers_path(head.approvers_file), head.approvers_file)
    return then is None or then.required


def unproven(
    storage: Storage, configs: Iterable[AcceptedConfig], approvers: Approvers
) -> dict[Key, str]:
    """Accepted configs that nobody is known to have approved, and what they lack.

    Args:
        storage: The storage root.
        configs: Configs as an accepted set has them.
        approvers: Who may propose and approve; where nobody has to, nothing is lacking.
    """
    if not approvers.required:
        return {}
    listed, proofs = list(configs), _Proofs(storage, approvers)
    with ThreadPoolExecutor(READERS) as pool:
        lacks = list(pool.map(proofs.lack, listed))
    return {config.key: why for config, why in zip(listed, lacks, strict=True) if why}


@dataclass(frozen=True)
class _Proofs:
    """What accepted configs rest on, in one look."""

    storage: Storage
    approvers: Approvers
    _of_then: dict[str, Approvers | None] = field(default_factory=dict)

    def lack(self, config: AcceptedConfig) -> str:
        """What a config lacks to count as approved; empty where it lacks nothing."""
        if config.statement is None or not config.approvers:
            return "it was accepted without approvals"
        signed = self._signed(config.statement)
        if signed is None:
            return f"no approvals are stored under the statement {config.statement[:16]} it names"
        return _difference(signed.statement, config) or self._doubt(signed, config)

    def _doubt(self, signed: SignedStatement, config: AcceptedConfig) -> str:
        if _holds(signed, self.approvers, config):
            return ""
        if _holds(signed, self._then(signed.digest), config):
            return ""
        return "its approvals are not by people who are named and could give them"

    def _signed(self, statement: str) -> SignedStatement | None:
        path = _statement_path(statement)
        try:
            found = parse_bundle(self.storage.read_bytes(path).decode("utf-8", "replace"), path)
        except DataError:  # Gone, or torn.
            return None
        return next((signed for signed in found if signed.digest == statement), None)

    def _then(self, statement: str) -> Approvers | None:
        """Who could approve when a statement was admitted, as the audit log has it."""
        row = AuditLog(self.storage).find(APPROVED, statement)
        for path, digest in row.artifacts.items() if row else ():
            if path.startswith(f"{APPROVERS_FOLDER}/"):
                if digest not in self._of_then:
                    self._of_then[digest] = _stored_approvers(self.storage, path, digest)
                return self._of_then[digest]
        return None


def _difference(said: Statement, config: AcceptedConfig) -> str:
    """Why a statement is not about a config as it was accepted; empty where it is."""
    try:
        terms = config.terms
    except DataError as problem:
        return str(problem)
    if (said.config, said.namespace, said.after) == (config.name, config.namespace, terms):
        return ""
    return "the approvals that it names are about something else"


def _holds(signed: SignedStatement, approvers: Approvers | None, config: AcceptedConfig) -> bool:
    """Whether a statement has the signatures that it needs, of whom the config names, ever."""
    said = signed.statement
    if approvers is None or said.installation != approvers.installation:
        return False
    found = verify_signatures(signed, approvers, None)
    enough = len(found.approvers) >= max(1, said.effect.approvals)
    return enough and found.author is not None and set(found.approvers) <= set(config.approvers)


def _stored_approvers(storage: Storage, path: str, digest: str) -> Approvers | None:
    """A stored approvers file; ``None`` where it is gone or is not what it was."""
    try:
        data = storage.read_bytes(path)
    except DataError:
        return None
    if content_sha256(data) != digest:
        return None
    return parse_approvers(data.decode("utf-8", "replace"), storage.uri_of(path))


def _statement_path(digest: str) -> str:
    return f"{FOLDER}/{digest}.json"
