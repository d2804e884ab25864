"""manifests/: every object by its real schema, and what overlays and GitOps make of the chart."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml
from tests.charts.kubernetes_tools import kubectl
from tests.charts.object_schemas import problems
from tests.charts.rendering import CHART, ROOT, Object, merged, objects_in, of_kind, render, the

from cosalign.runtime.run_config import STORED_CONFIGS
from cosalign.serving.audit import FOLDER as AUDIT_FOLDER

MANIFESTS = ROOT / "manifests"
OVERLAYS = ("development", "production")
RECONCILING = yaml.safe_load((CHART / "ci" / "reconcile-values.yaml").read_text("utf-8"))
SERVING = yaml.safe_load((CHART / "ci" / "serving-values.yaml").read_text("utf-8"))
GITOPS = sorted((MANIFESTS / "gitops").rglob("*.yaml"))
PLACEHOLDER = re.compile(r"\b(PROJECT|NUMBER|POOL|LOCATION|ZONE|CLUSTER|BUCKET|SCRATCH)\b")


@cache
def _kustomized(folder: str) -> str:
    command = [kubectl(), "kustomize", str(MANIFESTS / "platform" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _overlay(name: str) -> list[Object]:
    return objects_in(_kustomized(f"overlays/{name}"))


def _settings(name: str) -> dict[str, str]:
    file = MANIFESTS / "platform" / "overlays" / name / "settings.yaml"
    settings: dict[str, str] = yaml.safe_load(file.read_text("utf-8"))["data"]
    return settings


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
def test_objects_by_their_schemas(folder: str) -> None:
    found = {
        f"{item['kind']} {item['metadata']['name']}": problems(item)
        for item in objects_in(_kustomized(folder))
    }
    assert found
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize("file", GITOPS, ids=lambda file: file.stem)
def test_gitops_objects_by_their_schemas(file: Any) -> None:
    for item in objects_in(file.read_text("utf-8")):
        assert problems(item) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_fills_every_placeholder(name: str) -> None:
    assert PLACEHOLDER.findall(_kustomized(f"overlays/{name}")) == []
    assert PLACEHOLDER.findall(_kustomized("base"))


@pytest.mark.parametrize("name", OVERLAYS)
def test_settings_reach_where_they_belong(name: str) -> None:
    settings, objects = _settings(name), _overlay(name)
    for pool in of_kind(objects, "ContainerNodePool").values():
        where = f"projects/{settings['project']}/locations/{settings['location']}"
        assert pool["spec"]["clusterRef"]["external"] == f"{where}/clusters/{settings['cluster']}"
        assert pool["spec"]["nodeLocations"] == [settings["zone"]]
    buckets = of_kind(objects, "StorageBucket")
    assert buckets["cosalign"]["spec"]["resourceID"] == settings["bucket"]
    assert buckets["cosalign-scratch"]["spec"]["resourceID"] == settings["scratchBucket"]
    for item in objects:
        notes = item["metadata"].get("annotations", {})
        given = notes.get("cnrm.cloud.google.com/project-id", settings["project"])
        assert given == settings["project"], item["metadata"]["name"]


def test_another_namespace(tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS / "platform", tmp_path / "platform")
    settings = tmp_path / "platform/overlays/production/settings.yaml"
    text = settings.read_text("utf-8").replace("namespace: cosalign", "namespace: kubeflow")
    settings.write_text(text, "utf-8")
    objects = objects_in(_kustomized(str(tmp_path / "platform/overlays/production")))
    assert set(of_kind(objects, "Namespace")) == {"kubeflow"}
    assert {o["metadata"].get("namespace", "kubeflow") for o in objects} == {"kubeflow"}
    for grant in of_kind(objects, "IAMPolicyMember").values():
        assert "/subject/ns/kubeflow/sa/cosalign-" in grant["spec"]["member"]
    selector = the(objects, "ClusterQueue", "cosalign-gpus")["spec"]["namespaceSelector"]
    assert set(selector["matchLabels"].values()) == {"kubeflow"}


def test_settings_are_never_applied() -> None:
    for name in OVERLAYS:
        assert "settings" not in of_kind(_overlay(name), "ConfigMap")


@pytest.mark.parametrize("name", OVERLAYS)
def test_roles_go_to_the_accounts_that_the_chart_makes(name: str) -> None:
    settings = _settings(name)
    values = yaml.safe_load((CHART / "ci" / "gke-values.yaml").read_text("utf-8"))
    everything = merged(merged(RECONCILING, SERVING), {**values, "fullnameOverride": "cosalign"})
    accounts = set(of_kind(render(everything), "ServiceAccount"))
    holders = set()
    for grant in of_kind(_overlay(name), "IAMPolicyMember").values():
        prefix, _, account = grant["spec"]["member"].rpartition("/subject/ns/cosalign/sa/")
        pool = f"projects/{settings['projectNumber']}/locations/global/workloadIdentityPools/"
        assert prefix == f"principal://iam.googleapis.com/{pool}{settings['workloadPool']}"
        assert grant["spec"]["resourceRef"]["name"] in of_kind(_overlay(name), "StorageBucket")
        holders.add(account)
    assert holders == accounts


def test_the_submitter_writes_run_configs_alone() -> None:
    values = yaml.safe_load((CHART / "ci" / "gke-values.yaml").read_text("utf-8"))
    bucket, _, prefix = values["storage"]["root"].removeprefix("gs://").partition("/")
    assert bucket == _settings("production")["bucket"]
    grants = of_kind(_overlay("production"), "IAMPolicyMember")
    own = [g["spec"] for g in grants.values() if g["spec"]["member"].endswith("-submitter")]
    (writes,) = [grant for grant in own if grant["role"] != "roles/storage.objectViewer"]
    where = f"projects/_/buckets/{bucket}/objects/{prefix}/{STORED_CONFIGS}/"
    assert writes["role"] == "roles/storage.objectUser"
    assert writes["condition"]["expression"] == f'resource.name.startsWith("{where}")'


def test_serving_reads_models_and_configs_and_adds_audit_rows() -> None:
    values = yaml.safe_load((CHART / "ci" / "serving-values.yaml").read_text("utf-8"))
    bucket, _, prefix = values["storage"]["root"].removeprefix("gs://").partition("/")
    found: dict[str, set[tuple[str, str]]] = {}
    for grant in of_kind(_overlay("production"), "IAMPolicyMember").values():
        spec = grant["spec"]
        said = spec.get("condition", {}).get("expression", "")
        where = said.removeprefix(f'resource.name.startsWith("projects/_/buckets/{bucket}/objects/')
        folder = where.removeprefix(f"{prefix}/").removesuffix('/")')
        role = spec["role"].removeprefix("roles/storage.")
        found.setdefault(spec["member"].rpartition("/cosalign-")[2], set()).add((role, folder))
    models = {("legacyBucketReader", ""), ("objectViewer", "models")}
    assert found["model"] == found["rollout"] == models
    own = {("objectViewer", "accepted"), ("objectCreator", AUDIT_FOLDER)}
    assert found["gateway"] == models | own


@pytest.mark.parametrize(
    ("account", "folder", "roles"),
    [
        ("pipeline", "steps", {"objectUser"}),
        ("pipeline", "models", {"objectUser"}),
        ("pipeline", "audit", {"objectCreator"}),
        *(("pipeline", name, set()) for name in ("accepted", "approvals", "readings", "reconcile")),
        ("trainer", "steps", {"objectUser"}),
        *(("trainer", name, set()) for name in ("accepted", "approvals", "audit", "reconcile")),
        *(("reconcile", name, {"objectUser"}) for name in ("accepted", "approvals", "audit")),
    ],
)
def test_no_pod_of_a_run_writes_what_is_allowed(account: str, folder: str, roles: set[str]) -> None:
    taken = 'resource.name.extract("/objects/cosalign/{folder}/")'
    held = set()
    for grant in of_kind(_overlay("production"), "IAMPolicyMember").values():
        spec = grant["spec"]
        mine = spec["member"].endswith(f"/cosalign-{account}")
        if not mine or spec["resourceRef"]["name"] != "cosalign":
            continue
        says = spec.get("condition", {}).get("expression", "true")
        assert says.count("resource.") == says.count(taken)
        if cel.evaluate(says.replace(taken, "folder"), {"folder": folder}):
            held.add(spec["role"].rpartition(".")[2])
    assert held - {"objectViewer"} == roles


def test_gpu_nodes_are_tainted_and_go_down_to_none_and_the_cpu_pool_is_not() -> None:
    pools = of_kind(_overlay("production"), "ContainerNodePool")
    for name, pool in pools.items():
        node = pool["spec"]["nodeConfig"]
        if "guestAccelerator" in node:
            (taint,) = node["taint"]
            assert (taint["key"], taint["effect"]) == ("nvidia.com/gpu", "NO_SCHEDULE")
            assert pool["spec"]["autoscaling"]["minNodeCount"] == 0
            machine = node["machineType"].rsplit("-", 1)[1]
            assert machine == f"{node['guestAccelerator'][0]['count']}g"
        else:
            assert "taint" not in node, name
            assert pool["spec"]["autoscaling"]["minNodeCount"] >= 1


def test_tasks_are_placed_on_the_pools_that_are_there_for_them() -> None:
    values = yaml.safe_load((CHART / "ci" / "gke-values.yaml").read_text("utf-8"))
    given = values["pipelines"]["parameters"]
    objects = of_kind(_overlay("production"), "ContainerNodePool")
    pools = {name: pool["spec"]["nodeConfig"] for name, pool in objects.items()}

    def selected(selector: dict[str, str]) -> list[str]:
        return [n for n, node in pools.items() if selector.items() <= node["labels"].items()]

    assert selected(given["node_selector"]) == ["cosalign-a100-40gb"]
    assert selected(given["training_node_selector"]) == ["cosalign-a100-80gb"]
    assert selected(given["cpu_node_selector"]) == ["cosalign-cpu"]
    gpus = pools["cosalign-a100-80gb"]["guestAccelerator"][0]["count"]
    assert int(given["training_accelerator_count"]) == gpus
    tolerated = {one["key"] for one in given["tolerations"]}
    assert tolerated == {taint["key"] for node in pools.values() for taint in node.get("taint", ())}


def test_the_trainer_fits_a_node_of_its_pool() -> None:
    pools = of_kind(_overlay("production"), "ContainerNodePool")
    node = pools["cosalign-a100-80gb"]["spec"]["nodeConfig"]["guestAccelerator"][0]
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["trainer"]
    assert values["gpusPerNode"] == node["count"]
    assert values["nodeSelector"]["cloud.google.com/gke-accelerator"] == node["type"]
    flavor = the(_overlay("production"), "ResourceFlavor", "a100-80gb")
    assert flavor["spec"]["nodeLabels"] == values["nodeSelector"]


def test_queues_name_each_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["kueue"]
    for name in OVERLAYS:
        objects = _overlay(name)
        queue = the(objects, "ClusterQueue", values["clusterQueue"])["spec"]
        flavors = {f["name"] for group in queue["resourceGroups"] for f in group["flavors"]}
        assert flavors == set(of_kind(objects, "ResourceFlavor"))


def test_nothing_that_lives_is_deleted_by_age() -> None:
    bucket = of_kind(_overlay("production"), "StorageBucket")["cosalign"]
    for rule in bucket["spec"]["lifecycleRule"]:
        if rule["action"]["type"] == "Delete":
            assert rule["condition"]["withState"] == "ARCHIVED"
    assert bucket["spec"]["versioning"]["enabled"] is True
    notes = bucket["metadata"]["annotations"]
    assert notes["cnrm.cloud.google.com/deletion-policy"] == "abandon"


@pytest.mark.parametrize("kind", ["Application", "HelmRelease"])
def test_the_chart_takes_the_values_that_gitops_gives_it(kind: str) -> None:
    found = {}
    for file in GITOPS:
        for item in objects_in(file.read_text("utf-8")):
            spec = item["spec"]
            values = spec.get("values") or spec.get("source", {}).get("helm", {}).get(
                "valuesObject"
            )
            if item["kind"] == kind and values:
                found[file.name] = values
    (values,) = found.values()
    assert of_kind(render({**values, "images": {**values["images"], "allowTags": False}}), "Role")


def _gitops(file: str) -> Object:
    (item,) = objects_in((MANIFESTS / "gitops" / file).read_text("utf-8"))
    return item


def _chart() -> Object:
    chart: Object = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    return chart


def test_argo_cd_takes_the_chart_from_git() -> None:
    source = _gitops("argocd/application.yaml")["spec"]["source"]
    assert source["repoURL"].endswith(".git")
    assert ROOT / source["path"] == CHART
    assert source["targetRevision"] == f"v{_chart()['version']}"


def test_flux_takes_the_chart_from_where_the_guide_pushes_it() -> None:
    chart, guide = _chart(), (ROOT / "docs/deploy.md").read_text("utf-8")
    package = f"dist/{chart['name']}-{chart['version']}.tgz"
    assert f"helm push {package} oci://$REGISTRY/charts\n" in guide
    release = _gitops("flux/helm-release.yaml")["spec"]
    repository = _gitops("flux/oci-repository.yaml")
    registry = release["values"]["images"]["registry"]
    assert repository["spec"]["url"] == f"oci://{registry}/charts/{chart['name']}"
    assert repository["spec"]["ref"]["semver"] == f"{chart['version'].rsplit('.', 1)[0]}.x"
    assert release["chartRef"] == {
        "kind": repository["kind"],
        "name": repository["metadata"]["name"],
    }
