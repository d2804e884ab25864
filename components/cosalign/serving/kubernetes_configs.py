"""The accepted set, less those configs whose object is gone from the cluster.

What is in force stands in the set, which the reconciler alone writes: an edit that it refused or
has not judged yet leaves the version before it there, and so here. Objects add the way out. A
config whose SafetyConfig is deleted is not used from the next look on, whether or not the
reconciler runs; what an object holds, and what its status says, is not asked.

The objects are listed every few seconds rather than watched. A watch tells a change sooner, and has
to be taken up again whenever it ends or its version has been forgotten; a list from the server's
cache has no state to lose.
"""

from __future__ import annotations

from typing import Self

from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi
from cosalign.serving.config_sources import AcceptedConfigSource, Reading

PATIENCE_SECONDS = 5.0


class KubernetesConfigSource:
    """The accepted configs of a namespace's SafetyConfigs.

    Args:
        accepted: The set that they were accepted into.
        api: The cluster's.
        namespace: The namespace.
    """

    def __init__(self, accepted: AcceptedConfigSource, api: KubernetesApi, namespace: str) -> None:
        self._accepted = accepted
        self._api = api
        self._namespace = namespace

    @classmethod
    def own_cluster(cls, accepted: AcceptedConfigSource, namespace: str | None) -> Self:
        """Of the cluster that this process runs in; its own namespace where none is named."""
        cluster = Cluster.own()
        api = KubernetesApi(cluster, PATIENCE_SECONDS)
        return cls(accepted, api, namespace or cluster.namespace)

    def read(self) -> Reading:
        """See :class:`cosalign.serving.config_sources.ConfigSource`."""
        reading, wanted = self._accepted.read(), self._regions()
        accepted = {key: config.region for key, config in reading.servable.items()} | reading.broken
        return Reading(
            servable={key: one for key, one in reading.servable.items() if key in wanted},
            refused={
                key: region
                for key, region in (wanted | accepted).items()
                if (key in wanted) != (key in accepted)
            },
            broken={key: region for key, region in reading.broken.items() if key in wanted},
            reasons={key: reason for key, reason in reading.reasons.items() if key in wanted},
        )

    def _regions(self) -> dict[str, str | None]:
        """Regions of the objects that are there and not being deleted, by namespace and name."""
        path = f"/apis/cosalign.dev/v1alpha1/namespaces/{self._namespace}/safetyconfigs"
        return {
            f"{self._namespace}/{item['metadata']['name']}": (item.get("spec") or {}).get("region")
            for item in self._api.get(path, resourceVersion="0")["items"]
            if not item["metadata"].get("deletionTimestamp")
        }
