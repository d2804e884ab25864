"""SafetyConfig objects of a cluster: read as they are wanted, and told what became of them.

Only the status is written, through its subresource, and of that only our fields: conditions of
others stay. Each write names the version that it was made from; where the object changed meanwhile,
it is read again. A status that says already what is to be said is not written, so a tick that finds
nothing new costs one list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cosalign.domain.fingerprint import Json, row_id
from cosalign.retraining.config_standing import Condition, ConfigStanding
from cosalign.retraining.desired_configs import (
    DesiredConfigs,
    Key,
    Taxonomies,
    desired_config,
    gathered,
)
from cosalign.runtime.kubernetes_api import (
    AlreadyExistsError,
    ConflictError,
    KubernetesApi,
    NoSuchObjectError,
    Object,
)
from cosalign.runtime.logs import get_logger

log = get_logger(__name__)
API = "/apis/cosalign.dev/v1alpha1"
WRITERS = 16
_TRIES = 5
_MESSAGE = 1024
_TROUBLES = frozenset({"NotFollowed", "RunFailed", "GateFailed"})
"""Reasons that are told of whatever the condition's status."""


@dataclass(frozen=True)
class KubernetesSource:
    """SafetyConfigs of some namespaces.

    Attributes:
        api: The API server.
        namespaces: Which.
        taxonomies: Known taxonomies by ``"name version"``.
    """

    api: KubernetesApi
    namespaces: tuple[str, ...]
    taxonomies: Taxonomies

    def read(self) -> DesiredConfigs:
        """See :class:`~cosalign.retraining.desired_configs.ConfigSource`."""
        found = [
            desired_config(_whole(item), f"safetyconfig {_where(item)}", self.taxonomies)
            for namespace in self.namespaces
            for item in self.api.list_all(f"{API}/namespaces/{namespace}/safetyconfigs")
            # What is being deleted is wanted no more, whatever a finalizer waits for.
            if not item["metadata"].get("deletionTimestamp")
        ]
        return gathered(found)


def _whole(item: Object) -> Object:
    """An item of a list, which the server gives without version and kind."""
    return {"apiVersion": "cosalign.dev/v1alpha1", "kind": "SafetyConfig", **item}


def _where(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return f"{metadata.get('namespace')}/{metadata.get('name')}"


@dataclass(frozen=True)
class KubernetesReporter:
    """Tells objects what became of them.

    Attributes:
        api: The API server.
    """

    api: KubernetesApi

    def tell(self, desired: DesiredConfigs, standings: Iterable[ConfigStanding]) -> int:
        """Writes statuses and events; gives how many objects were written.

        Args:
            desired: The objects as they were read.
            standings: What became of them.
        """
        objects: dict[Key, Mapping[str, Any]] = {c.key: c.document for c in desired.configs}
        pairs = [(objects[s.key], s) for s in standings if s.key in objects]
        changed = [(item, standing) for item, standing in pairs if _differs(item, standing)]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda pair: self._tell(*pair), changed))
        return len(changed)

    def _tell(self, item: Mapping[str, Any], standing: ConfigStanding) -> None:
        # Events first: who dies between the two finds the status unchanged, and tells both again.
        for condition in _news(item, standing):
            self._event(item, condition)
        with suppress(NoSuchObjectError):
            self._write(item, standing)

    def _write(self, item: Mapping[str, Any], standing: ConfigStanding) -> None:
        path = _path(item)
        for _ in range(_TRIES):
            change = {
                "metadata": {"resourceVersion": item["metadata"]["resourceVersion"]},
                "status": status_fields(item.get("status") or {}, standing),
            }
            try:
                self.api.patch(f"{path}/status", change)
            except ConflictError:
                item = self.api.get(path)
            else:
                return
        log.warning(
            "status_not_written", config=standing.name, why="others write it again and again"
        )

    def _event(self, item: Mapping[str, Any], condition: Condition) -> None:
        metadata = item["metadata"]
        told: list[Json] = [metadata["uid"], metadata.get("generation"), condition.type,
                            condition.status, condition.reason, condition.message]  # fmt: skip
        warning = condition.type == "Refused" or condition.reason in _TROUBLES
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{metadata['name'][:200]}.{row_id('event', told)[:16]}",
                         "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": "cosalign.dev/v1alpha1", "kind": "SafetyConfig",
                "name": metadata["name"], "namespace": metadata["namespace"],
                "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"],
            },
            "reason": condition.type if condition.status == "True" else condition.reason,
            "message": f"{condition.type}: {condition.message}"[:_MESSAGE],
            "type": "Warning" if warning else "Normal",
            "firstTimestamp": _zulu(condition.since), "lastTimestamp": _zulu(condition.since),
            "count": 1, "source": {"component": "cosalign-reconcile"},
            "reportingComponent": "cosalign-reconcile", "reportingInstance": "cosalign-reconcile",
        }  # fmt: skip
        with suppress(AlreadyExistsError):
            self.api.create(f"/api/v1/namespaces/{metadata['namespace']}/events", event)


def status_fields(there: Mapping[str, Any], standing: ConfigStanding) -> dict[str, Any]:
    """Our fields of a status; conditions that are not ours stay as they are.

    Args:
        there: The object's status now.
        standing: What is to be said.
    """
    ours = {condition.type for condition in standing.conditions}
    foreign = [c for c in there.get("conditions") or [] if c.get("type") not in ours]
    own = [_condition(condition, standing.generation) for condition in standing.conditions]
    return {
        "observedGeneration": standing.generation,
        "digest": standing.digest,
        "form": standing.form,
        "phase": standing.phase,
        "score": standing.score,
        "model": standing.model,
        "conditions": [*foreign, *own],
    }


def _condition(condition: Condition, generation: int | None) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": (condition.message or condition.reason)[:_MESSAGE],
        "observedGeneration": generation,
        "lastTransitionTime": _zulu(condition.since),
    }


def _differs(item: Mapping[str, Any], standing: ConfigStanding) -> bool:
    there = item.get("status") or {}
    wanted = status_fields(there, standing)
    return any(_timeless(there.get(key)) != _timeless(value) for key, value in wanted.items())


def _timeless(value: Any) -> Any:
    """Conditions without their times, which follow from their statuses."""
    if not isinstance(value, list):
        return value
    return sorted(
        ({k: v for k, v in entry.items() if k != "lastTransitionTime"} for entry in value),
        key=lambda entry: str(entry.get("type")),
    )


def _news(item: Mapping[str, Any], standing: ConfigStanding) -> list[Condition]:
    """Conditions that have come true since the object's status was written, and troubles.

    What is still to come is in the status; events are kept for an hour, by a server that has more
    to do than to keep a thousand of "goes on".
    """
    there = (item.get("status") or {}).get("conditions") or []
    known = {c.get("type"): (c.get("status"), c.get("reason")) for c in there}
    return [
        condition
        for condition in standing.conditions
        if known.get(condition.type) != (condition.status, condition.reason)
        and (condition.status == "True" or condition.reason in _TROUBLES)
        # What was measured is what Promoted says, and a trouble is told of once.
        and (condition.type == "Promoted" or condition.reason not in _TROUBLES)
        and condition.type != "Evaluated"
    ]


def _path(item: Mapping[str, Any]) -> str:
    metadata = item["metadata"]
    return f"{API}/namespaces/{metadata['namespace']}/safetyconfigs/{metadata['name']}"


def _zulu(moment: str) -> str:
    return moment.replace("+00:00", "Z")
