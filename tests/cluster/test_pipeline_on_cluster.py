"""The whole method on a cluster: the pipeline that the chart installed, each task a Job of it.

Each runs from its own image by digest. The engine is vLLM, the model is tiny, storage is an object
store. What comes out is held against ``cosalign run`` on this machine over the same inputs. On the
way one task is killed by the kernel for its memory, and another one's pod is deleted when a part of
its work is paid for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.charts.pod_security import violations
from tests.charts.rendering import CHART
from tests.cluster.cluster_world import (
    BUCKET,
    IMAGES,
    World,
    advertise_gpus,
    image,
    world,
)
from tests.cluster.job_launcher import Attempt, JobLauncher, Weather, install_launcher
from tests.cluster.live_cluster import (
    chart_crds,
    install_crds,
    install_safety_config_crd,
    namespace,
    on_cluster,
    read,
    release,
)
from tests.cluster.task_pods import Object, Surroundings
from tests.e2e.graph_world import STEPS, Graph

from cosalign.domain.schemas import RESPONSE_LEDGER
from cosalign.pipelines.ir import Pipeline
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.local_run import LocalRun, TaskReport
from cosalign.runtime.run_config import dump_run_config, load_run_config, run_config_digest
from cosalign.store.ledger import Ledger
from cosalign.store.storage import open_storage

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]
RUN = "r1"
ROOT = f"gs://{BUCKET}/cluster"
SMALL = "80Mi"
OUT_OF_MEMORY, DELETED = "pairing", "generation-1"
LONGER = (
    "synthesis.generators=[{name: tiny, plain: 1, superset: 4, not_superset: 4, max_tokens: 120}]"
)
"""Work enough for a pod to be caught at it."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def space() -> Iterator[str]:
    """A namespace with the chart in it."""
    install_crds(*chart_crds())
    install_safety_config_crd()
    advertise_gpus()
    with namespace() as name:
        release(
            "install", "cosalign", str(CHART), "-n", name, "-f", str(IMAGES),
            "--set", f"storage.root={ROOT}", "--set", "pipelines.parameters.shards=2",
        )  # fmt: skip
        yield name


def installed_pipeline(space: str) -> Pipeline:
    """The pipeline as the chart put it into the cluster, images by digest and all."""
    versions = read("pipelineversions", "-n", space)["items"]
    (spec,) = [v["spec"] for v in versions if v["spec"]["pipelineName"] == "cosalign"]
    parts = json.dumps(spec["pipelineSpec"]), json.dumps(spec["platformSpec"])
    return parse_pipeline(parts[0], "cosalign", parts[1])


@dataclass
class Storm(Weather):
    """Kills two attempts; keeps every Job that was made."""

    space: str
    jobs: list[Object] = field(default_factory=list)
    paid_before: int = 0
    deleted: str = ""

    def before(self, task: str, number: int, job: Object) -> None:
        """Gives pairing too little memory, once."""
        (container,) = job["spec"]["template"]["spec"]["containers"]
        if (task, number) == (OUT_OF_MEMORY, 1):
            container["resources"]["requests"]["memory"] = SMALL
            container["resources"]["limits"]["memory"] = SMALL
        if (task, number) == (DELETED, 1):
            self.paid_before = rows_paid()
        self.jobs.append(job)

    def during(self, task: str, number: int, pod: str) -> None:
        """Deletes the pod of a share that has paid for a part of its work, once."""
        if (task, number) == (DELETED, 1) and not self.deleted and rows_paid() > self.paid_before:
            self.deleted = pod
            on_cluster("delete", "pod", pod, "-n", self.space, "--grace-period=0", "--force")


def rows_paid() -> int:
    return Ledger(open_storage(ROOT), "responses", RESPONSE_LEDGER).stats().rows


@dataclass
class Run:
    """One run on the cluster, and what happened."""

    launcher: JobLauncher
    storm: Storm
    reports: list[TaskReport]

    def attempts(self, task: str) -> list[Attempt]:
        return [attempt for attempt in self.launcher.attempts if attempt.task == task]


@pytest.fixture(scope="module")
def run(space: str, store: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("run")
    around = Surroundings(account="cosalign-pipeline", environment=store.environment)
    install_launcher(space, around)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", store.url)
        config = load_run_config(str(store.profile), [f"storage.root={ROOT}", LONGER])
        digest = run_config_digest(config)
        open_storage(ROOT).write_bytes(f"configs/{digest}.yaml", dump_run_config(config).encode())
        storm, reports = Storm(space), list[TaskReport]()
        launcher = JobLauncher(
            space, RUN, around, f"{ROOT}/task-files/{RUN}", folder / "logs", storm
        )
        LocalRun(
            installed_pipeline(space), RUN, folder / "outputs", launcher, reports.append,
            artifacts=f"{ROOT}/artifacts/cosalign/{RUN}", retried=bool,
        ).execute({"run_config_uri": f"{ROOT}/configs/{digest}.yaml",
                   "run_config_digest": digest})  # fmt: skip
        yield Run(launcher, storm, reports)


@pytest.fixture(scope="module")
def local(run: Run, store: World, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The same inputs, run here, after the cluster's run: both at once are too much for a node."""
    graph = Graph(f"gs://{BUCKET}/local", store.profile, tmp_path_factory.mktemp("local"))
    assert graph.run("--set", LONGER) == 0, graph.log.read_text("utf-8")[-3000:]
    return graph


def on_the_cluster(store: World, folder: Path) -> Graph:
    return Graph(ROOT, store.profile, folder)


def test_every_task_of_the_compiled_pipeline_ran_from_its_own_image(run: Run) -> None:
    ended = [attempt for attempt in run.launcher.attempts if not attempt.exit_code]
    assert [attempt.task for attempt in ended] == [
        "prepare", "generation-0", "generation-1", "synthesis", "judging-0", "judging-1", "scoring",
        "pairing", "training", "answers-0", "answers-1", "evaluation", "run-end",
    ]  # fmt: skip
    parts = {"generation": "synthesis", "prepare": "synthesis", "judging": "scoring",
             "answers": "evaluation", "run": "pairing"}  # fmt: skip
    for attempt in ended:
        stage = attempt.task.split("-")[0]
        assert attempt.image == image(parts.get(stage, stage))


def test_no_pod_could_do_more_than_restricted_and_none_could_write_to_its_root(run: Run) -> None:
    for job in run.storm.jobs:
        spec = job["spec"]["template"]["spec"]
        assert violations(spec) == []
        assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_task_that_the_kernel_killed_for_its_memory_was_tried_again(run: Run) -> None:
    first, second = run.attempts(OUT_OF_MEMORY)
    assert (first.exit_code, first.reason) == (137, "OOMKilled")
    assert second.exit_code == 0


def test_a_task_whose_pod_was_deleted_went_on_from_what_was_paid(run: Run) -> None:
    assert run.storm.deleted, "the share was done before it was seen to have paid for something"
    log = (run.launcher.logs / f"{DELETED}-{len(run.attempts(DELETED))}.log").read_text("utf-8")
    plans = [json.loads(line) for line in log.splitlines() if '"event": "plan"' in line]
    (plan,) = [plan for plan in plans if plan["work"] == "generate:tiny"]
    assert plan["stored"] > 0
    assert plan["stored"] + plan["to_pay"] == plan["asked"]


def test_the_cluster_made_the_same_artifacts_as_the_local_run(
    run: Run, local: Graph, store: World, tmp_path: Path
) -> None:
    here, there = local.manifests(), on_the_cluster(store, tmp_path).manifests()
    assert set(here) == set(there) == set(STEPS)
    for step in STEPS:
        # A fingerprint covers all that a result depends on: trained weights, for an evaluation.
        assert there[step].fingerprint == here[step].fingerprint, step
        assert there[step].tables == here[step].tables, step
        assert there[step].metrics == here[step].metrics, step
    assert sum(len(manifest.tables) for manifest in here.values()) > 10


def test_nothing_was_paid_for_twice_but_what_a_killed_pod_had_not_stored(
    run: Run, store: World, tmp_path: Path
) -> None:
    for ledger in ("responses", "verdicts"):
        stats = on_the_cluster(store, tmp_path).ledger(ledger).stats()
        assert stats.rows == stats.keys > 0


def test_the_runs_end_was_told(run: Run) -> None:
    outcome = json.loads(open_storage(ROOT).read_bytes(f"runs/{RUN}/outcome.json"))
    assert outcome["state"] == "SUCCEEDED"
