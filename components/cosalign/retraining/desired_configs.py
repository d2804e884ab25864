"""What regions want: configs as they stand in files, in ``gs://`` or in Kubernetes, unjudged.

A file that is wrong must not stop the others, and must not make its config look removed either: a
torn upload would take a region's policy out of use. So what cannot be read stands in the list with
its problem, under its name; and where not even a name can be read, the list says that it is not
complete, and nothing is taken for removed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from cosalign.domain.errors import DataError, SafetyConfigError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.safety_config import SafetyConfig, safety_config_of
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.yaml_text import parse_yaml
from cosalign.retraining.approvals import (
    FOLDER_SUFFIX,
    SignedStatement,
    approvals_of_object,
    merged,
    read_approvals,
)
from cosalign.store.storage import Storage, open_storage

READERS = 16
"""Files read at a time."""

Taxonomies = dict[str, Taxonomy]
Key = tuple[str, str]
"""Namespace (empty outside Kubernetes) and name."""


@dataclass(frozen=True)
class DesiredConfig:
    """One config as somebody wants it.

    Attributes:
        name: ``metadata.name``.
        namespace: ``metadata.namespace``; ``None`` for a config from a folder.
        document: The whole document as plain JSON, as it was read.
        config: It, checked; ``None`` where it is wrong.
        problem: What is wrong with it; empty where nothing is.
        approvals: Statements and signatures that came with it, none of them believed yet.
        source: Where it is from, for messages.
        revision: What another version of its document differs in: a digest of it, or what the
            cluster counts.
    """

    name: str
    namespace: str | None
    document: Mapping[str, Any]
    config: SafetyConfig | None
    problem: str = ""
    approvals: tuple[SignedStatement, ...] = ()
    source: str = ""
    revision: str = ""

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return (self.namespace or "", self.name)

    @property
    def generation(self) -> int | None:
        """The generation of its spec, which Kubernetes counts."""
        found: int | None = self.document["metadata"].get("generation")
        return found


@dataclass(frozen=True)
class DesiredConfigs:
    """All configs of a source.

    Attributes:
        configs: Sorted by namespace and name.
        problems: What could not be read so far that its name is known, one line each.
    """

    configs: tuple[DesiredConfig, ...]
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether what is not among them is not wanted any more."""
        return not self.problems


class ConfigSource(Protocol):
    """Where regions' configs are read from."""

    def read(self) -> DesiredConfigs:
        """All configs as they are now.

        Raises:
            DataError: The place is not there.
            TransientError: It does not answer.
        """
        ...


@dataclass(frozen=True)
class FolderSource:
    """Configs in a folder, local or ``gs://``, with approvals in ``NAME.approvals`` beside them.

    Attributes:
        address: The folder.
        taxonomies: Known taxonomies by ``"name version"``.
    """

    address: str
    taxonomies: Taxonomies

    def read(self) -> DesiredConfigs:
        """See :class:`ConfigSource`; a folder that holds no config at all counts as a wrong one."""
        storage = open_storage(self.address)
        paths = [stat.path for stat in storage.list("")]
        files = [path for path in paths if path.endswith(".yaml")]
        if not files:
            raise DataError(
                f"{self.address}: no *.yaml file there, which would take every config out of use; "
                "correct the address, or leave one file there"
            )
        folders = {
            path.partition(f"{FOLDER_SUFFIX}/")[0] for path in paths if FOLDER_SUFFIX in path
        }
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(lambda path: self._read(storage, path, folders), files))
        return gathered(found)

    def _read(self, storage: Storage, path: str, folders: set[str]) -> DesiredConfig | str:
        uri = storage.uri_of(path)
        data = storage.read_bytes(path)
        try:
            raw = parse_yaml(data.decode("utf-8", "replace"), uri, SafetyConfigError)
        except SafetyConfigError as problem:
            return str(problem)
        found = desired_config(raw, uri, self.taxonomies, content_sha256(data))
        stem = path.rpartition("/")[0]
        beside = f"{stem}/{_name(raw)}" if stem else str(_name(raw))
        if isinstance(found, str) or beside not in folders:
            return found
        try:
            approvals = read_approvals(storage, f"{beside}{FOLDER_SUFFIX}")
        except DataError as problem:
            return replace(found, config=None, problem=str(problem))
        return replace(found, approvals=merged(found.approvals, approvals))


def desired_config(
    raw: Mapping[str, Any], source: str, taxonomies: Taxonomies, revision: str = ""
) -> DesiredConfig | str:
    """One config from plain data; what is wrong with it where it has not even a name.

    Args:
        raw: The document.
        source: Where it is from, for messages.
        taxonomies: Known taxonomies by ``"name version"``.
        revision: See :class:`DesiredConfig`; a cluster's own where empty.
    """
    name = _name(raw)
    if name is None:
        return f"{source}: metadata.name is missing"
    metadata = raw["metadata"]
    namespace = metadata.get("namespace")
    found = DesiredConfig(
        name, namespace if isinstance(namespace, str) else None, raw, None, source=source,
        revision=revision or f"{metadata.get('uid')}/{metadata.get('generation')}",
    )  # fmt: skip
    try:
        config = safety_config_of(raw, source, taxonomies)
        return replace(found, config=config, approvals=approvals_of_object(raw))
    except (SafetyConfigError, DataError) as problem:
        return replace(found, problem=str(problem))


def gathered(found: Iterable[DesiredConfig | str]) -> DesiredConfigs:
    """Configs and problems as one; a name that stands twice is wrong wherever it stands."""
    listed = list(found)
    configs = [item for item in listed if isinstance(item, DesiredConfig)]
    counts = Counter(config.key for config in configs)
    distinct = {config.key: config for config in configs}
    for key, config in distinct.items():
        if counts[key] > 1:
            says = f"metadata.name {config.name!r} is used by another file; rename one"
            distinct[key] = replace(config, config=None, problem=f"{config.source}: {says}")
    ordered = tuple(distinct[key] for key in sorted(distinct))
    return DesiredConfigs(ordered, tuple(item for item in listed if isinstance(item, str)))


@dataclass(frozen=True)
class StaticSource:
    """Configs that are given: a double for tests, and for whoever has them at hand already."""

    documents: list[Mapping[str, Any]] = field(default_factory=list)
    taxonomies: Taxonomies = field(default_factory=dict)

    def read(self) -> DesiredConfigs:
        """See :class:`ConfigSource`."""
        return gathered(
            desired_config(raw, "given", self.taxonomies, content_sha256(json.dumps(raw).encode()))
            for raw in self.documents
        )


def _name(raw: Mapping[str, Any]) -> str | None:
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name if isinstance(name, str) and name else None
