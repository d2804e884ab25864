"""A stage as a ``TrainJob`` of Kubeflow Trainer v2, typed by Trainer's own package.

The runtime (the chart's ``TrainingRuntime``) says what a node is: security context, volumes,
service account. The job says what this stage is: how many nodes, which command, which queue. Its
name comes from the stage's identity, so that a step that was killed finds the job that it started.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cosalign.domain.fingerprint import fingerprint

if TYPE_CHECKING:
    from cosalign.domain.run_config.train_job import TrainJobSettings

API_VERSION = "trainer.kubeflow.org/v1alpha1"
ORDER = "cosalign.dev/order"
"""Annotation: what the job trains, in full; its name has room for a part of it."""
SETTINGS = "cosalign.dev/settings"
"""Annotation: digest of the settings that the job was made with."""
_NAME_DIGITS = 16


@dataclass(frozen=True)
class TrainJobOrder:
    """What a job shall run.

    Attributes:
        stage: sft or dpo.
        fingerprint: The stage's, 64 hex digits.
        command: Command and arguments; the same on each node.
        owners: Owner references: the job goes when they go.
    """

    stage: str
    fingerprint: str
    command: tuple[str, ...]
    owners: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The job's name, the same for every attempt at this stage."""
        return f"cosalign-{self.stage}-{self.fingerprint[:_NAME_DIGITS]}"


def train_job(order: TrainJobOrder, settings: TrainJobSettings, namespace: str) -> dict[str, Any]:
    """The object as it is sent to the API server."""
    from kubeflow_trainer_api import models

    trainer = models.TrainerV1alpha1Trainer(
        image=settings.image or None,
        command=list(order.command),
        env=[
            models.IoK8sApiCoreV1EnvVar(name=name, value=value)
            for name, value in sorted(_environment(settings).items())
        ],
        num_nodes=settings.nodes,
        num_proc_per_node=settings.processes_per_node,
        resources_per_node=_resources(settings),
    )
    job = models.TrainerV1alpha1TrainJob(
        api_version=API_VERSION,
        kind="TrainJob",
        metadata=models.IoK8sApimachineryPkgApisMetaV1ObjectMeta(
            name=order.name,
            namespace=namespace,
            labels=_labels(order, settings),
            annotations={ORDER: order.fingerprint, SETTINGS: settings_digest(settings)},
            owner_references=[
                models.IoK8sApimachineryPkgApisMetaV1OwnerReference.from_dict(owner)
                for owner in order.owners
            ]
            or None,
        ),
        spec=models.TrainerV1alpha1TrainJobSpec(
            runtime_ref=models.TrainerV1alpha1RuntimeRef(
                name=settings.runtime,
                kind=settings.runtime_kind,
                api_group=API_VERSION.partition("/")[0],
            ),
            trainer=trainer,
            active_deadline_seconds=max(1, round(settings.timeout_hours * 3600)),
        ),
    )
    found: dict[str, Any] = job.to_dict()
    return found


def settings_digest(settings: TrainJobSettings) -> str:
    """Identity of a job's settings, 64 hex digits."""
    return fingerprint("train job", settings.model_dump(mode="json"))


def _environment(settings: TrainJobSettings) -> dict[str, str]:
    # A card says which image trained; a container cannot find out by itself.
    image = {"COSALIGN_IMAGE": settings.image} if settings.image else {}
    return {**image, **settings.environment}


def _resources(settings: TrainJobSettings) -> Any:
    from kubeflow_trainer_api import models

    if not settings.resources:
        return None
    # Requests equal to limits: the pods are the last to be evicted.
    return models.IoK8sApiCoreV1ResourceRequirements.from_dict(
        {"requests": settings.resources, "limits": settings.resources}
    )


def _labels(order: TrainJobOrder, settings: TrainJobSettings) -> dict[str, str]:
    queue = {
        "kueue.x-k8s.io/queue-name": settings.queue,
        "kueue.x-k8s.io/priority-class": settings.priority_class,
    }
    return {
        "app.kubernetes.io/name": "cosalign",
        "app.kubernetes.io/component": "trainer",
        "cosalign.dev/stage": order.stage,
        **{name: value for name, value in queue.items() if value},
    }
