"""templates/network-policies.yaml, judged by what gets through and not by how it is written."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.charts.object_schemas import problems
from tests.charts.rendering import CHART, Object, Values, of_kind, render

Labels = dict[str, str]
Peer = tuple[Labels, Labels] | str
"""A pod by its namespace's and its own labels, or an address outside the cluster."""

RUN = {"pipelines.kubeflow.org/v2_component": "true"}
RELEASED = {"app.kubernetes.io/name": "cosalign", "app.kubernetes.io/instance": "rel"}
SUBMITTER = {**RELEASED, "app.kubernetes.io/component": "submitter"}
CHECK = {**RELEASED, "app.kubernetes.io/component": "install-check"}
UPLOAD = {**RELEASED, "app.kubernetes.io/component": "pipeline-upload"}
TRAINER = {**RELEASED, "app.kubernetes.io/component": "trainer"}
STRANGER = {"app": "someone-elses"}
OWN = {"kubernetes.io/metadata.name": "space"}
KUBEFLOW: Peer = ({"kubernetes.io/metadata.name": "kubeflow"}, {"app": "ml-pipeline"})
DNS: Peer = ({"kubernetes.io/metadata.name": "kube-system"}, {"k8s-app": "kube-dns"})
OUTSIDE = "142.250.1.1"


def _matches(selector: Object, labels: Labels) -> bool:
    assert set(selector) <= {"matchLabels"}, "the oracle knows no expressions"
    wanted: Labels = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())


def _reaches(peer: Object, other: Peer) -> bool:
    if "ipBlock" in peer:
        if not isinstance(other, str):
            return False
        block = peer["ipBlock"]
        address = ip_address(other)
        excepted = any(address in ip_network(cidr) for cidr in block.get("except", []))
        return address in ip_network(block["cidr"]) and not excepted
    if isinstance(other, str):
        return False
    namespace, labels = other
    in_namespace = (
        _matches(peer["namespaceSelector"], namespace)
        if "namespaceSelector" in peer
        else namespace == OWN
    )
    return in_namespace and _matches(peer.get("podSelector", {}), labels)


def _let_through(rule: Object, side: str, other: Peer, port: int, protocol: str) -> bool:
    peers = rule.get(side)
    ports = rule.get("ports")
    return (peers is None or any(_reaches(peer, other) for peer in peers)) and (
        ports is None
        or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in ports)
    )


def may(
    values: Values, pod: Labels, other: Peer, port: int, *, protocol: str = "TCP", out: bool = True
) -> bool:
    """Whether a pod may reach another place (or, with ``out=False``, be reached from there)."""
    kind, side, rules = ("Egress", "to", "egress") if out else ("Ingress", "from", "ingress")
    policies: list[Any] = [p["spec"] for p in of_kind(render(values), "NetworkPolicy").values()]
    binding = [p for p in policies if kind in p["policyTypes"] and _matches(p["podSelector"], pod)]
    return not binding or any(
        _let_through(rule, side, other, port, protocol)
        for policy in binding
        for rule in policy.get(rules) or []
    )


DEFAULTS: Values = {"trainer": {"enabled": True}}


@pytest.mark.parametrize("pod", [RUN, SUBMITTER, TRAINER, CHECK])
def test_what_all_need(pod: Labels) -> None:
    assert may(DEFAULTS, pod, DNS, 53, protocol="UDP")
    assert may(DEFAULTS, pod, DNS, 53)
    assert may(DEFAULTS, pod, "169.254.20.10", 53, protocol="UDP")
    assert may(DEFAULTS, pod, OUTSIDE, 443)
    assert may(DEFAULTS, pod, "169.254.169.252", 988)
    assert may(DEFAULTS, pod, "169.254.169.254", 80)


@pytest.mark.parametrize("pod", [RUN, SUBMITTER, TRAINER, CHECK])
def test_what_none_may(pod: Labels) -> None:
    assert not may(DEFAULTS, pod, OUTSIDE, 80)
    assert not may(DEFAULTS, pod, OUTSIDE, 22)
    assert not may(DEFAULTS, pod, DNS, 443)
    assert not may(DEFAULTS, pod, "169.254.169.254", 443)
    assert not may(DEFAULTS, pod, ({"kubernetes.io/metadata.name": "other"}, {}), 443)
    assert not may(DEFAULTS, pod, (OWN, STRANGER), 80)


@pytest.mark.parametrize("pod", [RUN, SUBMITTER])
def test_kfp_and_the_kubernetes_api(pod: Labels) -> None:
    assert may(DEFAULTS, pod, KUBEFLOW, 8888)
    assert not may(DEFAULTS, pod, KUBEFLOW, 22)
    assert may(DEFAULTS, pod, "10.0.0.1", 443)
    assert not may(DEFAULTS, pod, "10.0.0.1", 8080)


# Kubeflow Pipelines 2.17's pods, by the port that they listen on: a policy is judged by it, and not
# by the service's. The object store's service has port 9000 whichever store is behind it.
KFP_PORTS = {
    "API, REST": 8888,
    "API, gRPC": 8887,
    "metadata": 8080,
    "cache": 8443,
    "object store, SeaweedFS": 8333,
    "object store, MinIO": 9000,
}


@pytest.mark.parametrize("port", KFP_PORTS.values(), ids=list(KFP_PORTS))
def test_run_pods_reach_each_of_kfp_s_services(port: int) -> None:
    assert may({}, RUN, KUBEFLOW, port)
    comment = (CHART / "values.yaml").read_text("utf-8").partition("Ports that run pods need")[2]
    assert str(port) in comment.partition("\n")[0]


@pytest.mark.parametrize("pod", [TRAINER, CHECK])
def test_the_others_reach_neither(pod: Labels) -> None:
    assert not may(DEFAULTS, pod, KUBEFLOW, 8888)
    assert not may(DEFAULTS, pod, "10.0.0.1", 443)


def test_the_upload_of_pipelines_reaches_kfp_alone() -> None:
    upload: Values = {"pipelines": {"store": "upload"}}
    assert may(upload, UPLOAD, DNS, 53, protocol="UDP")
    assert may(upload, UPLOAD, KUBEFLOW, 8888)
    assert not may(upload, UPLOAD, OUTSIDE, 443)
    assert not may(upload, UPLOAD, "10.0.0.1", 443)
    assert not may(upload, UPLOAD, (OWN, STRANGER), 80, out=False)
    behind_https = {"pipelines": {"store": "upload", "upload": {"host": "https://kfp.example"}}}
    assert may(behind_https, UPLOAD, OUTSIDE, 443)


def test_trainers_talk_to_each_other_on_any_port() -> None:
    for out in (True, False):
        assert may(DEFAULTS, TRAINER, (OWN, TRAINER), 40123, out=out)
        assert not may(DEFAULTS, TRAINER, (OWN, RUN), 40123, out=out)


@pytest.mark.parametrize("pod", [RUN, SUBMITTER, CHECK, RELEASED])
def test_nobody_reaches_in(pod: Labels) -> None:
    assert not may(DEFAULTS, pod, (OWN, STRANGER), 80, out=False)
    assert not may(DEFAULTS, pod, KUBEFLOW, 80, out=False)


def test_a_pod_of_the_release_without_needs_reaches_nothing() -> None:
    assert not may(DEFAULTS, RELEASED, DNS, 53, protocol="UDP")
    assert not may(DEFAULTS, RELEASED, OUTSIDE, 443)


def test_others_in_the_namespace_are_bound_only_if_asked() -> None:
    assert may({}, STRANGER, OUTSIDE, 80)
    assert not may({"networkPolicy": {"scope": "namespace"}}, STRANGER, OUTSIDE, 80)


def test_narrower_addresses() -> None:
    narrow: Values = {
        "networkPolicy": {
            "https": {"cidrs": ["199.36.153.8/30"]},
            "kubernetesApi": {"cidrs": ["172.16.0.0/28"], "ports": [443]},
            "metadataServer": {"enabled": False},
        }
    }
    assert may(narrow, RUN, "199.36.153.9", 443)
    assert not may(narrow, RUN, OUTSIDE, 443)
    assert may(narrow, RUN, "172.16.0.2", 443)
    assert not may(narrow, RUN, "10.0.0.1", 443)
    assert not may(narrow, RUN, "169.254.169.252", 988)


def test_everything_on_either_family_but_private_addresses() -> None:
    both: Values = {"networkPolicy": {"https": {"cidrs": ["0.0.0.0/0", "::/0"]}}}
    for public in (OUTSIDE, "2a00:1450::1"):
        assert may(both, CHECK, public, 443)
    for private in ("10.1.2.3", "fd00::1", "fe80::1"):
        assert not may(both, CHECK, private, 443)


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "::/0"])
@pytest.mark.parametrize("exceptions", [["10.0.0.0/8"], ["fc00::/7"], ["10.0.0.0/8", "fc00::/7"]])
def test_exceptions_lie_within_their_block(cidr: str, exceptions: list[str]) -> None:
    given: Values = {"networkPolicy": {"https": {"cidrs": [cidr], "except": exceptions}}}
    for policy in of_kind(render(given), "NetworkPolicy").values():
        assert problems(policy) == []
        for rule in policy["spec"].get("egress", []):
            for block in [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]:
                whole = ip_network(block["cidr"])
                for part in map(ip_network, block.get("except", [])):
                    assert part.version == whole.version
                    assert part.subnet_of(whole)  # type: ignore[arg-type]


def test_further_needs() -> None:
    judges = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "judges"}}}
    rule = {"to": [judges], "ports": [{"protocol": "TCP", "port": 8000}]}
    more: Values = {"networkPolicy": {"extraEgress": [rule]}}
    judge: Peer = ({"kubernetes.io/metadata.name": "judges"}, {"app": "vllm"})
    assert may(more, RUN, judge, 8000)
    assert not may({}, RUN, judge, 8000)
    assert not may(more, SUBMITTER, judge, 8000)


def test_off() -> None:
    assert of_kind(render({"networkPolicy": {"enabled": False}}), "NetworkPolicy") == {}
