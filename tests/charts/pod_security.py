"""The Pod Security Standard "restricted", written from its text, over any pod spec.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ : baseline's controls and then
restricted's own. Each control that is not met gives one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Spec = dict[str, Any]

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
_SECCOMP = {"RuntimeDefault", "Localhost"}
_SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def pod_specs(value: Any, where: str = "$") -> Iterator[tuple[str, Spec]]:
    """Every pod spec within an object, wherever it stands, with its path."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield where, value
        for key, sub in value.items():
            yield from pod_specs(sub, f"{where}.{key}")
    elif isinstance(value, list):
        for index, sub in enumerate(value):
            yield from pod_specs(sub, f"{where}[{index}]")


def violations(spec: Spec) -> list[str]:
    """The controls of "restricted" that a pod spec does not meet."""
    found = list(_of_pod(spec))
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(group) or []:
            lines = _of_container(container, spec.get("securityContext") or {})
            found += [f"{container['name']}: {line}" for line in lines]
    return found


def _of_pod(spec: Spec) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes") or []:
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} of {sorted(kinds)}"
    context = spec.get("securityContext") or {}
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _of_either(context)


def _of_container(container: Spec, pod: Spec) -> Iterator[str]:
    own = container.get("securityContext") or {}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("procMount") not in (None, "Default"):
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield "hostPort"
    if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
        yield "runAsNonRoot is not true"
    seccomp = own.get("seccompProfile", pod.get("seccompProfile")) or {}
    if seccomp.get("type") not in _SECCOMP:
        yield "no seccomp profile"
    yield from _of_capabilities(own.get("capabilities") or {})
    yield from _of_either(own)


def _of_capabilities(capabilities: Spec) -> Iterator[str]:
    if "ALL" not in (capabilities.get("drop") or []):
        yield "does not drop ALL capabilities"
    if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield "adds capabilities"


def _of_either(context: Spec) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield "runs as user 0"
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot is false"
    if (context.get("seccompProfile") or {"type": "RuntimeDefault"}).get("type") not in _SECCOMP:
        yield "seccomp profile is not RuntimeDefault or Localhost"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type") not in _SELINUX or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"
    apparmor = (context.get("appArmorProfile") or {"type": "RuntimeDefault"}).get("type")
    if apparmor not in ("RuntimeDefault", "Localhost"):
        yield "appArmorProfile"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess"
