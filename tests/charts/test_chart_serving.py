"""templates/serving-*.yaml: off by default; on: who talks to whom, by which model, told what."""

from __future__ import annotations

import json

import pytest
import yaml
from tests.charts.rendering import Object, Values, of_kind, refusal, render, the
from tests.charts.test_chart_network_policies import KUBEFLOW, OUTSIDE, OWN, RELEASED, RUN, may

from cosalign.serving.settings import GatewaySettings

IMAGE = f"docker.io/vllm/vllm-openai@sha256:{'7' * 64}"
ON: Values = {
    "storage": {"root": "gs://bucket/root"},
    "serving": {
        "enabled": True,
        "gateway": {"tenantsSecret": "tenants"},
        "model": {"image": IMAGE},
    },
}
ELSEWHERE: Values = {
    "storage": {"root": "gs://bucket/root"},
    "serving": {
        "enabled": True,
        "gateway": {"tenantsSecret": "tenants", "upstreams": ["http://kserve.models:80"]},
        "model": {"enabled": False},
    },
}
GATEWAY = {**RELEASED, "app.kubernetes.io/component": "gateway"}
MODEL = {**RELEASED, "app.kubernetes.io/component": "model"}
ROLLOUT = {**RELEASED, "app.kubernetes.io/component": "rollout"}
NAME = "rel-cosalign"


def serving(**values: object) -> Values:
    return {**ON, "serving": {**ON["serving"], **values}}


def pod(objects: list[Object], name: str) -> Object:
    found: Object = the(objects, "Deployment", name)["spec"]["template"]
    return found


def settings_of(values: Values) -> GatewaySettings:
    plain = the(render(values), "ConfigMap", f"{NAME}-gateway")["data"]["gateway.yaml"]
    return GatewaySettings.model_validate_json(plain)


def test_off_by_default() -> None:
    kinds = {item["kind"] for item in render()}
    assert kinds.isdisjoint({"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"})


def test_the_gateway_is_told_what_it_reads() -> None:
    settings = settings_of(ON)
    assert settings.storage == "gs://bucket/root"
    assert settings.configs.kind == "accepted"
    assert settings.upstreams.urls == (f"http://{NAME}-model:8000",)
    assert settings.upstreams.every_address
    assert settings_of(ELSEWHERE).upstreams.urls == ("http://kserve.models:80",)
    assert not settings_of(ELSEWHERE).upstreams.every_address
    assert settings_of(serving(configs="kubernetes")).configs.kind == "kubernetes"


def test_what_it_reads_is_mounted_there() -> None:
    objects = render(ON)
    spec = pod(objects, f"{NAME}-gateway")["spec"]
    (container,) = spec["containers"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    settings = settings_of(ON)
    for file in (settings.tenants, settings.pepper_file):
        assert volumes[mounted[file.rpartition("/")[0]]]["secret"]["secretName"] == "tenants"
    (argument,) = [a for a in container["args"] if a.startswith("--settings=")]
    folder = argument.removeprefix("--settings=").rpartition("/")[0]
    assert volumes[mounted[folder]]["configMap"]["name"] in of_kind(objects, "ConfigMap")
    assert settings.cache in mounted
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.listen.port, "metrics": settings.listen.admin_port}


def test_other_settings_need_other_pods() -> None:
    one, other = (
        pod(render(values), f"{NAME}-gateway")["metadata"]["annotations"]["cosalign.dev/settings"]
        for values in (ON, serving(modelName="other"))
    )
    assert one != other


def test_it_has_time_to_finish_its_answers() -> None:
    spec = pod(render(ON), f"{NAME}-gateway")["spec"]
    settings = settings_of(ON)
    longest = settings.listen.drain_seconds + settings.upstreams.total_seconds
    assert spec["terminationGracePeriodSeconds"] > longest
    model = pod(render(ON), f"{NAME}-model")["spec"]
    (container,) = model["containers"]
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    (drains,) = [a for a in container["args"] if a.startswith("--shutdown-timeout=")]
    assert model["terminationGracePeriodSeconds"] > waits + int(drains.partition("=")[2])
    assert waits > settings.upstreams.probe_seconds


def test_a_new_model_is_there_before_the_old_one_goes() -> None:
    for name in (f"{NAME}-model", f"{NAME}-gateway"):
        spec = the(render(ON), "Deployment", name)["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_the_model_is_fetched_by_the_pointer_and_run_from_the_file_that_names_it() -> None:
    spec = pod(render(ON), f"{NAME}-model")["spec"]
    (fetch,), (server,) = spec["initContainers"], spec["containers"]
    assert fetch["args"] == [
        "fetch-model", "--storage=gs://bucket/root", "--pointer=main", "--out=/models"
    ]  # fmt: skip
    assert server["image"] == IMAGE
    assert server["args"][:2] == ["--config", "/models/vllm.yaml"]
    mounts = {m["mountPath"]: m for m in server["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    none = merged_model(gpus=0)
    (server,) = pod(render(none), f"{NAME}-model")["spec"]["containers"]
    assert "nvidia.com/gpu" not in server["resources"]["limits"]


def merged_model(**values: object) -> Values:
    return serving(model={"image": IMAGE, **values})


def test_the_rollout_may_patch_the_models_deployment_and_nothing_else() -> None:
    objects = render(ON)
    role = the(objects, "Role", f"{NAME}-rollout")
    assert role["rules"] == [
        {"apiGroups": ["apps"], "resources": ["deployments"],
         "resourceNames": [f"{NAME}-model"], "verbs": ["get", "patch"]}
    ]  # fmt: skip
    (container,) = pod(objects, f"{NAME}-rollout")["spec"]["containers"]
    assert f"--deployment={NAME}-model" in container["args"]


def test_only_pods_that_talk_to_kubernetes_have_a_token() -> None:
    for values, named in (
        (ON, {"rollout"}),
        (serving(configs="kubernetes"), {"rollout", "gateway"}),
    ):
        objects = render(values)
        found = set()
        for deployment in of_kind(objects, "Deployment").values():
            volumes = deployment["spec"]["template"]["spec"]["volumes"]
            if any("projected" in volume for volume in volumes):
                found.add(deployment["metadata"]["name"].removeprefix(f"{NAME}-"))
        assert found == named
        roles = {name.removeprefix(f"{NAME}-") for name in of_kind(objects, "Role")}
        assert named <= roles
    role = the(render(serving(configs="kubernetes")), "Role", f"{NAME}-gateway")
    assert role["rules"] == [
        {"apiGroups": ["cosalign.dev"], "resources": ["safetyconfigs"], "verbs": ["get", "list"]}
    ]


def test_who_reaches_whom() -> None:
    values = serving(configs="kubernetes")
    assert may(values, GATEWAY, (OWN, MODEL), 8000)
    assert may(values, MODEL, (OWN, GATEWAY), 8000, out=False)
    # Nobody sends a prompt past the gateway, and nobody reads its health and metrics.
    for stranger in (RUN, ROLLOUT, {"app": "theirs"}):
        assert not may(values, MODEL, (OWN, stranger), 8000, out=False)
        assert not may(values, GATEWAY, (OWN, stranger), 9090, out=False)
    assert may(values, GATEWAY, (OWN, {"app": "theirs"}), 8080, out=False)
    assert not may(values, GATEWAY, KUBEFLOW, 8080, out=False)
    assert not may(values, MODEL, (OWN, GATEWAY), 22)
    for client in (GATEWAY, MODEL, ROLLOUT):
        assert may(values, client, OUTSIDE, 443)
        assert not may(values, client, OUTSIDE, 80)
    assert may(values, GATEWAY, "10.0.0.1", 443)
    assert not may(ON, GATEWAY, "10.0.0.1", 443)
    assert not may(values, MODEL, "10.0.0.1", 443)
    assert may(values, ROLLOUT, "10.0.0.1", 443)


def test_callers_and_scrapers_are_whom_values_name() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kubeflow"}}}
    values = serving(gateway={"tenantsSecret": "t", "callers": [peer], "scrapers": [peer]})
    assert may(values, GATEWAY, KUBEFLOW, 8080, out=False)
    assert may(values, GATEWAY, KUBEFLOW, 9090, out=False)
    assert not may(values, GATEWAY, (OWN, {"app": "theirs"}), 8080, out=False)


def test_with_model_servers_elsewhere_there_are_none_here() -> None:
    names = of_kind(render(ELSEWHERE), "Deployment")
    assert set(names) == {f"{NAME}-gateway"}
    assert set(of_kind(render(ELSEWHERE), "Service")) == {f"{NAME}-gateway"}


def test_replicas_are_the_autoscalers_or_a_number() -> None:
    objects = render(ON)
    assert "replicas" not in the(objects, "Deployment", f"{NAME}-gateway")["spec"]
    scaler = the(objects, "HorizontalPodAutoscaler", f"{NAME}-gateway")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 8)
    gateway = {"tenantsSecret": "t", "autoscaling": {"enabled": False}, "replicas": 3}
    fixed = render(serving(gateway=gateway))
    assert the(fixed, "Deployment", f"{NAME}-gateway")["spec"]["replicas"] == 3
    assert not of_kind(fixed, "HorizontalPodAutoscaler")


def test_selectors_find_their_own_pods_and_no_others() -> None:
    objects = render(ON)
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"]
        for name, one in of_kind(objects, "Deployment").items()
    }
    for kind in ("Service", "PodDisruptionBudget"):
        for name, item in of_kind(objects, kind).items():
            spec = item["spec"]["selector"]
            wanted = spec.get("matchLabels", spec)
            found = [pods for pods, has in labels.items() if wanted.items() <= has.items()]
            assert found == [name]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**ON, "storage": {"root": ""}}, "storage.root is required"),
        (serving(gateway={"tenantsSecret": ""}), "tenantsSecret is required"),
        (serving(model={"image": ""}), "serving.model.image is required"),
        (serving(model={"image": "vllm/vllm-openai:latest"}), "image"),
        (serving(model={"enabled": False}), "upstreams is required"),
        (serving(configs="files"), "configs"),
        (serving(gateway={"tenantsSecret": "t", "callers": []}), "callers"),
        (serving(gateway={"tenantsSecret": "t", "callers": [{}]}), "callers"),
        (merged_model(extraArgs=["--enable-log-requests"]), "extraArgs"),
        (merged_model(extraArgs=["--served-model-name=x"]), "extraArgs"),
        (merged_model(extraArgs=["--trust-remote-code"]), "extraArgs"),
        (serving(gatway={}), "gatway"),
        (serving(gateway={"tenantsSecret": "t", "upstreams": ["http://key@host"]}), "upstreams"),
    ],
)
def test_wrong_values_are_refused(values: Values, said: str) -> None:
    assert said in refusal(values)


def test_settings_are_plain_data() -> None:
    text = the(render(ON), "ConfigMap", f"{NAME}-gateway")["data"]["gateway.yaml"]
    assert yaml.safe_load(text) == json.loads(text)
