"""Reconcile at scale: a thousand configs in fifty regions, and two hundred reconciles at once.

``make bench-reconcile``. Storage is a real fake-gcs-server on this machine, configs are objects of
an HTTP server that speaks the Kubernetes API, runs go to one that speaks Kubeflow's; both are the
tests' own. What a run would find is laid down in no time, so that what is measured is reconcile.

*Looks*: the first accepts all configs and starts a run, the next records its end and tells every
object, then one finds nothing new, one a changed config. *Race*: reconciles in several processes,
all begun before any of them has acted; the runs that the server got are counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kfp
from benchmarks.measuring import publish, surroundings, timed
from google.cloud import storage as google_storage
from tests.object_store import object_store
from tests.pipelines.kfp_server import kfp_server
from tests.retraining.config_server import ConfigServer, config_server
from tests.retraining.reconcile_world import World, document

from cosalign.domain.errors import TransientError
from cosalign.retraining.kubeflow_submitter import KubeflowSubmitter
from cosalign.retraining.kubernetes_configs import KubernetesReporter, KubernetesSource
from cosalign.retraining.reporting import Outside, report
from cosalign.retraining.submission import Kubeflow
from cosalign.retraining.submitters import SubmittedRun
from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi

CONFIGS, REGIONS, RACERS, PROCESSES = 1000, 50, 200, 4
BUCKET = "bench"
RISKS = ("violence", "financial_crime_theft", "privacy_violations", "illegal_drugs_substance_abuse")


def config(number: int) -> dict[str, Any]:
    """One of many configs; the sixteen sets of four risks come in turn."""
    allowed = [risk for bit, risk in enumerate(RISKS) if number >> bit & 1]
    item = {"prompt": f"What is said of number {number}?", "expect": "answer"}
    region = f"r{number % REGIONS:02}"
    return document(f"{region}-product-{number}", *allowed, acceptance=[item])


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """An object store with a bucket; gives the root's address."""
    with object_store(folder) as url:
        os.environ["STORAGE_EMULATOR_HOST"] = url
        google_storage.Client.create_anonymous_client().create_bucket(BUCKET)
        yield f"gs://{BUCKET}/root"


def look(world: World, api: KubernetesApi) -> tuple[float, str]:
    """Seconds of one look and of all that is told of it, and what is due."""

    def once() -> str:
        tick = world.reconciler().tick()
        status = report(world.storage, tick, "main", Outside(KubernetesReporter(api)))
        return status.due

    return timed(once)


def looking(cluster: Cluster, root: str, others: Any) -> None:
    """Looks, in a process of its own; the other end changes a config between two of them."""
    with KubernetesApi(cluster) as api:
        world = World(root)
        world.source = KubernetesSource(api, ("regions",), world.taxonomies)  # type: ignore[assignment]
        world.submitter.carry_out = None
        seconds = {"accept_and_start": look(world, api)[0]}
        run_id, order = world.submitter.runs[0]
        world.worker(order)
        world.submitter.statuses[run_id] = SubmittedRun(run_id, "succeeded")
        seconds["record_and_tell"] = look(world, api)[0]
        seconds["nothing_new"] = look(world, api)[0]
        others.send(None)
        others.recv()
        seconds["one_changed"] = look(world, api)[0]
        others.send((seconds, len(world.submitter.runs)))


def looks(count: int) -> dict[str, Any]:
    """Measures looks at many configs."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-reconcile-")))
        root = stack.enter_context(served(folder / "objects"))
        server: ConfigServer = stack.enter_context(config_server(folder))
        for number in range(count):
            server.apply(config(number))
        here, there = context.Pipe()
        process = context.Process(target=looking, args=(server.cluster, root, there))
        process.start()
        here.recv()
        changed = config(1)
        changed["spec"]["allowedRisks"] = ["privacy_violations"]
        server.apply(changed)
        here.send(None)
        seconds, runs = here.recv()
        process.join()
        promoted = sum(server.status(name)["phase"] == "Promoted" for _, name in server.configs)
        if (runs, promoted) != (2, count - 1):
            raise SystemExit(f"{runs} runs, {promoted} promoted")
        return {
            "configs": count,
            "regions": REGIONS,
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "statuses_written": server.patches,
            "events_written": len(server.events),
        }


def racers(url: str, store: str, root: str, count: int, ready: Any) -> None:
    """So many reconciles in one process, begun when all processes are ready."""
    os.environ["STORAGE_EMULATOR_HOST"] = store
    client = kfp.Client(host=url)
    world = World(root)
    world.wants(*(config(number) for number in range(8)))
    submitter = KubeflowSubmitter(Kubeflow(client))
    each = [world.reconciler(submitter=submitter) for _ in range(count)]

    def run(number: int) -> None:
        ready.wait()
        # Others may be faster each time; a later look would do then.
        with suppress(TransientError):
            each[number].tick()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def race(count: int) -> dict[str, Any]:
    """Measures a race."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="bench-reconcile-")))
        root = stack.enter_context(served(folder / "objects"))
        kubeflow = stack.enter_context(kfp_server())
        kubeflow.states = ["RUNNING"]
        share = count // PROCESSES
        ready = context.Barrier(share * PROCESSES + 1)
        given = (kubeflow.url, os.environ["STORAGE_EMULATOR_HOST"], root, share, ready)
        processes = [context.Process(target=racers, args=given) for _ in range(PROCESSES)]
        for process in processes:
            process.start()
        ready.wait()

        def ended() -> None:
            for process in processes:
                process.join()

        seconds, _ = timed(ended)
        if any(process.exitcode for process in processes):
            raise SystemExit("a process of the race failed")
        return {
            "reconciles": share * PROCESSES,
            "processes": PROCESSES,
            "runs_started": len(kubeflow.runs),
            "runs_ended_as_doubles": len(kubeflow.terminated),
            "seconds": round(seconds, 2),
        }


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--configs", type=int, default=CONFIGS)
    parser.add_argument("--racers", type=int, default=RACERS)
    options = parser.parse_args()
    publish(
        {
            "benchmark": "reconcile",
            "looks": looks(options.configs),
            "race": race(options.racers),
            **surroundings(("google-cloud-storage", "httpx", "pydantic")),
        }
    )


if __name__ == "__main__":
    main()
