"""The chart's own pods on a real cluster: they start as they are hardened, and do their work.

Images come by digest from the registry, and so does the chart, as Helm's users get it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.rendering import CHART
from tests.cluster.cluster_world import (
    BUCKET,
    IMAGES,
    advertise_gpus,
    image,
    node_address,
    registry,
)
from tests.cluster.live_cluster import (
    Failed,
    chart_crds,
    install_crds,
    install_safety_config_crd,
    names,
    namespace,
    on_cluster,
    read,
    release,
)
from tests.cluster.task_pods import Object
from tests.object_store import object_store
from tests.pipelines.kfp_server import FakeKubeflow, kfp_server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
WITHOUT_POD = ("synthesis", "scoring", "evaluation", "pairing", "retraining")
SCRATCH = "/tmp"  # noqa: S108  a mount
ROOT = f"gs://{BUCKET}/installed"
SECONDS = 300
WRITES = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x')"
ASKS = """
import json, os, ssl, sys, urllib.error, urllib.request
account = "/var/run/secrets/kubernetes.io/serviceaccount"
trust = ssl.create_default_context(cafile=f"{account}/ca.crt")
token = open(f"{account}/token").read()
host = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
found = {}
for path in sys.argv[1:]:
    asked = urllib.request.Request(host + path, headers={"Authorization": f"Bearer {token}"})
    try:
        found[path] = urllib.request.urlopen(asked, context=trust).status
    except urllib.error.HTTPError as refused:
        found[path] = refused.code
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def kubeflow() -> Iterator[FakeKubeflow]:
    with kfp_server(node_address()) as fake:
        yield fake
        assert fake.violations == []


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from google.cloud import storage

    with object_store(tmp_path_factory.mktemp("objects"), node_address()) as url:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", url)
            storage.Client.create_anonymous_client().create_bucket(BUCKET)
        yield url


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The chart in the registry, under its digest."""
    folder = tmp_path_factory.mktemp("chart")
    release("package", str(CHART), "--destination", str(folder))
    (package,) = folder.glob("*.tgz")
    release("push", str(package), f"oci://{registry()}/charts", "--plain-http")
    return f"oci://{registry()}/charts/cosalign"


@pytest.fixture(scope="module")
def values(kubeflow: FakeKubeflow, store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("values") / "values.yaml"
    given = {
        "storage": {"root": ROOT},
        "pipelines": {"store": "upload", "upload": {"host": kubeflow.url}},
        "pods": {"environment": {"STORAGE_EMULATOR_HOST": store}},
        "runConfigs": {"weekly": {"prompts": {"limit": 1000}}},
        "trainer": {
            "enabled": True, "gpusPerNode": 1, "cpu": "100m", "memory": "3Gi",
            "sharedMemory": "1Gi", "scratch": "1Gi",
            "nodeSelector": {"cloud.google.com/gke-accelerator": None},
        },
    }  # fmt: skip
    file.write_text(yaml.safe_dump(given), "utf-8")
    return file


@pytest.fixture(scope="module")
def installed(chart: str, values: Path) -> Iterator[tuple[str, str]]:
    """A namespace with a release from the registry, and what Helm said."""
    install_crds(*chart_crds())
    install_safety_config_crd()
    advertise_gpus()
    with namespace() as name:
        said = release(
            "install", "cosalign", chart, "--version", "0.1.0", "--plain-http", "-n", name,
            "-f", str(IMAGES), "-f", str(values), "--timeout", "5m",
        )  # fmt: skip
        yield name, said


@pytest.fixture(scope="module")
def space(installed: tuple[str, str]) -> str:
    return installed[0]


def finished(space: str, pod: str) -> tuple[int, str, Object]:
    """A pod's exit code, log and status, once it has ended."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        status = read("pod", pod, "-n", space)["status"]
        if status["phase"] in ("Succeeded", "Failed"):
            (container,) = status["containerStatuses"]
            code: int = container["state"]["terminated"]["exitCode"]
            return code, on_cluster("logs", pod, "-n", space), container
        time.sleep(1)
    raise AssertionError(f"{pod} did not end: {status}")


def run_pod(space: str, name: str, spec: Object) -> tuple[int, str, Object]:
    item = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    on_cluster("create", "-n", space, "-f", "-", text=json.dumps(item))
    try:
        return finished(space, name)
    finally:
        on_cluster("delete", "pod", name, "-n", space, "--wait=false")


def test_the_pipelines_were_uploaded_by_the_install(
    installed: tuple[str, str], kubeflow: FakeKubeflow
) -> None:
    space, said = installed
    uploaded = {version["display_name"] for version in kubeflow.versions}
    assert len(uploaded) == 2
    assert all(name in said for name in uploaded), "NOTES name the versions"
    (token,) = {token for token in kubeflow.tokens if token}
    assert token.startswith("Bearer ey")
    assert image("scoring") in kubeflow.packages[0]
    (pod,) = read("pods", "-n", space, "-l", "job-name=cosalign-pipeline-upload")["items"]
    assert pod["status"]["containerStatuses"][0]["imageID"] == image("retraining")


def test_an_upgrade_with_another_image_uploads_another_version(
    space: str, chart: str, values: Path, kubeflow: FakeKubeflow
) -> None:
    before = {version["display_name"] for version in kubeflow.versions}
    common = ("cosalign", chart, "--version", "0.1.0", "--plain-http", "-n", space,
              "-f", str(IMAGES), "-f", str(values), "--timeout", "5m")  # fmt: skip
    release("upgrade", *common)
    assert {version["display_name"] for version in kubeflow.versions} == before
    release("upgrade", *common, "--set", f"images.scoring.digest=sha256:{'9' * 64}")
    after = {version["display_name"] for version in kubeflow.versions}
    # The pipeline `evaluate` does not run that image.
    assert len(after - before) == 1
    release("upgrade", *common)


def test_a_kubeflow_that_refuses_fails_the_upgrade(
    space: str, chart: str, values: Path, kubeflow: FakeKubeflow
) -> None:
    kubeflow.answers = [403] * 40
    with pytest.raises(Failed, match="failed"):
        release(
            "upgrade", "cosalign", chart, "--version", "0.1.0", "--plain-http", "-n", space,
            "-f", str(IMAGES), "-f", str(values), "--timeout", "5m",
            "--set", "pipelines.upload.retries=0",
        )  # fmt: skip
    kubeflow.answers = []
    (pod,) = read("pods", "-n", space, "-l", "job-name=cosalign-pipeline-upload")["items"]
    log = on_cluster("logs", pod["metadata"]["name"], "-n", space)
    assert "the server answers 403" in log
    assert "Traceback" not in log


def test_helm_test_reads_configs_and_uses_the_storage(space: str) -> None:
    said = release("test", "cosalign", "-n", space, "--logs", "--timeout", "5m")
    assert "Succeeded" in said
    assert f"{ROOT}: written, read, deleted" in said
    assert "run-config.yaml: a run config" in said
    pod = read("pod", "cosalign-install-check", "-n", space)
    assert pod["status"]["containerStatuses"][0]["imageID"] == image("pairing")


def test_a_trainer_s_pod_starts_as_the_runtime_describes_it(space: str) -> None:
    runtime = read("trainingruntime", "cosalign", "-n", space)
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    container |= {"command": ["python", "-m", "cosalign.training", "--self-test"], "args": []}
    code, log, status = run_pod(space, "trainer", {**spec, "restartPolicy": "Never"})
    assert code == 0, log
    assert json.loads(log.splitlines()[-1])["component"] == "training"
    assert status["imageID"] == image("training")


@pytest.mark.parametrize("component", WITHOUT_POD)
def test_an_image_is_whole_under_restricted(space: str, component: str) -> None:
    spec = restricted(component, ["--self-test"])
    code, log, status = run_pod(space, f"whole-{component}", spec)
    assert code == 0, log
    assert status["imageID"] == image(component)


@pytest.mark.parametrize(("path", "code"), [("/app/x", 1), ("/packages/x", 1), (f"{SCRATCH}/x", 0)])
def test_only_scratch_space_can_be_written(space: str, path: str, code: int) -> None:
    spec = restricted("pairing", [])
    spec["containers"][0]["command"] = ["python", "-c", WRITES, path]
    found, log, _ = run_pod(space, "writer", spec)
    assert found == code, log
    assert not code or "Read-only file system" in log


MAY = {
    "cosalign-pipeline": {
        "/api/v1/namespaces/{space}/pods": 200,
        "/api/v1/namespaces/{space}/configmaps/kfp-launcher": 200,
        "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{space}/trainjobs": 200,
        "/api/v1/namespaces/{space}/configmaps": 403,
        "/api/v1/namespaces/{space}/secrets": 403,
        "/apis/cosalign.dev/v1alpha1/namespaces/{space}/safetyconfigs": 403,
        "/api/v1/namespaces/kube-system/pods": 403,
        "/api/v1/nodes": 403,
    },
    "cosalign-submitter": {
        "/apis/cosalign.dev/v1alpha1/namespaces/{space}/safetyconfigs": 403,
        "/api/v1/namespaces/{space}/pods": 403,
        "/api/v1/namespaces/{space}/secrets": 403,
    },
    "cosalign-trainer": {
        "/api/v1/namespaces/{space}/pods": 403,
        "/apis/cosalign.dev/v1alpha1/namespaces/{space}/safetyconfigs": 403,
    },
}
"""What the API server answers to a pod, by account and path."""


@pytest.mark.parametrize("account", MAY)
def test_permissions_from_inside_a_pod(space: str, account: str) -> None:
    if "kfp-launcher" not in names("configmaps", space):
        on_cluster("create", "configmap", "kfp-launcher", "-n", space)
    wanted = {path.format(space=space): code for path, code in MAY[account].items()}
    spec = restricted("pairing", [])
    spec["containers"][0]["command"] = ["python", "-c", ASKS, *wanted]
    spec |= {"serviceAccountName": account, "automountServiceAccountToken": True}
    code, log, _ = run_pod(space, account, spec)
    assert code == 0, log
    assert json.loads(log) == wanted


def restricted(component: str, arguments: list[str]) -> Object:
    """A pod as Pod Security "restricted" wants it, with nothing to write to but scratch space."""
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": image(component),
                "args": arguments,
                "resources": {"limits": {"memory": "3Gi"}, "requests": {"memory": "256Mi"}},
                "securityContext": context,
                "volumeMounts": [{"name": "scratch", "mountPath": SCRATCH}],
            }
        ],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
    }
