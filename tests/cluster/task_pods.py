"""A Kubernetes Job of a compiled task: what KFP's backend makes of the IR and platform settings.

Pure, so that pods are checked without a cluster. Two things differ from KFP on purpose. The
containers are hardened further than a pipeline can ask for: read-only root, no capabilities, the
runtime's seccomp profile. And requests and limits are bounded by what the node at hand has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes.utils.quantity import parse_quantity  # type: ignore[import-untyped]

from cosalign.pipelines.launchers import Launch

Object = dict[str, Any]
LAUNCHER = "kubeflow_launcher.py"
LAUNCHER_FOLDER = "/kubeflow"
RUN_POD = {"pipelines.kubeflow.org/v2_component": "true"}
"""KFP's own label on a run's pods, which the chart's network policies select."""


@dataclass(frozen=True)
class Bounds:
    """What one pod may ask for at most on the node at hand."""

    cpu: str = "500m"
    memory_request: str = "1Gi"
    memory_limit: str = "8Gi"


@dataclass(frozen=True)
class Surroundings:
    """What a pod gets from around its pipeline.

    Attributes:
        account: The service account.
        environment: Added to every container.
        bounds: Of requests and limits.
        launcher: The ConfigMap that holds the launcher.
    """

    account: str = "default"
    environment: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds = Bounds()
    launcher: str = "kubeflow-launcher"


def job_of(launch: Launch, name: str, files: str, around: Surroundings) -> Object:
    """The Job of one attempt at a task.

    Args:
        launch: The task.
        name: The Job's.
        files: Address for what the task writes about itself.
        around: What else its pod gets.
    """
    settings = launch.container.platform
    labels = {**RUN_POD, "cosalign.dev/task": launch.task}
    spec = {
        "backoffLimit": 0,
        "template": {"metadata": {"labels": labels}, "spec": pod_of(launch, files, around)},
    }
    if "activeDeadlineSeconds" in settings:
        spec["activeDeadlineSeconds"] = int(settings["activeDeadlineSeconds"])
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


def pod_of(launch: Launch, files: str, around: Surroundings) -> Object:
    """The pod spec of one attempt at a task."""
    settings, given = launch.container.platform, dict(launch.given)
    own = given["outputs"]["outputFile"].rpartition("/")[0]
    volumes = list(_volumes(settings, own, around))
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": around.account,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": int(settings["securityContext"]["runAsGroup"]),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": launch.image,
                "command": [
                    "python",
                    f"{LAUNCHER_FOLDER}/{LAUNCHER}",
                    json.dumps(given),
                    files,
                    *launch.command,
                ],
                "env": list(_environment(launch, around)),
                "resources": _resources(launch, around.bounds),
                "securityContext": _security(settings["securityContext"]),
                "volumeMounts": [mount for _, mount in volumes],
            }
        ],
        "volumes": [volume for volume, _ in volumes],
    }
    selector = _by_parameter(launch, settings.get("nodeSelector", {}).get("nodeSelectorJson"))
    if selector:
        pod["nodeSelector"] = selector
    tolerated = [_by_parameter(launch, one["tolerationJson"])
                 for one in settings.get("tolerations", [])]  # fmt: skip
    if any(tolerated):
        pod["tolerations"] = [one for listed in tolerated for one in listed]
    return pod


def _by_parameter(launch: Launch, source: Mapping[str, str] | None) -> Any:
    """What KFP's driver reads at run time from the inputs of the group around a task."""
    return None if source is None else launch.scope[source["componentInputParameter"]]


def _volumes(settings: Mapping[str, Any], own: str, around: Surroundings) -> Iterator[Any]:
    for asked in settings.get("emptyDirMounts", []):
        kept = {key: asked[key] for key in ("medium", "sizeLimit") if key in asked}
        yield _mounted(asked["volumeName"], asked["mountPath"], {"emptyDir": kept})
    # The root cannot be written to: KFP's places for artifacts and outputs, and scratch space.
    yield _mounted("artifacts", "/gcs", {"emptyDir": {}})
    yield _mounted("scratch", "/tmp", {"emptyDir": {}})  # noqa: S108  a mount
    yield _mounted("outputs", own, {"emptyDir": {}})
    volume, mount = _mounted(
        "launcher", LAUNCHER_FOLDER, {"configMap": {"name": around.launcher}}
    )  # fmt: skip
    yield volume, {**mount, "readOnly": True}


def _mounted(name: str, path: str, source: Object) -> tuple[Object, Object]:
    return {"name": name, **source}, {"name": name, "mountPath": path}


def _environment(launch: Launch, around: Surroundings) -> Iterator[Object]:
    for name, value in {**launch.container.env, **around.environment}.items():
        yield {"name": name, "value": value}
    for secret in launch.container.platform.get("secretAsEnv", []):
        named = _by_parameter(launch, secret["secretNameParameter"])
        for pair in secret["keyToEnv"]:
            reference = {"name": named, "key": pair["secretKey"],
                         "optional": secret["optional"]}  # fmt: skip
            yield {"name": pair["envVar"], "valueFrom": {"secretKeyRef": reference}}


def _resources(launch: Launch, bounds: Bounds) -> Object:
    asked = launch.container.resources
    limits = {"memory": _least(asked.get("resourceMemoryLimit"), bounds.memory_limit)}
    if "accelerator" in asked:
        kind, count = (_resolved(launch, asked["accelerator"][key])
                       for key in ("resourceType", "resourceCount"))  # fmt: skip
        limits[kind] = count
    requests = {
        "cpu": _least(asked.get("resourceCpuRequest"), bounds.cpu),
        "memory": _least(asked.get("resourceMemoryRequest"), bounds.memory_request),
    }
    return {"requests": requests, "limits": limits}


def _resolved(launch: Launch, text: str) -> str:
    name = text.removeprefix("{{$.inputs.parameters['").removesuffix("']}}")
    return text if name == text else str(launch.given["inputs"]["parameterValues"][name])


def _least(asked: str | None, bound: str) -> str:
    return bound if asked is None or parse_quantity(asked) > parse_quantity(bound) else asked


def _security(asked: Mapping[str, Any]) -> Object:
    return {
        "runAsUser": int(asked["runAsUser"]),
        "runAsGroup": int(asked["runAsGroup"]),
        "runAsNonRoot": asked["runAsNonRoot"],
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
