"""Rewrites SafetyConfigs that a cluster stores under an older version of their kind.

Kubernetes keeps each object in the version that was the storage version when it was last written,
and the CRD says in ``status.storedVersions`` which there may be; a version cannot be dropped from
the CRD while it stands there. So every object is written once more, unchanged, which the server
stores in today's version, and then the list is made short. Killed half-way, it is started again: an
object that is written twice is the same object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cosalign.domain.errors import ConfigError
from cosalign.runtime.kubernetes_api import ConflictError, KubernetesApi, NoSuchObjectError

_CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/safetyconfigs.cosalign.dev"


@dataclass(frozen=True)
class StoredConfigs:
    """How a cluster stores SafetyConfigs.

    Attributes:
        storage: The version that is written now.
        stored: Versions that objects may be stored in.
        revision: The CRD's resource version.
    """

    storage: str
    stored: tuple[str, ...]
    revision: str

    @property
    def old(self) -> bool:
        """Whether some object may be stored under another version."""
        return self.stored != (self.storage,)


def stored_configs(api: KubernetesApi) -> StoredConfigs:
    """Asks the cluster.

    Raises:
        ConfigError: It does not know SafetyConfigs.
    """
    try:
        crd = api.get(_CRD)
    except NoSuchObjectError:
        raise ConfigError(
            "the cluster knows no SafetyConfig; install the chart, or its crds/ folder"
        ) from None
    storage = next(v["name"] for v in crd["spec"]["versions"] if v["storage"])
    stored = tuple(crd.get("status", {}).get("storedVersions") or ())
    return StoredConfigs(storage, stored, crd["metadata"]["resourceVersion"])


def migrate_configs(api: KubernetesApi, found: StoredConfigs) -> int:
    """Writes every object in today's version, then says so in the CRD; gives how many it wrote."""
    objects = api.list_all(f"/apis/cosalign.dev/{found.storage}/safetyconfigs")
    for item in objects:
        _rewrite(api, item, found.storage)
    change = {"metadata": {"resourceVersion": found.revision},
              "status": {"storedVersions": [found.storage]}}  # fmt: skip
    api.patch(f"{_CRD}/status", change)
    return len(objects)


def _rewrite(api: KubernetesApi, item: dict[str, Any], version: str) -> None:
    metadata = item["metadata"]
    path = (
        f"/apis/cosalign.dev/{version}/namespaces/{metadata['namespace']}/safetyconfigs/"
        f"{metadata['name']}"
    )
    try:
        api.patch(path, {"metadata": {"resourceVersion": metadata["resourceVersion"]}})
    except (ConflictError, NoSuchObjectError):
        return  # Somebody wrote it meanwhile, or took it away: either will do.
