"""templates/rbac.yaml and service-accounts.yaml: who may do what, and nothing else.

What the rules mean to a real API server is tested in tests/cluster; here, that each account holds
exactly the rules that its work needs.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.charts.rendering import VALUE_SETS, Object, Values, of_kind, render, render_set, the


def _may(
    objects: list[Object], account: str, namespace: str = "space"
) -> set[tuple[str, str, str]]:
    """(verb, group/resource, name or ``*``) of all that an account may do in a namespace."""
    there = [item for item in objects if item["metadata"].get("namespace") == namespace]
    roles = of_kind(there, "Role")
    allowed = set()
    for binding in of_kind(there, "RoleBinding").values():
        if any(subject["name"] == account for subject in binding["subjects"]):
            for rule in roles[binding["roleRef"]["name"]]["rules"]:
                allowed |= set(_granted(rule))
    return allowed


def _granted(rule: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (verb, f"{group}/{resource}", name)
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", ["*"])
    ]


RUN_POD = {
    ("get", "/configmaps", "kfp-launcher"),
    ("get", "/pods", "*"),
    ("list", "/pods", "*"),
    ("create", "argoproj.io/workflowtaskresults", "*"),
    ("patch", "argoproj.io/workflowtaskresults", "*"),
}


def test_run_pods() -> None:
    assert _may(render(), "rel-cosalign-pipeline") == RUN_POD


def test_run_pods_read_the_object_store_s_secret_and_no_other() -> None:
    values = {"kfp": {"objectStoreSecrets": ["store"]}}
    found = _may(render(values), "rel-cosalign-pipeline")
    assert found - RUN_POD == {("get", "/secrets", "store")}


def test_run_pods_start_train_jobs_where_there_is_a_trainer() -> None:
    found = _may(render({"trainer": {"enabled": True}}), "rel-cosalign-pipeline")
    verbs = {verb for verb, resource, _ in found - RUN_POD if "trainjobs" in resource}
    assert verbs == {"create", "get", "list", "watch", "delete"}
    logs = {(verb, what) for verb, what, _ in found - RUN_POD if "log" in what}
    assert logs == {("get", "/pods/log")}


def test_the_submitter_starts_runs_and_sees_no_config() -> None:
    found = _may(render(), "rel-cosalign-submitter")
    assert {what.partition("/")[0] for _, what, _ in found} == {"pipelines.kubeflow.org"}


@pytest.mark.parametrize("store", ["kubernetes", "upload", "none"])
def test_the_submitter_has_pipelines_where_they_lie_and_starts_runs_in_its_own(store: str) -> None:
    objects = render({"pipelines": {"store": store, "namespace": "team"}})
    account = "rel-cosalign-submitter"
    found = _may(objects, account, "team")
    assert found == {
        (verb, f"pipelines.kubeflow.org/{what}", "*")
        for verb in ("create", "get", "list")
        for what in ("pipelines", "pipelines/versions")
    }
    assert _may(objects, account) == _may(render(), account) > found
    (binding,) = [
        item
        for item in objects
        if item["kind"] == "RoleBinding" and item["metadata"]["namespace"] == "team"
    ]
    assert [subject["namespace"] for subject in binding["subjects"]] == ["space"]


@pytest.mark.parametrize("namespace", ["", "space"])
def test_the_release_s_own_namespace_has_each_role_once(namespace: str) -> None:
    objects = render({"pipelines": {"namespace": namespace}})
    assert [o for o in objects if o["kind"] == "Role"] == list(of_kind(objects, "Role").values())


def test_the_trainer_may_do_nothing() -> None:
    assert _may(render({"trainer": {"enabled": True}}), "rel-cosalign-trainer") == set()


def test_roles_for_people_are_bound_to_nobody_and_aggregated_to_nothing() -> None:
    objects = render()
    editor = the(objects, "Role", "rel-cosalign-config-editor")
    viewer = the(objects, "Role", "rel-cosalign-config-viewer")
    assert {r for rule in editor["rules"] for r in rule["resources"]} == {"safetyconfigs"}
    assert {v for rule in viewer["rules"] for v in rule["verbs"]} == {"get", "list", "watch"}
    bound = {b["roleRef"]["name"] for b in of_kind(objects, "RoleBinding").values()}
    assert bound.isdisjoint({"rel-cosalign-config-editor", "rel-cosalign-config-viewer"})
    for role in (editor, viewer):
        assert not [key for key in role["metadata"]["labels"] if "aggregate" in key]


@pytest.mark.parametrize("values", VALUE_SETS)
def test_no_wildcards_and_nothing_cluster_wide(values: str) -> None:
    objects = render_set(values)
    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == {}
    for role in of_kind(objects, "Role").values():
        for rule in role["rules"]:
            assert "*" not in (*rule["verbs"], *rule["resources"], *rule["apiGroups"])
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"]


def test_accounts_and_their_annotations() -> None:
    note = {"iam.gke.io/gcp-service-account": "a@b.iam.gserviceaccount.com"}
    objects = render({"serviceAccounts": {"submitter": {"annotations": note}}})
    accounts = of_kind(objects, "ServiceAccount")
    assert set(accounts) == {"rel-cosalign-pipeline", "rel-cosalign-submitter"}
    assert accounts["rel-cosalign-submitter"]["metadata"]["annotations"] == note
    mounted = {name: item["automountServiceAccountToken"] for name, item in accounts.items()}
    assert mounted == {"rel-cosalign-pipeline": True, "rel-cosalign-submitter": False}


@pytest.mark.parametrize(
    ("account", "name"),
    [
        ({"create": True, "name": "own"}, "own"),
        ({"create": False, "name": "theirs"}, "theirs"),
        ({"create": False}, "default"),
    ],
)
def test_accounts_of_other_names(account: Values, name: str) -> None:
    objects = render({"serviceAccounts": {"pipeline": account}})
    binding = the(objects, "RoleBinding", "rel-cosalign-pipeline")
    assert [subject["name"] for subject in binding["subjects"]] == [name]
    assert (name in of_kind(objects, "ServiceAccount")) is account["create"]


def test_pull_secrets_reach_the_accounts() -> None:
    objects = render({"images": {"pullSecrets": ["credentials"]}})
    for account in of_kind(objects, "ServiceAccount").values():
        assert account["imagePullSecrets"] == [{"name": "credentials"}]


def test_none_of_it_where_others_administer() -> None:
    objects = render({"rbac": {"create": False}})
    assert of_kind(objects, "Role") == of_kind(objects, "RoleBinding") == {}
