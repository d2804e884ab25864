"""The Jobs that the cluster's test driver makes of the compiled pipelines, without a cluster."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.charts.object_schemas import problems
from tests.charts.pod_security import violations
from tests.cluster.task_pods import (
    LAUNCHER,
    LAUNCHER_FOLDER,
    Object,
    Surroundings,
    job_of,
)

from cosalign.pipelines.graph import GPU
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.launchers import Launch
from cosalign.pipelines.local_run import LocalRun
from cosalign.pipelines.placement import SHARED_MEMORY
from cosalign.retraining.shipped_pipelines import PIPELINES, compiled_path, platform_path

GIVEN: dict[str, Any] = {
    "run_config_uri": "gs://b/c.yaml",
    "run_config_digest": "0" * 64,
    "accelerator_count": "2",
    "node_selector": {"pool": "a100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "secret": "tokens",
}
TRAINING: dict[str, Any] = {
    "training_node_selector": {"pool": "nvlink"},
    "training_tolerations": [{"key": "dedicated", "value": "training"}],
}


@dataclass
class Recorder:
    """Makes the Job of each launch and runs nothing: outputs are made up."""

    jobs: dict[str, Object] = field(default_factory=dict)

    def launch(self, launch: Launch) -> int:
        around = Surroundings(account="runner", environment={"OMP_NUM_THREADS": "1"})
        self.jobs[launch.task] = job_of(launch, f"r1-{launch.task}", "gs://b/files", around)
        for name, output in launch.given["outputs"].get("parameters", {}).items():
            text = json.dumps(["0/2", "1/2"]) if name == "shares" else "1"
            Path(output["outputFile"]).write_text(text)
        return 0

    def pause(self, seconds: float) -> None:
        raise AssertionError(f"nothing fails here, so nothing waits {seconds} s")


@pytest.fixture(scope="module", params=list(PIPELINES))
def jobs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Object]:
    name = request.param
    pipeline = parse_pipeline(
        compiled_path(name).read_bytes(), name, platform_path(name).read_bytes()
    )
    recorder = Recorder()
    folder = tmp_path_factory.mktemp(name)
    more: dict[str, Any] = {"model_uri": "gs://b/m"} if name == "evaluate" else TRAINING
    LocalRun(pipeline, "r1", folder, recorder, lambda _: None, "gs://b/a").execute(GIVEN | more)
    return recorder.jobs


def container(job: Object) -> Object:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    found: Object = only
    return found


def test_every_task_becomes_a_valid_job_within_restricted(jobs: dict[str, Object]) -> None:
    assert len(jobs) >= 5
    for job in jobs.values():
        assert problems(job) == []
        assert violations(job["spec"]["template"]["spec"]) == []
        assert container(job)["securityContext"]["readOnlyRootFilesystem"] is True


def test_what_the_pipeline_asks_for_is_in_the_pod(jobs: dict[str, Object]) -> None:
    on_gpus = [job for job in jobs.values() if GPU in container(job)["resources"]["limits"]]
    assert on_gpus
    for job in on_gpus:
        pod = job["spec"]["template"]["spec"]
        if job is jobs.get("training"):
            assert pod["nodeSelector"] == {"pool": "nvlink"}
            assert pod["tolerations"] == [*GIVEN["tolerations"], *TRAINING["training_tolerations"]]
        else:
            assert pod["nodeSelector"] == {"pool": "a100"}
            assert pod["tolerations"] == GIVEN["tolerations"]
        mounts = {mount["mountPath"] for mount in container(job)["volumeMounts"]}
        assert {SHARED_MEMORY, "/home/cosalign", "/gcs"} <= mounts
        token = {e["name"]: e for e in container(job)["env"]}["HF_TOKEN"]
        assert token["valueFrom"]["secretKeyRef"]["name"] == "tokens"
    assert any(container(job)["resources"]["limits"][GPU] == "2" for job in on_gpus)


def test_the_command_is_the_compiled_one_behind_the_launcher(jobs: dict[str, Object]) -> None:
    for name, job in jobs.items():
        python, launcher, given, files, *command = container(job)["command"]
        assert (python, launcher) == ("python", f"{LAUNCHER_FOLDER}/{LAUNCHER}")
        assert files == "gs://b/files"
        assert command[:2] == ["python", "-m"]
        assert json.loads(given)["outputs"]["outputFile"].endswith(f"{name}/executor_output.json")
