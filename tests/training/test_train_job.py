"""A TrainJob is made once, followed whatever the API server does, and its end means what it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.cluster_double import JOBS, PODS, ClusterDouble, cluster_double
from tests.training.trainjob_schema import train_job_problems

from cosalign.domain.errors import ConfigError, CosalignError, TransientError, UserError
from cosalign.domain.run_config.train_job import TrainJobSettings
from cosalign.runtime.kubernetes_api import KubernetesApi
from cosalign.training.rank_reports import PeerLost
from cosalign.training.train_job import Left, Waiting, run_train_job
from cosalign.training.train_job_object import TrainJobOrder, train_job

ORDER = TrainJobOrder("sft", "ab" * 32, ("torchrun", "-m", "cosalign.training.rank"))
NAME = ORDER.name
POD = f"{NAME}-node-0-0"
PODS_ASKED = f"GET {PODS}"
SETTINGS = TrainJobSettings(
    image="registry.example/cosalign-training@sha256:" + "0" * 64,
    nodes=2,
    processes_per_node=8,
    resources={"nvidia.com/gpu": "8", "memory": "900Gi"},
    environment={"NCCL_DEBUG": "WARN"},
    queue="a100",
    priority_class="training",
    timeout_hours=0.5,
)
WAITING = Waiting(watch=1, pause=0.01, gone=60.0, stuck=0.05, patience=60.0)
"""Long where waiting is to end well, however loaded the machine is."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterDouble]:
    for name in ("KFP_POD_NAME", "POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    with cluster_double(tmp_path) as state:
        yield state


def run(
    server: ClusterDouble,
    settings: TrainJobSettings = SETTINGS,
    reported: CosalignError | None = None,
    waiting: Waiting = WAITING,
    stored: bool = False,
) -> None:
    left = Left(lambda: stored, lambda: reported)
    run_train_job(ORDER, settings, left, server.cluster, waiting)


def _completes(server: ClusterDouble) -> None:
    def script(name: str) -> None:
        server.condition(name, "Complete")

    server.script = script


def _fails(
    server: ClusterDouble, reason: str = "JobsFailed", pod: dict[str, Any] | None = None
) -> None:
    def script(name: str) -> None:
        if pod:
            server.pod(name, "Failed", **pod)
        server.condition(name, "Failed", reason=reason)

    server.script = script


def _terminated(code: int, reason: str = "Error") -> dict[str, Any]:
    ended = {"name": "node", "state": {"terminated": {"exitCode": code, "reason": reason}}}
    return {"containerStatuses": [ended]}


def _waits_for(reason: str) -> dict[str, Any]:
    return {"containerStatuses": [{"image": "x", "state": {"waiting": {"reason": reason}}}]}


def test_the_object_is_a_train_job_by_trainers_own_crd() -> None:
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "1"}
    order = TrainJobOrder("dpo", "ab" * 32, ORDER.command, (owner,))
    job = train_job(order, SETTINGS, "region")
    assert train_job_problems(job) == []
    assert train_job_problems(train_job(ORDER, TrainJobSettings(), "region")) == []
    spec = job["spec"]
    assert spec["runtimeRef"]["kind"] == "TrainingRuntime"
    assert spec["activeDeadlineSeconds"] == 1800
    trainer = spec["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["resourcesPerNode"]["limits"] == SETTINGS.resources
    assert {"name": "COSALIGN_IMAGE", "value": SETTINGS.image} in trainer["env"]
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "a100"
    assert labels["kueue.x-k8s.io/priority-class"] == "training"
    assert job["metadata"]["ownerReferences"] == [owner]
    assert len(job["metadata"]["name"]) <= 46  # JobSet appends to it, and names have 63


def test_the_schema_does_refuse_wrong_jobs() -> None:
    """Or the double would take anything."""
    job = train_job(ORDER, SETTINGS, "region")
    for path, value in ((("trainer", "numNodes"), "two"), (("trainer", "numnodes"), 2),
                        (("managedBy",), "me")):  # fmt: skip
        wrong = {**job, "spec": {**job["spec"], "trainer": dict(job["spec"]["trainer"])}}
        target = wrong["spec"]
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
        assert train_job_problems(wrong), path


def test_the_name_follows_from_the_stage_alone() -> None:
    assert TrainJobOrder("sft", "ab" * 32, ("other",)).name == NAME
    assert TrainJobOrder("sft", "ac" * 32, ORDER.command).name != NAME
    assert TrainJobOrder("dpo", "ab" * 32, ORDER.command).name != NAME


def test_a_completed_job_is_done_and_cleaned_up(server: ClusterDouble) -> None:
    _completes(server)
    run(server)
    assert server.jobs == {}
    assert len(server.created) == 1


def test_it_waits_through_suspension_and_a_run(
    server: ClusterDouble, capfd: pytest.CaptureFixture[str]
) -> None:
    """Kueue suspends the job until there is room; then pods come, with logs that break off."""
    lines = tuple(f"2026-11-01T00:00:0{i}.5Z line {i}" for i in range(5))

    def script(name: str) -> None:
        server.condition(name, "Suspended", reason="Queued")
        _looked_at(server)
        server.condition(name, "Suspended", "False", reason="Resumed")
        server.pod(name, "Running", lines[:3])
        _looked_at(server)
        server.pod(name, "Succeeded", lines[3:])
        server.condition(name, "Complete")

    server.script = script
    run(server)
    shown = [line for line in capfd.readouterr().err.splitlines() if line.startswith(f"[{POD}]")]
    assert shown == [f"[{POD}] line {i}" for i in range(5)]


def _looked_at(server: ClusterDouble) -> None:
    """Returns once the step has looked at the job's pods twice more."""
    end = server.asked.count(PODS_ASKED) + 2
    while server.asked.count(PODS_ASKED) < end:
        time.sleep(0.01)


def test_a_job_of_an_earlier_attempt_is_adopted(server: ClusterDouble) -> None:
    """Whatever settings it was made with: what it trains is the same."""
    with KubernetesApi(server.cluster) as api:
        api.create(JOBS, train_job(ORDER, SETTINGS, api.namespace))

    def complete() -> None:
        _looked_at(server)
        server.condition(NAME, "Complete")

    threading.Thread(target=complete, daemon=True).start()
    run(server, SETTINGS.model_copy(update={"nodes": 3}))
    assert len(server.created) == 1
    assert server.created[0]["spec"]["trainer"]["numNodes"] == 2


def test_an_answer_that_was_lost_makes_no_second_job(server: ClusterDouble) -> None:
    _completes(server)
    server.faults = ["late"]
    run(server, stored=True)
    assert len(server.created) == 1
    assert server.asked.count(f"POST {JOBS}") == 2


@pytest.mark.parametrize("ended", ["Complete", "Failed"])
def test_a_job_that_ended_without_a_result_is_replaced(server: ClusterDouble, ended: str) -> None:
    with KubernetesApi(server.cluster) as api:
        api.create(JOBS, train_job(ORDER, SETTINGS, api.namespace))
    server.condition(NAME, ended)
    _completes(server)
    run(server)
    first, second = (job["metadata"]["uid"] for job in server.created)
    assert first != second


def test_an_ended_job_that_does_not_go_away_is_a_matter_of_time(server: ClusterDouble) -> None:
    _fails(server)
    with pytest.raises(TransientError):
        run(server)
    server.deletes = False
    with pytest.raises(TransientError, match="still being deleted"):
        run(server, waiting=replace(WAITING, gone=0.2))


def test_a_job_of_that_name_that_trains_something_else_is_left_alone(
    server: ClusterDouble,
) -> None:
    other = train_job(TrainJobOrder("sft", "ab" * 8 + "0" * 48, ORDER.command), SETTINGS, "x")
    other["metadata"] |= {"uid": "foreign", "name": NAME}
    server.jobs[NAME] = other
    with pytest.raises(ConfigError, match="trains something else"):
        run(server)
    assert NAME in server.jobs


@pytest.mark.parametrize("fault", ["drop", "torn", "gone", "410", "end"])
def test_a_watch_may_end_in_any_way(server: ClusterDouble, fault: str) -> None:
    server.watch_faults = [fault] * 4

    def script(name: str) -> None:
        while server.watch_faults:
            time.sleep(0.01)
        server.condition(name, "Complete")

    server.script = script
    run(server)
    assert len(server.created) == 1


@pytest.mark.parametrize("fault", [500, 503, 429, "drop"])
def test_a_server_that_stumbles_is_asked_again(server: ClusterDouble, fault: int | str) -> None:
    _completes(server)
    server.faults = [fault, fault, fault]
    run(server)
    assert len(server.created) == 1


def test_a_server_that_is_gone_ends_the_attempt_and_not_the_job(server: ClusterDouble) -> None:
    server.script = lambda _: server.faults.extend([503] * 1000)
    with pytest.raises(TransientError, match="503"):
        run(server, waiting=replace(WAITING, patience=1.0))
    assert NAME in server.jobs


def test_a_rotated_token_is_read_anew(server: ClusterDouble) -> None:
    def script(name: str) -> None:
        server.cluster.token.write_text("second")
        server.tokens.clear()
        server.tokens.add("second")
        server.condition(name, "Complete")

    server.script = script
    run(server)
    assert server.jobs == {}


def _removes_later(server: ClusterDouble) -> Callable[[str], None]:
    def script(name: str) -> None:
        _looked_at(server)
        server.remove(name)

    return script


def test_a_job_deleted_from_outside_is_started_again_by_a_retry(server: ClusterDouble) -> None:
    server.script = _removes_later(server)
    with pytest.raises(TransientError, match="deleted by somebody else"):
        run(server)
    _completes(server)
    run(server)
    assert len(server.created) == 2


def test_a_job_that_another_attempt_saw_to_its_end_is_done(server: ClusterDouble) -> None:
    server.script = server.remove
    run(server, stored=True)
    assert len(server.created) == 1


def test_a_job_deleted_while_no_watch_was_open_is_noticed(server: ClusterDouble) -> None:
    server.watch_faults = ["end"] * 50
    server.script = _removes_later(server)
    with pytest.raises(TransientError, match="deleted by somebody else"):
        run(server)


@pytest.mark.parametrize(
    ("pod", "kind", "said"),
    [
        (_terminated(2), UserError, "exit code 2"),
        (_terminated(75), TransientError, "exit code 75"),
        (_terminated(70), CosalignError, "exit code 70"),
        (_terminated(137), TransientError, "checkpoint is kept"),
        (_terminated(137, "OOMKilled"), UserError, "ran out of memory"),
        (_terminated(1), TransientError, "exit code 1"),
        ({"reason": "Evicted"}, TransientError, "taken away"),
        (
            {"conditions": [{"type": "DisruptionTarget", "status": "True"}], **_terminated(143)},
            TransientError,
            "taken away",
        ),
    ],
)
def test_a_pods_failure_is_the_steps(
    server: ClusterDouble, pod: dict[str, Any], kind: type[CosalignError], said: str
) -> None:
    _fails(server, pod=pod)
    with pytest.raises(CosalignError, match=said) as caught:
        run(server)
    assert caught.value.exit_code == kind("").exit_code


def test_what_a_rank_reported_comes_before_what_its_pod_shows(server: ClusterDouble) -> None:
    _fails(server, pod=_terminated(1))
    with pytest.raises(UserError, match="the loss is not finite"):
        run(server, reported=UserError("the loss is not finite"))


@pytest.mark.parametrize(
    ("pod", "kind", "said"),
    [
        (_terminated(137, "OOMKilled"), UserError, "ran out of memory"),
        ({"reason": "Evicted"}, TransientError, "taken away"),
        (_terminated(137), PeerLost, "connection reset"),
    ],
)
def test_a_report_of_a_lost_rank_comes_after_what_the_lost_pod_shows(
    server: ClusterDouble, pod: dict[str, Any], kind: type[CosalignError], said: str
) -> None:
    def script(name: str) -> None:
        server.pod(name, "Failed", node=0, **_terminated(1))
        server.pod(name, "Failed", node=1, **pod)
        server.condition(name, "Failed", reason="JobsFailed")

    server.script = script
    with pytest.raises(kind, match=said):
        run(server, reported=PeerLost("connection reset"))


def test_a_job_that_fails_without_a_trace_may_be_retried(server: ClusterDouble) -> None:
    _fails(server)
    with pytest.raises(TransientError, match="JobsFailed: told"):
        run(server)
    assert NAME in server.jobs, "a failed job is kept for people to look at"


def test_the_deadline_is_the_users_to_raise(server: ClusterDouble) -> None:
    _fails(server, "DeadlineExceeded", _terminated(143))
    with pytest.raises(UserError, match="timeout_hours"):
        run(server)


def test_a_queue_that_does_not_move_is_left_in_time(server: ClusterDouble) -> None:
    server.script = lambda name: server.condition(name, "Suspended", reason="Queued")
    settings = SETTINGS.model_copy(update={"queue_hours": 0.3 / 3600})
    with pytest.raises(TransientError, match="queue_hours"):
        run(server, settings)
    assert server.jobs == {}


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError"])
def test_a_container_that_cannot_start_ends_the_wait(server: ClusterDouble, reason: str) -> None:
    server.script = lambda name: server.pod(name, "Pending", **_waits_for(reason))
    with pytest.raises(UserError, match=f"{reason} of x: the container cannot start"):
        run(server)
    assert server.jobs == {}


def test_a_container_that_starts_late_is_waited_for(server: ClusterDouble) -> None:
    def script(name: str) -> None:
        server.pod(name, "Pending", **_waits_for("ImagePullBackOff"))
        time.sleep(0.2)
        server.pod(name, "Running")
        server.condition(name, "Complete")

    server.script = script
    run(server, waiting=replace(WAITING, stuck=60.0))


def test_a_lack_of_rights_names_the_account(server: ClusterDouble) -> None:
    server.forbidden = True
    with pytest.raises(ConfigError, match="service account: trainjobs is forbidden"):
        run(server)


def test_logs_that_may_not_be_read_are_no_reason_to_fail(
    server: ClusterDouble, capfd: pytest.CaptureFixture[str]
) -> None:
    server.logs_forbidden = True

    def script(name: str) -> None:
        server.pod(name, "Running")
        _looked_at(server)
        server.condition(name, "Complete")

    server.script = script
    run(server)
    captured = capfd.readouterr()
    assert (captured.out + captured.err).count("cannot get resource pods/log") == 1


def test_a_cluster_without_trainer_is_named(server: ClusterDouble) -> None:
    server.installed = False
    with pytest.raises(ConfigError, match="install what defines it"):
        run(server)


def test_a_refused_object_gives_the_servers_reason(server: ClusterDouble) -> None:
    with pytest.raises(ConfigError, match=r"nvidia\.com/gpu"):
        run(server, SETTINGS.model_copy(update={"resources": {"nvidia.com/gpu": "four"}}))


WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "w1"}


@pytest.mark.parametrize("owned", [True, False])
def test_the_job_belongs_to_what_the_pod_belongs_to(
    server: ClusterDouble, owned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retried step has another pod, and the job must not go with the first."""
    monkeypatch.setenv("KFP_POD_NAME", "step-pod")
    owners = [{**WORKFLOW, "controller": True, "blockOwnerDeletion": True}] if owned else []
    server.pods["step-pod"] = {
        "metadata": {"name": "step-pod", "uid": "p1", "labels": {}, "ownerReferences": owners}
    }
    _completes(server)
    run(server)
    pod = {"apiVersion": "v1", "kind": "Pod", "name": "step-pod", "uid": "p1"}
    assert server.created[0]["metadata"]["ownerReferences"] == [WORKFLOW if owned else pod]


SCRIPT = """
import sys
from pathlib import Path
from cosalign.runtime.kubernetes_api import Cluster
from tests.training.test_train_job import ORDER, SETTINGS
from cosalign.training.rank_reports import PeerLost
from cosalign.training.train_job import Left, Waiting, run_train_job
cluster = Cluster(sys.argv[1], "region-tests", Path(sys.argv[2]), None)
left = Left(lambda: False, lambda: None)
run_train_job(ORDER, SETTINGS, left, cluster, Waiting(watch=30, pause=0.01))
"""


def test_a_step_that_is_told_to_end_deletes_its_job_at_once(server: ClusterDouble) -> None:
    """In the middle of a watch that would go on for half a minute."""
    command = [sys.executable, "-c", SCRIPT, server.cluster.url, str(server.cluster.token)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as step:
        while PODS_ASKED not in server.asked:
            assert step.poll() is None
            time.sleep(0.05)
        assert NAME in server.jobs
        time.sleep(0.2)
        step.send_signal(signal.SIGTERM)
        assert step.wait(20) == -signal.SIGTERM
    assert server.jobs == {}


def test_outside_a_cluster_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match="in no pod"):
        run_train_job(ORDER, SETTINGS, Left(lambda: False, lambda: None))
