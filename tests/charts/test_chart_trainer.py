"""templates/training-runtime.yaml, kueue.yaml, priority-class.yaml and what goes with them."""

from __future__ import annotations

from tests.charts.rendering import Object, Values, of_kind, render, the

from cosalign.domain.run_config import TrainingGroup
from cosalign.domain.run_config.train_job import TrainJobSettings

ON: Values = {"trainer": {"enabled": True}}


def _pod(values: Values) -> Object:
    runtime = the(render(values), "TrainingRuntime", "rel-cosalign")
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    # The name and the label by which Trainer finds the job that it puts a TrainJob's settings into.
    assert job["name"] == "node"
    labels = job["template"]["metadata"]["labels"]
    assert labels["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    pod: Object = job["template"]["spec"]["template"]
    return pod


def test_off_by_default() -> None:
    kinds = {item["kind"] for item in render()}
    assert kinds.isdisjoint({"TrainingRuntime", "LocalQueue", "PriorityClass", "ResourceQuota"})


def test_gpus_memory_and_shared_memory() -> None:
    values = {"trainer": {"enabled": True, "gpusPerNode": 8, "memory": "900Gi", "nodes": 2}}
    spec = _pod(values)["spec"]
    (container,) = spec["containers"]
    assert container["name"] == "node"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8, "memory": "900Gi"}
    assert container["resources"]["requests"]["nvidia.com/gpu"] == 8
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume["emptyDir"] for volume in spec["volumes"]}
    assert volumes[mounts["/dev/shm"]] == {"medium": "Memory", "sizeLimit": "64Gi"}  # noqa: S108
    runtime = the(render(values), "TrainingRuntime", "rel-cosalign")
    assert runtime["spec"]["mlPolicy"]["numNodes"] == 2


def test_its_pod_may_save_for_as_long_as_values_say_and_run_configs_take_for_granted() -> None:
    granted = _pod(ON)["spec"]["terminationGracePeriodSeconds"]
    assert granted == TrainingGroup().grace_seconds
    values = {"trainer": {"enabled": True, "graceSeconds": 1200}}
    assert _pod(values)["spec"]["terminationGracePeriodSeconds"] == 1200


def test_it_goes_where_gpus_are() -> None:
    spec = _pod(ON)["spec"]
    assert spec["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-a100-80gb"}
    assert {taint["key"] for taint in spec["tolerations"]} == {"nvidia.com/gpu"}


def test_every_place_it_writes_is_a_volume() -> None:
    (container,) = _pod(ON)["spec"]["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    written = {e["value"] for e in container["env"] if e["name"] in ("HOME", "TMPDIR")}
    assert written <= mounted


def test_a_train_job_of_a_run_finds_it_by_its_settings_defaults() -> None:
    settings = TrainJobSettings()
    objects = render({**ON, "fullnameOverride": "cosalign"})
    assert the(objects, settings.runtime_kind, settings.runtime)
    (container,) = _pod(ON)["spec"]["containers"]
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert any(settings.cache.startswith(f"{path}/") for path in mounted)


def test_its_account_and_labels_are_those_that_policies_speak_of() -> None:
    objects = render(ON)
    pod = _pod(ON)
    assert pod["spec"]["serviceAccountName"] in of_kind(objects, "ServiceAccount")
    policy = the(objects, "NetworkPolicy", "rel-cosalign-trainer")
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted.items() <= pod["metadata"]["labels"].items()


def test_its_priority_is_the_class_made_here_or_one_that_exists() -> None:
    own = {**ON, "priorityClass": {"create": True, "name": "urgent", "value": 7}}
    assert the(render(own), "PriorityClass", "urgent")["value"] == 7
    assert _pod(own)["spec"]["priorityClassName"] == "urgent"
    theirs = {**ON, "priorityClass": {"name": "theirs"}}
    assert of_kind(render(theirs), "PriorityClass") == {}
    assert _pod(theirs)["spec"]["priorityClassName"] == "theirs"
    assert "priorityClassName" not in _pod(ON)["spec"]


def test_the_queue() -> None:
    values = {"kueue": {"enabled": True, "localQueue": "q", "clusterQueue": "gpus"}}
    assert the(render(values), "LocalQueue", "q")["spec"] == {"clusterQueue": "gpus"}


def test_the_quota() -> None:
    values = {"resourceQuota": {"enabled": True, "hard": {"requests.nvidia.com/gpu": "4"}}}
    hard = the(render(values), "ResourceQuota", "rel-cosalign")["spec"]["hard"]
    assert hard == {"requests.nvidia.com/gpu": "4", "persistentvolumeclaims": "0"}


def test_the_service_monitor_finds_services_of_this_release() -> None:
    values = {"serviceMonitor": {"enabled": True, "labels": {"release": "prom"}}}
    monitor = the(render(values), "ServiceMonitor", "rel-cosalign")
    assert monitor["metadata"]["labels"]["release"] == "prom"
    assert monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "rel"
    assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == ["metrics"]
