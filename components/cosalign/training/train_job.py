"""Has a TrainJob do a stage's work: made or found again, followed to its end, cleaned up.

The step that waits holds no GPU. Whatever happens to it, the work is done once: the job's name
comes from the stage's identity, so the next attempt finds the job that an earlier one made, and
goes on waiting. A job that has ended without leaving the stage's result is of no use and is
replaced.

Told to end (SIGTERM), the step deletes the job. Suspending it would keep the object, but under
Kueue a suspended job is one that waits for admission, and would be started again. Nothing is lost:
its pods get their own SIGTERM and grace period, save a checkpoint if it fits, and the next attempt
makes the job anew and goes on from there. An API server that is gone is no such end: the job is
left running, and the next attempt finds it.

The owner is the Argo workflow that the step's pod belongs to, not the pod: a retried step has
another pod, and the job must outlive the first; it must not outlive the run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from cosalign.domain.errors import ConfigError, CosalignError, TransientError, UserError
from cosalign.runtime.kubernetes_api import (
    AlreadyExistsError,
    Cluster,
    KubernetesApi,
    NoSuchObjectError,
    WatchExpiredError,
)
from cosalign.runtime.logs import get_logger
from cosalign.training.train_job_logs import PodLogs
from cosalign.training.train_job_object import (
    API_VERSION,
    ORDER,
    SETTINGS,
    TrainJobOrder,
    settings_digest,
    train_job,
)
from cosalign.training.train_job_state import JobState, cannot_start, job_failure, job_state

if TYPE_CHECKING:
    from cosalign.domain.run_config.train_job import TrainJobSettings

Object = dict[str, Any]
POD_OF_JOB = "jobset.sigs.k8s.io/jobset-name"
"""The label by which Trainer's JobSet marks the pods of a job."""
_OWN_POD = ("KFP_POD_NAME", "POD_NAME", "HOSTNAME")
_ATTEMPTS = 5

log = get_logger(__name__)


@dataclass(frozen=True)
class Left:
    """What a job's work leaves in storage.

    Attributes:
        result: Says whether the result is there.
        failure: Gives the error that a rank met, if one wrote it down.
    """

    result: Callable[[], bool]
    failure: Callable[[], CosalignError | None]


@dataclass(frozen=True)
class Waiting:
    """How long is waited for what, in seconds.

    Attributes:
        watch: A watch's length; between two of them pods are looked at.
        pause: Between two looks where a watch ended early.
        gone: For a deleted job to be gone.
        stuck: For a container that cannot start, in case somebody mends that.
        patience: For an API server that gives no good answer.
    """

    watch: int = 30
    pause: float = 1.0
    gone: float = 300.0
    stuck: float = 600.0
    patience: float = 600.0


class _GoneError(Exception):
    """The job is no longer there, or another one of its name is."""


class _Terminated(BaseException):
    """SIGTERM came; no Exception, so that nothing on the way takes it for a failure."""


def run_train_job(
    order: TrainJobOrder,
    settings: TrainJobSettings,
    left: Left,
    cluster: Cluster | None = None,
    waiting: Waiting | None = None,
) -> None:
    """Returns once the job has completed.

    Args:
        order: What it shall run; owner references are filled in here.
        settings: Where and how.
        left: Where its result or its failure shows.
        cluster: The own one where it is not given.
        waiting: How patient to be.

    Raises:
        UserError: It failed by what the user can mend, or waited for longer than allowed.
        TransientError: It failed by what a retry may mend, or was deleted by somebody else.
        ConfigError: Kubernetes refuses the job or the account.
    """
    waiting = waiting or Waiting()
    with KubernetesApi(cluster or Cluster.own(), waiting.patience) as api:
        owned = replace(order, owners=_owners(api))
        run = _Run(api, owned, settings, left, waiting)
        try:
            with _sigterm_raises() as calm:
                try:
                    run.follow(run.made_or_found())
                except (_Terminated, KeyboardInterrupt):
                    calm()
                    run.delete("the step was told to end")
                    raise
        except _Terminated:
            # The process ends by the signal that it got, as it would have without a job.
            os.kill(os.getpid(), signal.SIGTERM)
            raise TransientError("told to end; run again to go on") from None


@dataclass
class _Run:
    """One attempt at following a job."""

    api: KubernetesApi
    order: TrainJobOrder
    settings: TrainJobSettings
    left: Left
    waiting: Waiting
    uid: str = ""
    _state: JobState | None = None
    _waits_since: float = field(default_factory=time.monotonic)
    _stuck_since: float | None = None

    @property
    def _jobs(self) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.api.namespace}/trainjobs"

    @property
    def _path(self) -> str:
        return f"{self._jobs}/{self.order.name}"

    def made_or_found(self) -> Object:
        """Creates the job, or adopts the one that an earlier attempt made."""
        wanted = train_job(self.order, self.settings, self.api.namespace)
        for _ in range(_ATTEMPTS):
            try:
                made = self.api.create(self._jobs, wanted)
            except AlreadyExistsError:
                found = self._adoptable()
                if found is None:
                    continue
                self._take(found, "train_job_adopted")
                return found
            self._take(made, "train_job_created")
            return made
        raise TransientError(
            f"the TrainJob {self.order.name} comes and goes; is another run training the same "
            "stage? Try again later"
        )

    def _take(self, job: Object, event: str) -> None:
        self.uid = job["metadata"]["uid"]
        made_with = job["metadata"].get("annotations", {}).get(SETTINGS)
        log.info(
            event,
            job=self.order.name,
            namespace=self.api.namespace,
            nodes=job["spec"]["trainer"].get("numNodes"),
            same_settings=made_with == settings_digest(self.settings),
        )

    def _adoptable(self) -> Object | None:
        """The job of that name if it still works at this order; one that has ended is removed."""
        try:
            found = self.api.get(self._path)
        except NoSuchObjectError:
            return None
        metadata = found["metadata"]
        if metadata.get("annotations", {}).get(ORDER) != self.order.fingerprint:
            raise ConfigError(
                f"a TrainJob {self.order.name} is there and trains something else; nothing of ours "
                "makes such a job. Delete it, or train in another namespace"
            )
        phase = job_state(found).phase
        ended = phase == "failed" or (phase == "complete" and not self.left.result())
        if not ended and not metadata.get("deletionTimestamp"):
            return found
        self.uid = metadata["uid"]
        self.delete("it has ended without the stage's result")
        self._wait_until_gone()
        return None

    def _wait_until_gone(self) -> None:
        end = time.monotonic() + self.waiting.gone
        while time.monotonic() < end:
            try:
                if self.api.get(self._path)["metadata"]["uid"] != self.uid:
                    return
            except NoSuchObjectError:
                return
            time.sleep(self.waiting.pause)
        raise TransientError(
            f"the ended TrainJob {self.order.name} is still being deleted; try again later"
        )

    def delete(self, why: str) -> None:
        """Deletes the job, and with it its pods."""
        if self.uid:
            log.info("train_job_deleted", job=self.order.name, why=why)
            self.api.delete(self._path, self.uid)

    def follow(self, job: Object) -> None:
        """Returns once the job is complete."""
        try:
            with PodLogs(self.api, self.waiting.pause) as logs:
                self._follow(job, logs)
        except _GoneError:
            if self.left.result():
                # Another attempt at the same stage saw its end first, and cleaned up.
                return
            raise TransientError(
                f"the TrainJob {self.order.name} was deleted by somebody else; its last whole "
                "checkpoint is kept, run again to go on"
            ) from None
        # What it leaves is stored; a finished job only fills lists.
        self.api.delete(self._path, self.uid)

    def _follow(self, job: Object, logs: PodLogs) -> None:
        while True:
            state = job_state(job)
            pods = self._pods()
            logs.follow(pods)
            self._note(state)
            if state.phase == "complete":
                return
            if state.phase == "failed":
                raise job_failure(state, pods, self.left.failure())
            self._require_patience(state, pods)
            job = self._next(job)

    def _pods(self) -> list[Object]:
        path = f"/api/v1/namespaces/{self.api.namespace}/pods"
        found: list[Object] = self.api.get(path, labelSelector=f"{POD_OF_JOB}={self.order.name}")[
            "items"
        ]
        return found

    def _note(self, state: JobState) -> None:
        before, self._state = self._state, state
        if before is None or before.phase != state.phase:
            self._waits_since = time.monotonic()
            log.info("train_job", job=self.order.name, phase=state.phase, reason=state.reason)

    def _require_patience(self, state: JobState, pods: list[Object]) -> None:
        now = time.monotonic()
        hours = self.settings.queue_hours
        if state.phase == "waiting" and hours and now - self._waits_since > hours * 3600:
            self.api.delete(self._path, self.uid)
            raise TransientError(
                f"the TrainJob {self.order.name} was not admitted within "
                f"training.train_job.queue_hours={hours}; look at its queue, or try again later"
            )
        stuck = cannot_start(pods)
        if stuck is None:
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or now
        if now - self._stuck_since > self.waiting.stuck:
            self.api.delete(self._path, self.uid)
            raise UserError(
                f"{stuck}: the container cannot start; correct training.train_job.image, or what "
                "the runtime mounts and pulls with"
            )

    def _next(self, job: Object) -> Object:
        """The job as it is after the next change, or after a while."""
        version = job["metadata"]["resourceVersion"]
        try:
            for event in self.api.watch(self._jobs, self.order.name, version, self.waiting.watch):
                if event["type"] == "DELETED":
                    raise _GoneError
                if event["type"] in ("ADDED", "MODIFIED"):
                    return self._same(event["object"])
        except WatchExpiredError:
            log.info("watch_expired", job=self.order.name)
        time.sleep(self.waiting.pause)
        try:
            return self._same(self.api.get(self._path))
        except NoSuchObjectError:
            raise _GoneError from None

    def _same(self, job: Object) -> Object:
        if job["metadata"]["uid"] != self.uid:
            raise _GoneError
        return job


def _owners(api: KubernetesApi) -> tuple[dict[str, Any], ...]:
    """What the own pod belongs to, or the pod itself; nothing where it cannot be known."""
    name = next((os.environ[key] for key in _OWN_POD if os.environ.get(key)), "")
    if not name:
        return ()
    try:
        pod = api.get(f"/api/v1/namespaces/{api.namespace}/pods/{name}")
    except (NoSuchObjectError, ConfigError) as problem:
        log.warning("no_owner", pod=name, reason=type(problem).__name__)
        return ()
    metadata = pod["metadata"]
    for owner in metadata.get("ownerReferences") or []:
        if owner.get("controller"):
            kept = ("apiVersion", "kind", "name", "uid")
            return ({key: owner[key] for key in kept},)
    return ({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": metadata["uid"]},)


@contextmanager
def _sigterm_raises() -> Iterator[Callable[[], object]]:
    """SIGTERM becomes an exception, so that a request that waits is left at once.

    Gives a function after which signals are ignored, for work that must not be left.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield partial(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGTERM, before)
