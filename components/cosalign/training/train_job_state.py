"""What a TrainJob's status and its pods say, as one word or as one error.

A failed job says little ("Failed"); its pods say more (out of memory, evicted, no such image), and
a rank that met an error of ours says most, in a report that it left in storage. So these are asked
in the opposite order, and each becomes the error that a person would have got in the pod itself::

    a rank's report                                 the error that it met: exit 2, 75 or 70
    the job's deadline                              exit 2: raise the time-out
    out of memory, no such image                    exit 2
    evicted, preempted, the node shut down          exit 75
    a container's exit code 2, 75 or 70             the same
    anything else (a signal, a lost node)           exit 75: checkpoints are kept

A rank that only lost another one does not know why: what pods show comes before its report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cosalign.domain.errors import (
    EXIT_DEFECT,
    EXIT_RETRY,
    EXIT_USER,
    CosalignError,
    TransientError,
    UserError,
)
from cosalign.training.rank_reports import PeerLost

Object = dict[str, Any]
Phase = Literal["waiting", "running", "complete", "failed"]

_TAKEN_AWAY = frozenset(
    {"Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated"}
)
_NEVER_STARTS = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
    }
)


class _UnclearEnd(TransientError):
    """A container ended by a code that does not say why."""


@dataclass(frozen=True)
class JobState:
    """Where a job is; reason and message are Trainer's own, empty where it gives none."""

    phase: Phase
    reason: str = ""
    message: str = ""


def job_state(job: Object) -> JobState:
    """The state that a TrainJob's conditions tell."""
    conditions = job.get("status", {}).get("conditions") or []
    held = {c["type"]: c for c in conditions if c.get("status") == "True"}
    phases: tuple[tuple[str, Phase], ...] = (
        ("Complete", "complete"),
        ("Failed", "failed"),
        ("Suspended", "waiting"),
    )
    for kind, phase in phases:
        if kind in held:
            return JobState(phase, held[kind].get("reason", ""), held[kind].get("message", ""))
    return JobState("running")


def cannot_start(pods: list[Object]) -> str | None:
    """Why a pod's container does not start and will not by waiting; ``None`` where all may."""
    for pod in pods:
        for container in _containers(pod):
            waiting = container.get("state", {}).get("waiting") or {}
            if waiting.get("reason") in _NEVER_STARTS:
                image = container.get("image") or "its image"
                return f"{_name(pod)}: {waiting['reason']} of {image}"
    return None


def job_failure(state: JobState, pods: list[Object], reported: CosalignError | None) -> Exception:
    """The error of a job that failed.

    Args:
        state: The job's.
        pods: Its pods, as far as they are still there.
        reported: What a rank left in storage.
    """
    if reported is not None and not isinstance(reported, PeerLost):
        return reported
    if state.reason == "DeadlineExceeded":
        return UserError(
            "the TrainJob ran longer than training.train_job.timeout_hours and was ended; its last "
            "checkpoint is kept. Raise the time-out and run again to go on"
        )
    problems = [problem for pod in pods if (problem := _pod_failure(pod)) is not None]
    # Where one pod was lost the others failed by that, with the launcher's exit code.
    telling = [problem for problem in problems if not isinstance(problem, _UnclearEnd)]
    for problem in (*telling, reported, *problems):
        if problem is not None:
            return problem
    why = ": ".join(part for part in (state.reason, state.message) if part) or "no reason given"
    return TransientError(
        f"the TrainJob failed ({why}) and its pods do not say why; the last whole checkpoint is "
        "kept, run again to go on"
    )


def _pod_failure(pod: Object) -> Exception | None:
    status = pod.get("status", {})
    disrupted = any(
        c.get("type") == "DisruptionTarget" and c.get("status") == "True"
        for c in status.get("conditions") or []
    )
    if disrupted or status.get("reason") in _TAKEN_AWAY:
        return TransientError(
            f"{_name(pod)} was taken away ({status.get('reason') or 'disruption'}); the last whole "
            "checkpoint is kept, run again to go on"
        )
    for container in _containers(pod):
        ended = container.get("state", {}).get("terminated") or {}
        if ended.get("exitCode"):
            return _container_failure(_name(pod), ended)
    return None


def _container_failure(pod: str, ended: Object) -> Exception:
    code = int(ended["exitCode"])
    if ended.get("reason") == "OOMKilled":
        return UserError(
            f"{pod} ran out of memory; raise its memory (training.train_job.resources or the "
            "runtime's), train on more nodes, or lower micro_batch_size"
        )
    kinds = {EXIT_USER: UserError, EXIT_RETRY: TransientError, EXIT_DEFECT: CosalignError}
    kind = kinds.get(code, _UnclearEnd)
    advice = "" if code in kinds else "; the last whole checkpoint is kept, run again to go on"
    return kind(f"{pod} ended with exit code {code}; its log says why{advice}")


def _containers(pod: Object) -> Iterator[Object]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from pod.get("status", {}).get(kind) or []


def _name(pod: Object) -> str:
    return f"pod {pod['metadata']['name']}"
