"""The two versions of a config that a command is about: from files, and from what is accepted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cosalign.domain.config_change import Taxonomies
from cosalign.domain.errors import SafetyConfigError, UserError
from cosalign.domain.safety_config import SafetyConfig, safety_config_of
from cosalign.domain.yaml_text import parse_yaml
from cosalign.retraining.admission import Accepted
from cosalign.retraining.admitted_configs import parsed
from cosalign.retraining.approvals import (
    SignedStatement,
    approvals_of_object,
    merged,
    read_approvals,
)
from cosalign.retraining.approvers import Approvers
from cosalign.retraining.proposals import ApprovalsFolder, last_statement
from cosalign.retraining.stored_approvals import unproven
from cosalign.store.accepted_configs import AcceptedSet
from cosalign.store.storage import Storage, open_storage, read_uri

NONE = ("none", "/dev/null")
"""In place of a file: there is no such version. Git passes ``/dev/null``."""


@dataclass(frozen=True)
class Version:
    """One version of a config.

    Attributes:
        config: The config; ``None`` where there is none.
        document: What it was read from.
    """

    config: SafetyConfig | None
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def namespace(self) -> str | None:
        """The namespace that its file names."""
        found = (self.document.get("metadata") or {}).get("namespace")
        return str(found) if found else None


def read_version(address: str, taxonomies: Taxonomies) -> Version:
    """A version from a file, local or ``gs://``; ``none`` and ``/dev/null`` for no version."""
    if address in NONE:
        return Version(None)
    text = read_uri(address).decode("utf-8", "replace")
    document = parse_yaml(text, address, SafetyConfigError)
    return Version(safety_config_of(document, address, dict(taxonomies)), dict(document))


def accepted_version(
    storage: Storage,
    name: str,
    namespace: str | None,
    model: str,
    taxonomies: Taxonomies,
    approvers: Approvers,
) -> tuple[Version, str | None]:
    """What is in force of a config, and the statement that its history came to last.

    Args:
        storage: The storage root that keeps what is accepted.
        name: The config's name.
        namespace: Its namespace; ``None`` for one from a folder.
        model: The name of the set, as of the model that follows it.
        taxonomies: Known taxonomies.
        approvers: Who may approve: what nobody is known to have approved is not in force.
    """
    current = AcceptedSet(storage, model).current()
    if current is None:
        return Version(None), None
    found = current.find(name, namespace)
    statement = current.last_statement(name, namespace)
    if found is None or unproven(storage, [found], approvers):
        return Version(None), statement
    return Version(parsed(found, dict(taxonomies)), found.document), statement


@dataclass(frozen=True)
class Step:
    """A wanted version, what it would replace, and what people signed about it.

    Attributes:
        new: The version wanted.
        accepted: What is in force.
        approvals: All that lies beside the config.
        folder: Where that is.
    """

    new: Version
    accepted: Accepted
    approvals: tuple[SignedStatement, ...]
    folder: ApprovalsFolder


@dataclass(frozen=True)
class StepRequest:
    """How a command names a step.

    Attributes:
        file: The file of the version wanted.
        old: The version in force as a file, or ``none``; ``None`` where the root knows it.
        root: The storage root that keeps what is accepted.
        model: The name of the accepted set.
        previous: The statement in force; ``None`` where the root or the folder tell.
        namespace: The config's namespace, where its file does not name it.
    """

    file: str
    old: str | None = None
    root: str | None = None
    model: str = "main"
    previous: str | None = None
    namespace: str | None = None


def read_step(request: StepRequest, taxonomies: Taxonomies, approvers: Approvers) -> Step:
    """Reads all that a step consists of.

    Args:
        request: How it was named.
        taxonomies: Known taxonomies.
        approvers: Who may propose and approve.

    Raises:
        UserError: Nothing says which version is in force, or none is wanted: to remove a config
            asks for nobody.
    """
    named = read_version(request.file, taxonomies)
    if named.config is None:
        raise UserError(
            "name the file of the version that is wanted; to remove a config, remove its file or "
            "object: that asks for nobody"
        )
    name, namespace = named.config.name, request.namespace or named.namespace
    parent = request.file.rpartition("/")[0] or "."
    folder = ApprovalsFolder.beside(open_storage(parent), name)
    approvals = read_approvals(folder.storage, folder.path)
    approvals = merged(approvals, approvals_of_object(named.document))
    if request.root is not None:
        root = open_storage(request.root)
        old, statement = accepted_version(
            root, name, namespace, request.model, taxonomies, approvers
        )
    elif request.old is not None:
        old = read_version(request.old, taxonomies)
        statement = last_statement(old.config, named.config, approvals)
    else:
        raise UserError(
            "what is in force? name it with --old FILE (or --old none), or the storage root that "
            "keeps what is accepted with --root"
        )
    previous = statement if request.previous is None else _digest(request.previous)
    return Step(named, Accepted(old.config, previous, namespace), approvals, folder)


def _digest(given: str) -> str | None:
    return None if given in NONE else given
