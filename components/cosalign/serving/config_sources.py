"""Where accepted safety configs come from: three sources behind one small interface.

A reading says of every config one of three things. *Servable*: it may be used while it is in force.
*Refused*: somebody decided against it; it is not used from now on. *Broken*: what stands there now
cannot be used and nobody decided anything (a half-written file, a taxonomy that is not known here);
what was servable under that key before may be used a little longer. A source that cannot be read at
all raises, which is the third case for everything in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cosalign.domain.config_rendering import render_safety_config
from cosalign.domain.errors import CosalignError, DataError
from cosalign.domain.safety_config import SafetyConfig, moment_of, parse_safety_config
from cosalign.domain.taxonomy import Taxonomy
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.serving.settings import ConfigsGroup, GatewaySettings
from cosalign.store.storage import list_uris, open_storage, read_uri

Taxonomies = dict[str, Taxonomy]


@dataclass(frozen=True)
class ServableConfig:
    """A config as the gateway uses it.

    Attributes:
        name: ``metadata.name``.
        region: The region it is for.
        digest: Identity of what it demands.
        text: The system prompt, rendered as evaluation and training render it.
        begins: When it comes into force, in seconds since 1970; ``None`` for always.
        ends: From when on it is no longer in force.
    """

    name: str
    region: str
    digest: str
    text: str
    begins: float | None = None
    ends: float | None = None

    def refusal_at(self, now: float) -> str | None:
        """Why it is not in force, as a code; ``None`` where it is."""
        if self.begins is not None and now < self.begins:
            return "config_not_yet_effective"
        if self.ends is not None and now >= self.ends:
            return "config_expired"
        return None


@dataclass
class Reading:
    """What a source holds; keys name a place in it.

    Attributes:
        servable: Configs that may be used.
        refused: Regions of those that somebody decided against, or has not accepted yet.
        broken: Regions of those that cannot be used as they stand; ``None`` where not even that
            is known.
        reasons: Why.
    """

    servable: dict[str, ServableConfig] = field(default_factory=dict)
    refused: dict[str, str | None] = field(default_factory=dict)
    broken: dict[str, str | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def breaks(self, key: str, region: str | None, reason: str) -> None:
        """Notes a config that cannot be used as it stands."""
        self.broken[key] = region
        self.reasons[key] = reason


class ConfigSource(Protocol):
    """A place that holds configs."""

    def read(self) -> Reading:
        """All of them, now; called from a thread.

        Raises:
            CosalignError: The place cannot be read.
        """
        ...


class AcceptedConfigSource:
    """The set that the reconciler publishes in storage.

    Args:
        root: The storage root.
        name: The set's name.
        taxonomies: Known taxonomies.
    """

    def __init__(self, root: str, name: str, taxonomies: Taxonomies) -> None:
        from cosalign.store.accepted_configs import AcceptedSet

        self._set = AcceptedSet(open_storage(root), name)
        self._taxonomies = taxonomies

    def read(self) -> Reading:
        """See :class:`ConfigSource`."""
        current = self._set.current()
        reading = Reading()
        for item in current.configs if current else ():
            key = f"{item.namespace or ''}/{item.name}"
            try:
                config = parsed_document(item.document, key, self._taxonomies)
                if (config.digest, config.region) != (item.digest, item.region):
                    raise DataError(f"{key}: digest or region are not those that were accepted")
            except CosalignError as problem:
                reading.breaks(key, item.region, str(problem))
            else:
                reading.servable[key] = servable(config, self._taxonomies)
        return reading


class FileConfigSource:
    """Files and folders that the operator trusts as they stand.

    Args:
        addresses: Local or ``gs://``.
        taxonomies: Known taxonomies.
    """

    def __init__(self, addresses: Sequence[str], taxonomies: Taxonomies) -> None:
        self._addresses = addresses
        self._taxonomies = taxonomies

    def read(self) -> Reading:
        """See :class:`ConfigSource`."""
        reading = Reading()
        for address in self._addresses:
            for uri in list_uris(address, ".yaml"):
                try:
                    text = read_uri(uri).decode("utf-8")
                    config = parse_safety_config(text, uri, self._taxonomies)
                except (CosalignError, UnicodeDecodeError) as problem:
                    reading.breaks(uri, None, str(problem))
                else:
                    reading.servable[uri] = servable(config, self._taxonomies)
        return reading


def parsed_document(document: dict[str, Any], source: str, taxonomies: Taxonomies) -> SafetyConfig:
    """A config from its document, whose metadata but for the name is left aside.

    Raises:
        SafetyConfigError: It is wrong, or its taxonomy is not known here.
    """
    metadata = document.get("metadata") or {}
    plain = {"metadata": {"name": metadata.get("name")}, "spec": document.get("spec")}
    kinds = {name: document.get(name) for name in ("apiVersion", "kind")}
    return parse_safety_config(json.dumps({**kinds, **plain}), source, taxonomies)


def servable(config: SafetyConfig, taxonomies: Taxonomies) -> ServableConfig:
    """A checked config as the gateway uses it."""
    reference = config.spec.taxonomy
    taxonomy = taxonomies[f"{reference.name} {reference.version}"]
    return ServableConfig(
        name=config.name,
        region=config.region,
        digest=config.digest,
        text=render_safety_config(config, taxonomy).text,
        begins=_seconds(config.spec.effective_from),
        ends=_seconds(config.spec.expires),
    )


def _seconds(moment: str | None) -> float | None:
    return None if moment is None else moment_of(moment).timestamp()


def open_config_source(settings: GatewaySettings) -> ConfigSource:
    """The source that the settings name.

    Raises:
        CosalignError: A taxonomy's file is wrong, or this process is in no cluster.
    """
    group: ConfigsGroup = settings.configs
    taxonomies = known_taxonomies(group.taxonomies)
    if group.kind == "files":
        return FileConfigSource(group.addresses, taxonomies)
    accepted = AcceptedConfigSource(settings.storage, group.name, taxonomies)
    if group.kind == "kubernetes":
        from cosalign.serving.kubernetes_configs import KubernetesConfigSource

        return KubernetesConfigSource.own_cluster(accepted, group.namespace)
    return accepted
