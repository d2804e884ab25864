"""Runs on Kubeflow Pipelines, with the parameters that this cluster's runs need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cosalign.domain.errors import UserError, nearest
from cosalign.domain.fingerprint import Json
from cosalign.retraining.shipped_pipelines import PIPELINES, CompiledPipeline, shipped_pipeline
from cosalign.retraining.submission import (
    Kubeflow,
    RunRequest,
    RunState,
    version_name,
    with_training_placed,
)
from cosalign.retraining.submitters import RunOrder, RunStatus, SubmittedRun

_STATUS: dict[str, RunStatus] = {
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "cancelled",
}


@dataclass(frozen=True)
class KubeflowSubmitter:
    """A Kubeflow Pipelines server as a submitter.

    Attributes:
        server: The server.
        experiment: Runs' experiment.
        parameters: Parameters of all runs, as far as their pipeline takes them.
        versions: Names of deployed versions by pipeline; of one that is not named, the version that
            ships is uploaded.
        pipeline_root: Where artifacts go; the server's default if ``None``.
        service_account: Of the runs' pods; the server's default if ``None``.
    """

    server: Kubeflow
    experiment: str = "cosalign"
    parameters: Mapping[str, Json] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    pipeline_root: str | None = None
    service_account: str | None = None
    by_hand: bool = False

    def __post_init__(self) -> None:
        known = {name for p in PIPELINES for name in shipped_pipeline(p).parameters}
        for name in self.parameters:
            if name not in known:
                raise UserError(f"--parameter {name}: no pipeline takes it{nearest(name, known)}")
        for name in self.versions:
            if name not in PIPELINES:
                raise UserError(f"--version {name}: no such pipeline{nearest(name, PIPELINES)}")

    @property
    def identity(self) -> Json:
        """Versions of both pipelines, and the parameters."""
        versions: dict[str, Json] = {
            name: self.versions.get(name) or version_name(name, shipped_pipeline(name))
            for name in PIPELINES
        }
        return {"versions": versions, "parameters": dict(self.parameters)}

    def find(self, name: str) -> list[SubmittedRun]:
        """See :class:`~cosalign.retraining.submitters.Submitter`."""
        return [_submitted(state) for state in self.server.find(name)]

    def start(self, order: RunOrder) -> str:
        """See :class:`~cosalign.retraining.submitters.Submitter`."""
        compiled = shipped_pipeline(order.pipeline)
        request = RunRequest(
            name=order.name,
            experiment=self.experiment,
            parameters={**self._taken(compiled), **order.parameters},
            labels=order.labels,
            pipeline_root=self.pipeline_root,
            service_account=self.service_account,
        )
        deployed = self.versions.get(order.pipeline)
        found = (
            self.server.deployed(order.pipeline, deployed)
            if deployed
            else self.server.version(order.pipeline, compiled)
        )
        return self.server.start(*found, request)

    def look(self, run_id: str) -> SubmittedRun | None:
        """See :class:`~cosalign.retraining.submitters.Submitter`."""
        state = self.server.state(run_id)
        return None if state is None else _submitted(state)

    def cancel(self, run_id: str) -> None:
        """See :class:`~cosalign.retraining.submitters.Submitter`."""
        self.server.cancel(run_id)

    def _taken(self, compiled: CompiledPipeline) -> dict[str, Json]:
        taken = {n: value for n, value in self.parameters.items() if n in compiled.parameters}
        return with_training_placed(taken, compiled)


def _submitted(state: RunState) -> SubmittedRun:
    return SubmittedRun(state.run_id, _STATUS.get(state.state, "running"), state.message)
