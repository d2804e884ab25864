"""templates/reconcile.yaml: what reconciles by itself, after an install and when cron says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.object_schemas import problems
from tests.charts.pod_security import violations
from tests.charts.rendering import Object, Values, merged, of_kind, refusal, render, the
from tests.charts.test_chart_rbac import _may
from tests.pipelines.kfp_server import FakeKubeflow, kfp_server
from tests.retraining.reconcile_world import document

from cosalign.pipelines.command_line import main
from cosalign.retraining.approvers import parse_approvers
from cosalign.retraining.reconcile_commands import reconcile_command
from cosalign.store.accepted_configs import AcceptedSet
from cosalign.store.storage import open_storage, write_uri

NAME = "rel-cosalign-reconcile"
RUN_CONFIG: Values = {"prompts": {"limit": 60, "min_per_label_set": 1}}
ON: Values = {
    "storage": {"root": "gs://bucket/cosalign"},
    "runConfigs": {"weekly": RUN_CONFIG},
    "reconcile": {
        "enabled": True,
        "runConfig": "weekly",
        "approvers": {"installation": "prod", "required": False},
    },
}


def _with(**reconcile: Any) -> Values:
    return merged(ON, {"reconcile": reconcile})


def _job(values: Values = ON) -> Object:
    cron = the(render(values), "CronJob", NAME)
    found: Object = cron["spec"]["jobTemplate"]["spec"]
    return found


def _pod(values: Values = ON) -> Object:
    found: Object = _job(values)["template"]["spec"]
    return found


def _arguments(values: Values = ON) -> list[str]:
    (container,) = _pod(values)["containers"]
    assert container["command"][:3] == ["python", "-m", "cosalign.pipelines.command_line"]
    found: list[str] = [*container["command"][3:], *container["args"]]
    return found


@pytest.fixture
def kubeflow() -> Iterator[FakeKubeflow]:
    with kfp_server() as fake:
        fake.states = ["RUNNING"]
        yield fake
        assert fake.violations == []


def test_there_is_nothing_of_it_unless_it_is_asked_for() -> None:
    objects = render({"runConfigs": {"weekly": RUN_CONFIG}})
    for kind in ("CronJob", "Job", "ServiceAccount", "Role", "NetworkPolicy", "ConfigMap"):
        assert not [name for name in of_kind(objects, kind) if "reconcile" in name]


def test_its_pod_is_restricted_and_its_objects_are_valid() -> None:
    objects = render(ON)
    assert violations(_pod()) == []
    for kind in ("CronJob", "Job", "Role", "RoleBinding", "NetworkPolicy", "ConfigMap"):
        for item in of_kind(objects, kind).values():
            assert problems(item) == []
    (container,) = _pod()["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["image"] == "registry.example/cosalign/cosalign-retraining:0.1.0"


def test_one_look_at_a_time_and_the_next_is_the_retry() -> None:
    spec = the(render(ON), "CronJob", NAME)["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("* * * * *", "Forbid")
    assert (_job()["backoffLimit"], _job()["activeDeadlineSeconds"]) == (0, 600)


def test_the_hook_looks_once_after_the_pipelines_are_uploaded() -> None:
    job = the(render(ON), "Job", f"{NAME}-now")
    notes = job["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "post-install,post-upgrade"
    assert int(notes["helm.sh/hook-weight"]) > 0
    assert job["spec"]["template"]["spec"] == _pod()
    assert of_kind(render(_with(onInstall=False)), "Job") == {}


def test_without_a_schedule_it_is_started_by_hand_and_by_the_hook() -> None:
    objects = render(_with(schedule=""))
    assert of_kind(objects, "CronJob") == {}
    assert f"{NAME}-now" in of_kind(objects, "Job")


def test_its_account_may_do_what_it_needs_and_nothing_else() -> None:
    kfp = "pipelines.kubeflow.org"
    needed = {
        ("get", "cosalign.dev/safetyconfigs", "*"),
        ("list", "cosalign.dev/safetyconfigs", "*"),
        ("get", "cosalign.dev/safetyconfigs/status", "*"),
        ("patch", "cosalign.dev/safetyconfigs/status", "*"),
        ("create", "/events", "*"),
        *((verb, f"{kfp}/runs", "*") for verb in ("create", "get", "list", "terminate")),
        *((verb, f"{kfp}/experiments", "*") for verb in ("create", "get", "list")),
        *((verb, f"{kfp}/{what}", "*")
          for what in ("pipelines", "pipelines/versions") for verb in ("get", "list")),
    }  # fmt: skip
    assert _may(render(ON), NAME) == needed
    uploads = _may(render(merged(ON, {"pipelines": {"store": "none"}})), NAME)
    assert {what for verb, what, _ in uploads - needed} == {
        f"{kfp}/pipelines",
        f"{kfp}/pipelines/versions",
    }
    from_bucket = _may(render(_with(configs="gs://bucket/configs")), NAME)
    assert not [what for _, what, _ in from_bucket if what.startswith(("cosalign.dev", "/"))]
    accounts = of_kind(render(ON), "ServiceAccount")
    assert accounts[NAME]["automountServiceAccountToken"] is False
    assert _pod()["automountServiceAccountToken"] is True
    assert _pod(_with(configs="gs://bucket/c"))["automountServiceAccountToken"] is False
    assert _pod()["serviceAccountName"] == NAME


def test_an_approver_may_sign_and_neither_make_nor_delete() -> None:
    role = the(render(ON), "Role", "rel-cosalign-config-approver")
    assert {v for rule in role["rules"] for v in rule["verbs"]} == {
        "get", "list", "watch", "patch", "update",
    }  # fmt: skip


def test_every_argument_is_one_that_the_command_knows() -> None:
    values = _with(
        configs="gs://bucket/configs", pipelineRoot="gs://bucket/root",
        policy={"max_increments": 4, "evaluate_first": True},
        increment={"epochs": 1.5, "prompts": 64}, pushgateway="http://push:9091",
        webhook={"url": "https://hooks.example", "secretName": "hook"},
    )  # fmt: skip
    tolerations = [{"key": "gpu", "operator": "Exists"}]
    parameters = {"shards": 4, "tolerations": tolerations, "secret": "hub"}
    pipelines = {"store": "none", "namespace": "space", "parameters": parameters}
    values = merged(values, {"pipelines": pipelines})
    words = _arguments(values)
    assert words[0] == "reconcile"
    context = reconcile_command.make_context("reconcile", words[1:])
    given = context.params
    assert given["configs"] == "gs://bucket/configs"
    assert set(given["policy"]) == {"max_increments=4", "evaluate_first=true"}
    assert set(given["increment"]) == {"epochs=1.5", "prompts=64"}
    assert 'tolerations=[{"key":"gpu","operator":"Exists"}]' in given["parameters"]
    assert "secret=hub" in given["parameters"]
    assert "shards=4" in given["parameters"]
    assert sum("_image=" in word for word in given["parameters"]) == 5
    assert given["service_account"] == "rel-cosalign-pipeline"
    assert given["namespace"] == "space"


@pytest.mark.parametrize("store", ["kubernetes", "upload"])
def test_runs_are_of_the_versions_that_the_release_deploys(store: str) -> None:
    words = _arguments(merged(ON, {"pipelines": {"store": store}}))
    versions = {w.removeprefix("--version=") for w in words if w.startswith("--version=")}
    deployed = of_kind(render(ON), "PipelineVersion").values()
    assert versions == {f"{v['spec']['pipelineName']}={v['metadata']['name']}" for v in deployed}
    assert not [word for word in words if "_image=" in word]


def test_the_approvers_file_is_one_that_is_read() -> None:
    people = [{"name": "ada", "regions": ["*"], "keys": [{"key": "ssh-ed25519 " + _KEY}]}]
    objects = render(_with(approvers={"installation": "prod", "required": True, "people": people}))
    text = the(objects, "ConfigMap", "rel-cosalign-approvers")["data"]["approvers.yaml"]
    found = parse_approvers(text, "chart")
    assert (found.installation, found.required, list(found.people)) == ("prod", True, ["ada"])


_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIEXvw2xPKHuCKrYTHdX1O3mP3VYyJ0lmXzKCXVnCd0Wm"


def test_an_approvers_file_of_somebody_else_is_mounted_and_not_made() -> None:
    values = merged(ON, {"reconcile": {"approvers": None, "approversConfigMap": "who-approves"}})
    assert "rel-cosalign-approvers" not in of_kind(render(values), "ConfigMap")
    (volume,) = [v for v in _pod(values)["volumes"] if v["name"] == "approvers"]
    assert volume["configMap"]["name"] == "who-approves"


def test_the_webhook_s_secret_is_referred_to_and_never_held() -> None:
    values = _with(webhook={"url": "https://hooks.example", "secretName": "hook"})
    (container,) = _pod(values)["containers"]
    (entry,) = [e for e in container["env"] if e["name"] == "COSALIGN_WEBHOOK_SECRET"]
    assert entry["valueFrom"] == {"secretKeyRef": {"name": "hook", "key": "secret"}}
    assert "secretName" in refusal(_with(webhook={"url": "https://hooks.example"}))


def test_it_reaches_what_it_needs() -> None:
    extra = [{"to": [{"podSelector": {"matchLabels": {"app": "push"}}}]}]
    policy = the(render(_with(extraEgress=extra)), "NetworkPolicy", NAME)
    assert (
        policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "reconcile"
    )
    labels = _job()["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert extra[0] in policy["spec"]["egress"]
    assert "ingress" not in policy["spec"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"runConfig": "monthly"}, "there is no"),
        ({"runConfig": ""}, "there is no"),
        ({"approvers": None}, "who may propose and approve"),
        ({"approvers": {"instalation": "prod"}}, "instalation"),
        ({"schedule": "every day"}, "schedule"),
        ({"configs": "s3://bucket"}, "configs"),
        ({"policy": {"max_increment": 3}}, "max_increment"),
        ({"increment": {"previous": "x"}}, "previous"),
        ({"increment": {"epochs": "many"}}, "epochs"),
        ({"settle": 3}, "settle"),
    ],
)
def test_mistakes_reach_no_cluster(values: Values, says: str) -> None:
    assert says in refusal(merged(ON, {"reconcile": values}))


def test_it_starts_no_runs_where_their_account_is_not() -> None:
    message = refusal(merged(ON, {"pipelines": {"namespace": "team"}}))
    assert "pipelines.namespace" in message
    assert 'install the release in "team"' in message


def test_the_cronjob_s_command_starts_a_run(
    kubeflow: FakeKubeflow, gcs_root: str, tmp_path: Path
) -> None:
    values = merged(_with(configs="gs://bucket/configs", host=kubeflow.url, tokenAudience="",
                          settleSeconds=0), {"pipelines": {"store": "none"}})  # fmt: skip
    write_uri(f"{gcs_root}/configs/no-school.yaml", yaml.safe_dump(document("no-school")).encode())
    objects = render(values)
    run_config = json.loads(
        the(objects, "ConfigMap", "rel-cosalign-run-weekly")["data"]["run-config.yaml"]
    )
    assert run_config["storage"]["root"] == "gs://bucket/cosalign"
    run_config["storage"]["root"] = f"{gcs_root}/root"
    (tmp_path / "run-config.yaml").write_text(json.dumps(run_config))
    approvers = the(objects, "ConfigMap", "rel-cosalign-approvers")["data"]["approvers.yaml"]
    (tmp_path / "approvers.yaml").write_text(approvers)
    words = [
        word.replace("/etc/cosalign/run-config/", f"{tmp_path}/")
        .replace("/etc/cosalign/approvers/", f"{tmp_path}/")
        .replace("gs://bucket/configs", f"{gcs_root}/configs")
        for word in _arguments(values)
    ]
    for _ in range(2):
        assert main(words) == 0
    (run,) = kubeflow.runs
    sent = run["runtime_config"]["parameters"]
    assert sent["training_image"] == "registry.example/cosalign/cosalign-training:0.1.0"
    assert run["service_account"] == "rel-cosalign-pipeline"
    accepted = AcceptedSet(open_storage(f"{gcs_root}/root")).current()
    assert accepted is not None
    assert [config.name for config in accepted.configs] == ["no-school"]
