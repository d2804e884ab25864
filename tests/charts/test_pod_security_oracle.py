"""The oracle itself: it passes a pod that meets the standard and names each way not to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from tests.charts.pod_security import Spec, pod_specs, violations

GOOD: Spec = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "one",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
    "volumes": [{"name": "scratch", "emptyDir": {}}],
}


def _container(spec: Spec) -> Any:
    return spec["containers"][0]["securityContext"]


WAYS: dict[str, Callable[[Spec], Any]] = {
    "hostNetwork": lambda s: s.update(hostNetwork=True),
    "hostPID": lambda s: s.update(hostPID=True),
    "hostIPC": lambda s: s.update(hostIPC=True),
    "volume host": lambda s: s["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    "sysctl": lambda s: s["securityContext"].update(sysctls=[{"name": "kernel.msgmax"}]),
    "privileged": lambda s: _container(s).update(privileged=True),
    "allowPrivilegeEscalation": lambda s: _container(s).pop("allowPrivilegeEscalation"),
    "procMount": lambda s: _container(s).update(procMount="Unmasked"),
    "hostPort": lambda s: s["containers"][0].update(ports=[{"hostPort": 80}]),
    "runAsNonRoot is not true": lambda s: s["securityContext"].pop("runAsNonRoot"),
    "runAsNonRoot is false": lambda s: _container(s).update(runAsNonRoot=False),
    "runs as user 0": lambda s: _container(s).update(runAsUser=0),
    "no seccomp profile": lambda s: s["securityContext"].pop("seccompProfile"),
    "seccomp profile": lambda s: _container(s).update(seccompProfile={"type": "Unconfined"}),
    "does not drop ALL": lambda s: _container(s).update(capabilities={"drop": ["NET_RAW"]}),
    "adds capabilities": lambda s: _container(s)["capabilities"].update(add=["SYS_ADMIN"]),
    "seLinuxOptions": lambda s: s["securityContext"].update(seLinuxOptions={"user": "root"}),
    "appArmorProfile": lambda s: _container(s).update(appArmorProfile={"type": "Unconfined"}),
    "hostProcess": lambda s: _container(s).update(windowsOptions={"hostProcess": True}),
}


def test_a_pod_that_meets_the_standard() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_way_not_to_meet_it(way: str) -> None:
    spec = copy.deepcopy(GOOD)
    WAYS[way](spec)
    found = violations(spec)
    assert any(way in line for line in found), found


def test_init_containers_count_too() -> None:
    spec = {**GOOD, "initContainers": [{"name": "first"}]}
    assert any(line.startswith("first: ") for line in violations(spec))


def test_pod_specs_are_found_however_deep() -> None:
    job = {"spec": {"template": {"spec": GOOD}}}
    runtime = {"spec": {"replicatedJobs": [{"template": job}]}}
    assert [spec for _, spec in pod_specs(runtime)] == [GOOD]
