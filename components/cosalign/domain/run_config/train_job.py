"""Settings of training as a Kubeflow ``TrainJob``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cosalign.domain.validation import StrictModel

Backend = Literal["pod", "train_job"]


class TrainJobSettings(StrictModel):
    """Where and how a TrainJob runs; nothing here changes what is learnt.

    Attributes:
        runtime: Name of the TrainingRuntime; the chart's is called as its release.
        runtime_kind: Whether it belongs to the namespace or to the cluster.
        image: The training image, by digest; the runtime's own where empty. It has to be the
            version of the step that makes the job.
        nodes: How many nodes train together.
        processes_per_node: Processes on each; one a GPU.
        resources: What each node's container gets: resource names and quantities, as
            ``nvidia.com/gpu: "8"``; the runtime's own where empty.
        cache: A local folder of the nodes with room for a model; on the chart's scratch volume.
        environment: Plain environment variables of the containers; no secrets.
        queue: Kueue's LocalQueue; none where empty.
        priority_class: Kueue's WorkloadPriorityClass; none where empty.
        timeout_hours: Hours of running after which the job is ended and the step fails.
        queue_hours: Hours that it may wait to be admitted; for ever where null.
    """

    runtime: str = "cosalign"
    runtime_kind: Literal["TrainingRuntime", "ClusterTrainingRuntime"] = "TrainingRuntime"
    image: str = ""
    nodes: int = Field(default=1, ge=1)
    processes_per_node: int = Field(default=1, ge=1)
    resources: dict[str, str] = {}
    cache: str = "/scratch/cosalign"
    environment: dict[str, str] = {}
    queue: str = ""
    priority_class: str = ""
    timeout_hours: float = Field(default=24.0, gt=0)
    queue_hours: float | None = Field(default=None, gt=0)

    @property
    def processes(self) -> int:
        """All processes together."""
        return self.nodes * self.processes_per_node
