"""Runs each attempt at a pipeline's task as a Kubernetes Job, and brings back what the task wrote.

A ``TaskLauncher`` as the walker knows it: with it ``LocalRun`` drives a cluster as KFP does, one
Job an attempt, and every failed attempt is followed by another (KFP cannot tell exit codes apart).
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.live_cluster import Failed, on_cluster, read
from tests.cluster.task_pods import LAUNCHER, Object, Surroundings, job_of

from cosalign.pipelines.launchers import Launch
from cosalign.store.storage import open_storage

KILLED = 137
POLL_SECONDS = 1.5
DEADLINE_SECONDS = 1800.0
HOPELESS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError",
            "CreateContainerError", "RunContainerError"}  # fmt: skip


class Weather:
    """What befalls attempts; here nothing. A test that wants worse weather overrides a method."""

    def before(self, task: str, number: int, job: Object) -> None:
        """May change the Job of an attempt before it is made."""

    def during(self, task: str, number: int, pod: str) -> None:
        """Is called again and again while an attempt's pod runs."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a task.

    Attributes:
        task: The task.
        number: From 1.
        exit_code: Of its container.
        reason: Kubernetes' word for how it ended; ``Deleted`` where its pod went away.
        image: What the node ran, by digest.
        seconds: From the Job's creation to its end.
    """

    task: str
    number: int
    exit_code: int
    reason: str
    image: str
    seconds: float


@dataclass
class JobLauncher:
    """Executes launches in one namespace.

    Attributes:
        namespace: Where Jobs are made; it holds what ``around`` names.
        run_id: A prefix of the Jobs' names.
        around: What pods get from around their pipeline.
        files: Address below which tasks' own files are stored.
        logs: Local folder for the pods' logs.
        weather: What befalls attempts.
        attempts: What was done, in order.
    """

    namespace: str
    run_id: str
    around: Surroundings
    files: str
    logs: Path
    weather: Weather = field(default_factory=Weather)
    attempts: list[Attempt] = field(default_factory=list)
    _numbers: Counter[str] = field(default_factory=Counter)

    def launch(self, launch: Launch) -> int:
        """Runs one attempt to its end; gives its exit code."""
        self._numbers[launch.task] += 1
        number = self._numbers[launch.task]
        name = re.sub(r"[^a-z0-9-]+", "-", f"{self.run_id}-{launch.task}-{number}".lower())
        files = f"{self.files}/{launch.task}/{number}"
        job = job_of(launch, name, files, self.around)
        self.weather.before(launch.task, number, job)
        started = time.monotonic()
        on_cluster("create", "-n", self.namespace, "-f", "-", text=json.dumps(job))
        code, reason, image = self._followed(name, launch.task, number)
        seconds = time.monotonic() - started
        self.attempts.append(Attempt(launch.task, number, code, reason, image, seconds))
        on_cluster("delete", "job", name, "-n", self.namespace, "--wait=false")
        if not code:
            _bring(files, Path(launch.given["outputs"]["outputFile"]).parent)
        return code

    def pause(self, seconds: float) -> None:
        """Attempts follow at once: nothing here needs time to mend."""

    def _followed(self, name: str, task: str, number: int) -> tuple[int, str, str]:
        end, seen = time.monotonic() + DEADLINE_SECONDS, ""
        while time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            for pod in self._pods(name):
                seen = pod["metadata"]["name"]
                _refuse_hopeless(pod)
                if pod["status"]["phase"] == "Running":
                    self.weather.during(task, number, seen)
            status = read("job", name, "-n", self.namespace)["status"]
            if any(c["status"] == "True" for c in status.get("conditions", [])):
                self._keep_log(seen, f"{task}-{number}.log")
                return self._ended(name)
        self._keep_log(seen, f"{task}-{number}.log")
        raise AssertionError(f"{name} did not end within {DEADLINE_SECONDS:.0f} s")

    def _pods(self, name: str) -> list[Any]:
        """A Job's pods, in the order of their creation."""
        listed = read("pods", "-n", self.namespace, "-l", f"job-name={name}")["items"]
        return sorted(listed, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def _ended(self, name: str) -> tuple[int, str, str]:
        """How the last pod of an ended Job ended; a pod that went away was killed."""
        for _ in range(10):
            pods = self._pods(name)
            statuses = pods[-1]["status"].get("containerStatuses", []) if pods else []
            ended = statuses[0]["state"].get("terminated") if statuses else None
            if ended is not None:
                return ended["exitCode"], ended["reason"], statuses[0]["imageID"]
            if not pods:
                break
            # The node reports a moment after the Job's controller has judged.
            time.sleep(1)
        return KILLED, "Deleted", ""

    def _keep_log(self, pod: str, file: str) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            (self.logs / file).write_text(on_cluster("logs", pod, "-n", self.namespace), "utf-8")
        except Failed as gone:
            (self.logs / file).write_text(str(gone), "utf-8")


def install_launcher(namespace: str, around: Surroundings) -> None:
    """Puts the launcher where pods of a namespace find it."""
    content = (Path(__file__).parent / LAUNCHER).read_text("utf-8")
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": around.launcher, "namespace": namespace},
        "data": {LAUNCHER: content},
    }
    on_cluster("create", "-f", "-", text=json.dumps(config))


def _refuse_hopeless(pod: Any) -> None:
    for status in pod["status"].get("containerStatuses", []):
        waiting = status["state"].get("waiting", {})
        if waiting.get("reason") in HOPELESS:
            raise AssertionError(f"{pod['metadata']['name']} cannot start: {waiting}")


def _bring(address: str, folder: Path) -> None:
    """Copies a task's own files to where the walker looks for them."""
    storage = open_storage(address)
    shutil.rmtree(folder, ignore_errors=True)
    for stat in storage.list(""):
        target = folder / stat.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read_bytes(stat.path))
