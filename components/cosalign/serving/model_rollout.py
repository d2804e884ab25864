"""Rolls the model servers of a cluster when another model is promoted.

The pods of one Deployment fetch whichever model is current when they start. So a promotion needs no
more than new pods: this loop writes the current model's digest into an annotation of the pod
template, and Kubernetes does the rest. It starts a new pod beside the old ones, waits until it is
ready, and only then ends an old one, which finishes its answers first. A rollback is the same.

It may patch that one Deployment and nothing else, which is why it is no part of the gateway.
"""

from __future__ import annotations

import time
from datetime import timedelta

from cosalign.domain.errors import CosalignError
from cosalign.domain.safety_config import moment_of
from cosalign.runtime.kubernetes_api import KubernetesApi, Object
from cosalign.runtime.logs import get_logger
from cosalign.store.model_pointer import Entry, ModelPointer

ANNOTATION = "cosalign.dev/model"
SECONDS = 10.0
SKEW = timedelta(minutes=10)
"""By how much the clocks of a promotion and of the cluster may differ."""
_log = get_logger(__name__)


class ModelRollout:
    """Keeps a Deployment on the current model.

    Args:
        api: The cluster's.
        namespace: The Deployment's.
        deployment: Its name.
        pointer: Says which model is current.
    """

    def __init__(
        self, api: KubernetesApi, namespace: str, deployment: str, pointer: ModelPointer
    ) -> None:
        self._api = api
        self._path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}"
        self._pointer = pointer

    def step(self) -> bool:
        """Rolls the Deployment where its pods are of another model; whether it did.

        Raises:
            CosalignError: The pointer or the Deployment cannot be read, or not be changed.
        """
        entry = self._pointer.checked()
        if entry is None:
            return False
        found = self._api.get(self._path)
        annotations = found["spec"]["template"]["metadata"].get("annotations") or {}
        known = annotations.get(ANNOTATION)
        if known == entry.digest or (known is None and _made_after(found, entry)):
            return False
        template = {"metadata": {"annotations": {ANNOTATION: entry.digest}}}
        self._api.patch(self._path, {"spec": {"template": template}})
        _log.info("model servers rolled", digest=entry.digest, entry=entry.number)
        return True

    def run(self) -> None:
        """Looks every few seconds, until the process is ended."""
        while True:
            try:
                self.step()
            except CosalignError as problem:
                _log.error("model servers not rolled", reason=str(problem))
            time.sleep(SECONDS)


def _made_after(deployment: Object, entry: Entry) -> bool:
    """Whether a Deployment is so much younger than a promotion that its pods fetched that model.

    Without it each installation would begin by replacing pods that are right.
    """
    made = moment_of(deployment["metadata"]["creationTimestamp"])
    return made - moment_of(entry.at) > SKEW
