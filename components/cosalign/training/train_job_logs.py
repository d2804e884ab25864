"""The logs of a job's pods, line by line, in the log of the step that waits for the job.

People look at the step's pod; that the work is done in others should not send them looking. Each
pod's log is followed in a thread of its own. A log that breaks off is taken up by its time stamps,
so that no line is shown twice.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Self

from cosalign.domain.errors import ConfigError
from cosalign.runtime.logs import get_logger

if TYPE_CHECKING:
    from cosalign.runtime.kubernetes_api import KubernetesApi

Object = dict[str, Any]
_HAS_LOG = frozenset({"Running", "Succeeded", "Failed"})
LAST_LINES_SECONDS = 10.0
"""How long the end of a log is waited for once the job has ended."""

log = get_logger(__name__)


class PodLogs:
    """Follows the logs of pods as they appear; a context manager.

    Args:
        api: The cluster.
        pause: Seconds before a log that broke off is taken up again.
    """

    def __init__(self, api: KubernetesApi, pause: float = 1.0) -> None:
        self._api = api
        self._pause = pause
        self._threads: dict[str, threading.Thread] = {}
        self._ended = threading.Event()
        self._finished: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads.values():
            thread.join(LAST_LINES_SECONDS)

    def follow(self, pods: list[Object]) -> None:
        """Follows the pods that have a log and are not followed yet."""
        for pod in pods:
            name, phase = pod["metadata"]["name"], pod.get("status", {}).get("phase")
            if phase in ("Succeeded", "Failed"):
                self._finished.add(name)
            if phase in _HAS_LOG and name not in self._threads:
                path = f"/api/v1/namespaces/{self._api.namespace}/pods/{name}/log"
                thread = threading.Thread(target=self._copy, args=(name, path), daemon=True)
                self._threads[name] = thread
                thread.start()

    def _copy(self, pod: str, path: str) -> None:
        last = ""
        while True:
            done = self._ended.is_set() or pod in self._finished
            try:
                before, last = last, self._shown(pod, path, last)
            except ConfigError as problem:
                log.warning("no_pod_log", pod=pod, reason=str(problem))
                return
            # Once no more is written: until a look brings nothing new.
            if done and last == before:
                return
            if not done:
                self._ended.wait(self._pause)

    def _shown(self, pod: str, path: str, last: str) -> str:
        """Shows lines after a time stamp until the log breaks off; gives the last one's stamp."""
        since = {"sinceTime": _whole_second(last)} if last else {}
        for line in self._api.log_lines(path, timestamps="true", **since):
            stamp, _, text = line.partition(" ")
            # The server goes back to a whole second; stamps have nanoseconds and sort as text.
            if stamp > last:
                last = stamp
                sys.stderr.write(f"[{pod}] {text}\n")
        return last


def _whole_second(stamp: str) -> str:
    return f"{stamp.partition('.')[0].removesuffix('Z')}Z"
