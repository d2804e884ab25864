"""What the chart's roles mean to a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.charts.rendering import CHART
from tests.cluster.live_cluster import (
    Failed,
    can_i,
    chart_crds,
    install_crds,
    install_safety_config_crd,
    kubectl_can_i,
    namespace,
    on_cluster,
    release,
)

pytestmark = pytest.mark.cluster
CONFIGS = "safetyconfigs.cosalign.dev"
RECONCILE = (
    'reconcile={"enabled": true, "runConfig": "weekly", "schedule": "", "onInstall": false, '
    '"approvers": {"installation": "tests", "required": false}},runConfigs={"weekly": {}}'
)
"""Reconcile without its CronJob, a kind that old servers do not have."""


@pytest.fixture(scope="module")
def space() -> Iterator[str]:
    install_crds(*chart_crds())
    install_safety_config_crd()
    with namespace() as name:
        release(
            "install", "cosalign", str(CHART), "-n", name, "-f", str(CHART / "ci/tags-values.yaml"),
            "--set", "trainer.enabled=true", "--set", "kfp.objectStoreSecrets={store}",
            "--set-json", RECONCILE,
        )  # fmt: skip
        for role in ("editor", "approver", "viewer"):
            on_cluster("create", "serviceaccount", role, "-n", name)
            on_cluster(
                "create", "rolebinding", role, "-n", name, f"--role=cosalign-config-{role}",
                f"--serviceaccount={name}:{role}",
            )  # fmt: skip
        yield name


MAY = [
    ("cosalign-pipeline", "get", "configmaps/kfp-launcher"),
    ("cosalign-pipeline", "get", "secrets/store"),
    ("cosalign-pipeline", "list", "pods"),
    ("cosalign-pipeline", "create", "workflowtaskresults.argoproj.io"),
    ("cosalign-pipeline", "patch", "workflowtaskresults.argoproj.io"),
    ("cosalign-pipeline", "create", "trainjobs.trainer.kubeflow.org"),
    ("cosalign-pipeline", "get", "pods:log"),
    ("cosalign-submitter", "create", "runs.pipelines.kubeflow.org"),
    ("cosalign-submitter", "create", "pipelines.pipelines.kubeflow.org:versions"),
    ("cosalign-submitter", "terminate", "runs.pipelines.kubeflow.org"),
    ("cosalign-reconcile", "list", CONFIGS),
    ("cosalign-reconcile", "patch", f"{CONFIGS}:status"),
    ("cosalign-reconcile", "create", "events"),
    ("cosalign-reconcile", "create", "runs.pipelines.kubeflow.org"),
    ("cosalign-reconcile", "terminate", "runs.pipelines.kubeflow.org"),
    ("approver", "patch", CONFIGS),
    ("editor", "create", CONFIGS),
    ("editor", "delete", CONFIGS),
    ("viewer", "get", CONFIGS),
]
MAY_NOT = [
    ("cosalign-pipeline", "get", "configmaps/another"),
    ("cosalign-pipeline", "list", "configmaps"),
    ("cosalign-pipeline", "get", "secrets/another"),
    ("cosalign-pipeline", "list", "secrets"),
    ("cosalign-pipeline", "create", "pods"),
    ("cosalign-pipeline", "delete", "pods"),
    ("cosalign-pipeline", "create", "pods:exec"),
    ("cosalign-pipeline", "get", CONFIGS),
    ("cosalign-pipeline", "patch", f"{CONFIGS}:status"),
    ("cosalign-submitter", "get", CONFIGS),
    ("cosalign-reconcile", "update", CONFIGS),
    ("cosalign-reconcile", "patch", CONFIGS),
    ("cosalign-reconcile", "create", CONFIGS),
    ("cosalign-reconcile", "delete", CONFIGS),
    ("cosalign-reconcile", "get", "secrets"),
    ("cosalign-reconcile", "create", "pods"),
    ("cosalign-reconcile", "create", "pipelines.pipelines.kubeflow.org:versions"),
    ("cosalign-reconcile", "update", "configmaps"),
    ("approver", "create", CONFIGS),
    ("approver", "delete", CONFIGS),
    ("approver", "patch", f"{CONFIGS}:status"),
    ("cosalign-submitter", "get", "secrets"),
    ("cosalign-submitter", "create", "pods"),
    ("cosalign-submitter", "delete", "runs.pipelines.kubeflow.org"),
    ("cosalign-submitter", "update", "configmaps"),
    ("cosalign-trainer", "get", "pods"),
    ("cosalign-trainer", "get", "secrets"),
    ("cosalign-trainer", "get", CONFIGS),
    ("editor", "patch", f"{CONFIGS}:status"),
    ("editor", "get", "secrets"),
    ("editor", "create", "runs.pipelines.kubeflow.org"),
    ("viewer", "update", CONFIGS),
    ("default", "get", CONFIGS),
]


@pytest.mark.parametrize(("account", "verb", "what"), MAY)
def test_may(space: str, account: str, verb: str, what: str) -> None:
    assert can_i(account, space, verb, what)


@pytest.mark.parametrize(("account", "verb", "what"), MAY_NOT)
def test_may_not(space: str, account: str, verb: str, what: str) -> None:
    assert not can_i(account, space, verb, what)


def _of_the_server(cases: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    groups = ("secrets", "configmaps", "pods", CONFIGS)
    return [case for case in cases if case[2].split("/")[0] in groups]


@pytest.mark.parametrize(
    ("case", "answer"),
    [(c, True) for c in _of_the_server(MAY)] + [(c, False) for c in _of_the_server(MAY_NOT)],
)
def test_kubectl_auth_can_i(space: str, case: tuple[str, str, str], answer: bool) -> None:
    account, verb, what = case
    assert kubectl_can_i(account, space, verb, what) is answer


@pytest.mark.parametrize("account", ["cosalign-pipeline", "cosalign-reconcile", "editor"])
def test_nothing_in_another_namespace(space: str, account: str) -> None:
    subject = f"system:serviceaccount:{space}:{account}"
    with pytest.raises(Failed, match="forbidden"):
        on_cluster("get", CONFIGS, "-n", "kube-system", "--as", subject)


def test_a_status_by_what_reconciles_and_by_nobody_else(space: str) -> None:
    config = {
        "apiVersion": "cosalign.dev/v1alpha1",
        "kind": "SafetyConfig",
        "metadata": {"name": "school-no", "namespace": space},
        "spec": {"taxonomy": {"name": "cosa", "version": "1"}, "region": "no", "allowedRisks": []},
    }
    editor = f"system:serviceaccount:{space}:editor"
    on_cluster("create", "-f", "-", "--as", editor, text=json.dumps(config))
    patch = json.dumps({"status": {"phase": "Promoted", "form": "categorical", "score": 0.41}})
    status = ("patch", CONFIGS, "school-no", "-n", space, "--type=merge", "--subresource=status")
    with pytest.raises(Failed, match="forbidden"):
        on_cluster(*status, "-p", patch, "--as", editor)
    reconcile = f"system:serviceaccount:{space}:cosalign-reconcile"
    on_cluster(*status, "-p", patch, "--as", reconcile)
    spec = json.dumps({"spec": {"region": "se"}})
    with pytest.raises(Failed, match="forbidden"):
        on_cluster(
            "patch", CONFIGS, "school-no", "-n", space, "--type=merge", "-p", spec,
            "--as", reconcile,
        )  # fmt: skip
    shown = on_cluster(
        "get", "safety", "-n", space, "--as", f"system:serviceaccount:{space}:viewer"
    )
    header, row = shown.splitlines()
    assert header.split() == ["NAME", "REGION", "FORM", "PHASE", "SCORE", "AGE"]
    assert row.split()[:5] == ["school-no", "no", "categorical", "Promoted", "0.41"]
