"""SafetyConfig objects of a cluster, as far as their status accepts them as they stand.

Acceptance is about one generation of a spec. Any edit, be it of the region or of a date, makes a
new one, which is not served until the reconciler has judged it; the digest is computed again here,
so that a status that belongs to another text accepts nothing.

The objects are listed every few seconds rather than watched. A watch tells a change sooner, and has
to be taken up again whenever it ends or its version has been forgotten; a list from the server's
cache has no state to lose, and a minute is what is promised.
"""

from __future__ import annotations

from typing import Any, Self

from cosalign.domain.errors import CosalignError
from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi
from cosalign.serving.config_sources import Reading, Taxonomies, parsed_document, servable

PATIENCE_SECONDS = 5.0
KIND = {"apiVersion": "cosalign.dev/v1alpha1", "kind": "SafetyConfig"}

Object = dict[str, Any]


class KubernetesConfigSource:
    """The SafetyConfigs of a namespace.

    Args:
        api: The cluster's.
        namespace: The namespace.
        taxonomies: Known taxonomies.
    """

    def __init__(self, api: KubernetesApi, namespace: str, taxonomies: Taxonomies) -> None:
        self._api = api
        self._path = f"/apis/cosalign.dev/v1alpha1/namespaces/{namespace}/safetyconfigs"
        self._taxonomies = taxonomies

    @classmethod
    def own_cluster(cls, namespace: str | None, taxonomies: Taxonomies) -> Self:
        """Of the cluster that this process runs in; its own namespace where none is named."""
        cluster = Cluster.own()
        api = KubernetesApi(cluster, PATIENCE_SECONDS)
        return cls(api, namespace or cluster.namespace, taxonomies)

    def read(self) -> Reading:
        """See :class:`cosalign.serving.config_sources.ConfigSource`."""
        reading = Reading()
        for item in self._api.get(self._path, resourceVersion="0")["items"]:
            read_object(item, reading, self._taxonomies)
        return reading


def read_object(item: Object, reading: Reading, taxonomies: Taxonomies) -> None:
    """Enters one object into a reading."""
    metadata, status = item["metadata"], item.get("status") or {}
    key, generation = metadata["name"], metadata.get("generation")
    region = (item.get("spec") or {}).get("region")
    if metadata.get("deletionTimestamp"):
        return
    condition = _accepted(status)
    observed = condition.get("observedGeneration", status.get("observedGeneration"))
    if generation is None or observed != generation:
        reading.breaks(key, region, "its spec has not been judged yet")
        return
    if condition.get("status") != "True":
        reading.refused[key] = region
        return
    try:
        # A list's items carry no kind of their own.
        config = parsed_document({**KIND, **item}, key, taxonomies)
    except CosalignError as problem:
        reading.breaks(key, region, str(problem))
        return
    if config.digest != status.get("digest"):
        reading.breaks(key, region, "its status accepts another text than it has")
        return
    reading.servable[key] = servable(config, taxonomies)


def _accepted(status: Object) -> Object:
    conditions: list[Object] = status.get("conditions") or []
    return next((one for one in conditions if one.get("type") == "Accepted"), {})
