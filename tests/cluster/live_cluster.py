"""A real API server in a test: kubectl and helm on it, CRDs, a namespace that goes again.

CRDs stay when a test ends: deleting one deletes every object of its kind, whoever made it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml
from tests.charts.kubernetes_tools import helm, kubectl
from tests.charts.rendering import CHART, Object

CRDS = Path(__file__).parents[1] / "charts" / "crds"
SECONDS = 120
HELM_SECONDS = 900
"""Helm waits for hooks, and a node may have to pull their image first."""


class Failed(Exception):
    """A command failed; the message is what it said."""


def _run(command: list[str], text: str | None, seconds: int = SECONDS) -> str:
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=seconds
    )
    if done.returncode:
        raise Failed(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def on_cluster(*arguments: str, text: str | None = None) -> str:
    """What ``kubectl`` prints; raises :class:`Failed` with what it says against."""
    return _run([kubectl(), *arguments], text)


def release(*arguments: str) -> str:
    """What ``helm`` prints on the cluster."""
    return _run([helm(), *arguments], None, HELM_SECONDS)


def read(*arguments: str) -> Any:
    """What ``kubectl get`` finds."""
    return json.loads(on_cluster("get", *arguments, "-o", "json"))


def names(kind: str, namespace: str) -> set[str]:
    """Names of a kind's objects in a namespace."""
    return {item["metadata"]["name"] for item in read(kind, "-n", namespace)["items"]}


@contextmanager
def namespace() -> Iterator[str]:
    """A namespace of its own for one test."""
    name = f"cosalign-test-{uuid4().hex[:8]}"
    on_cluster("create", "namespace", name)
    try:
        yield name
    finally:
        on_cluster("delete", "namespace", name, "--wait=false")


def install_crds(*files: Path) -> None:
    """Makes sure that the kinds of some CRD files are served."""
    for file in files:
        crd = yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)
        known = on_cluster("get", "crd", crd["metadata"]["name"], "--ignore-not-found")
        if not known:
            # Without kubectl's own check: an old server's schema of CRDs knows no CEL rules.
            text = json.dumps(_for_old_servers(crd) if _is_old() else crd)
            on_cluster("create", "--validate=false", "-f", "-", text=text)
        wait_established(crd["metadata"]["name"])


def wait_established(crd: str) -> None:
    """Waits for a kind to be served; of one just made kubectl finds no conditions, and gives up."""
    for _ in range(20):
        try:
            on_cluster("wait", "--for=condition=Established", f"crd/{crd}")
        except Failed as problem:
            if "accessor error" not in str(problem):
                raise
            time.sleep(0.5)
        else:
            return
    raise Failed(f"{crd} was not established")


def chart_crds() -> list[Path]:
    """CRD files of all kinds that the chart can render, its own apart."""
    groups = (
        "pipelines.kubeflow.org",
        "trainer.kubeflow.org",
        "kueue.x-k8s.io_local",
        "monitoring",
    )
    return [file for file in sorted(CRDS.glob("*.yaml")) if file.name.startswith(groups)]


def install_safety_config_crd() -> None:
    """Makes sure that the API server knows SafetyConfigs, by the chart's own CRD as it stands."""
    (file,) = (CHART / "crds").glob("*.yaml")
    on_cluster("apply", "--server-side", "--force-conflicts", "-f", str(file))
    wait_established("safetyconfigs.cosalign.dev")
    # Established comes a moment before the new schema is in force.
    time.sleep(2)


def server_minor() -> int:
    """The server's minor version."""
    version = json.loads(on_cluster("get", "--raw", "/version"))
    return int("".join(filter(str.isdigit, version["minor"])))


EARLIER = {
    ("batch/v1", "CronJob"): "batch/v1beta1",
    ("policy/v1", "PodDisruptionBudget"): "policy/v1beta1",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "autoscaling/v2beta2",
}
"""Versions with the same fields, by which servers of 1.20 know what later ones have under these."""


def as_this_server_knows(manifests: str) -> str:
    """Manifests as Helm wrote them, but for versions of kinds that this server has under others."""
    parts = re.split(r"^---\n", manifests, flags=re.MULTILINE)
    return "---\n".join(map(_renamed, parts)) if _is_old() else manifests


def _renamed(manifest: str) -> str:
    item = yaml.load(manifest, yaml.CSafeLoader) or {}
    now = str(item.get("apiVersion"))
    earlier = EARLIER.get((now, str(item.get("kind"))), now)
    return manifest.replace(f"apiVersion: {now}\n", f"apiVersion: {earlier}\n", 1)


def _is_old() -> bool:
    return server_minor() < 25


def _for_old_servers(node: Any) -> Any:
    """Without what servers of 1.20 stumble over: CEL rules, and defaults that are empty strings."""
    if isinstance(node, list):
        return [_for_old_servers(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept: Object = {key: _for_old_servers(value) for key, value in node.items()}
    kept.pop("x-kubernetes-validations", None)
    if kept.get("default") == "":
        del kept["default"]
    keys = kept.get("x-kubernetes-list-map-keys", [])
    entry = node["items"].get("properties", {}) if keys and "items" in node else {}
    if any(entry.get(key, {}).get("default") == "" for key in keys):
        del kept["x-kubernetes-list-map-keys"]
        kept["x-kubernetes-list-type"] = "atomic"
    return kept


def can_i(account: str, space: str, verb: str, what: str) -> bool:
    """What the API server says a service account of a namespace may do there.

    It is asked as KFP asks it, by a SubjectAccessReview: unlike ``kubectl auth can-i`` that works
    for resources without objects too, such as KFP's runs.

    Args:
        account: The service account.
        space: Its namespace.
        verb: What it wants to do.
        what: ``resource[.group][:subresource][/name]``.
    """
    path, _, name = what.partition("/")
    kind, _, sub = path.partition(":")
    resource, _, group = kind.partition(".")
    wanted = {"namespace": space, "verb": verb, "group": group, "resource": resource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{space}:{account}",
            "groups": [
                "system:serviceaccounts",
                f"system:serviceaccounts:{space}",
                "system:authenticated",
            ],
            "resourceAttributes": {**wanted, "subresource": sub, "name": name},
        },
    }
    answer = json.loads(on_cluster("create", "-f", "-", "-o", "json", text=json.dumps(review)))
    allowed: bool = answer["status"]["allowed"]
    return allowed


def kubectl_can_i(account: str, space: str, verb: str, what: str) -> bool:
    """What ``kubectl auth can-i`` says; for resources that the server has."""
    subject = f"system:serviceaccount:{space}:{account}"
    command = [kubectl(), "auth", "can-i", verb, what, "-n", space, "--as", subject]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    answer = done.stdout.strip()
    assert answer in ("yes", "no"), done.stdout + done.stderr
    return answer == "yes"


assert os.environ.get("KUBECONFIG"), "KUBECONFIG must name a cluster to test on"
