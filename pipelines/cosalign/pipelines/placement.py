"""Where the tasks of a graph run, and under which rules: pools, secrets, retries, time-outs.

KFP lets parameters decide image, accelerators, node selector, tolerations and secret names; retry
counts, time-outs and volumes are fixed when a pipeline is compiled. Both kinds are set here alone,
so that no task is forgotten. A read-only root file system and dropped capabilities cannot be asked
for in a pipeline: the backend drops capabilities by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kfp import dsl, kubernetes

USER = 65532
"""The images' numeric user; named here too, since Pod Security asks for a number that is not 0."""
RETRIES = 3
GPU_SECONDS = 24 * 3600
CPU_SECONDS = 6 * 3600
END_SECONDS = 15 * 60
SHARED_MEMORY = "/dev/shm"  # noqa: S108  a mount, not a file
SECRETS = {"hub-token": "HF_TOKEN", "judge-api-key": "JUDGE_API_KEY"}
"""Keys of the one secret, and the environment variables that they become; each may be missing."""


@dataclass(frozen=True)
class Pool:
    """A node pool, by pipeline parameters.

    Attributes:
        node_selector: Labels of its nodes.
        tolerations: Lists of tolerations, which add up.
        accelerator_type: Resource name of the GPUs; ``None`` on CPU nodes.
        accelerator_count: GPUs of a pod.
    """

    node_selector: Any
    tolerations: tuple[Any, ...]
    accelerator_type: Any = None
    accelerator_count: Any = None


def placed(task: dsl.PipelineTask, image: Any, secret: Any, pool: Pool) -> dsl.PipelineTask:
    """A task with its image, on a pool, hardened.

    Args:
        task: The task.
        image: Full reference, by digest in a cluster.
        secret: Name of the secret of hub token and judge's key.
        pool: Where it runs.
    """
    task.set_container_image(image)
    _retried(task)
    kubernetes.use_secret_as_env(task, secret, SECRETS, optional=True)
    kubernetes.add_node_selector_json(task, pool.node_selector)
    for tolerations in pool.tolerations:
        kubernetes.add_toleration_json(task, tolerations)
    if pool.accelerator_type is None:
        return _on_cpu(task)
    return _on_gpu(task, pool)


def at_the_end(task: dsl.PipelineTask, image: Any) -> dsl.PipelineTask:
    """The exit handler's task: small, quick, and where the pipeline's own pods run."""
    task.set_container_image(image)
    _retried(task)
    task.set_cpu_request("100m").set_memory_request("256Mi").set_memory_limit("2Gi")
    kubernetes.set_timeout(task, END_SECONDS)
    return _restricted(task).set_caching_options(enable_caching=False)


def _on_gpu(task: dsl.PipelineTask, pool: Pool) -> dsl.PipelineTask:
    task.set_accelerator_type(pool.accelerator_type)
    task.set_accelerator_limit(pool.accelerator_count)
    # kfp 2.17 forgets to hand these two into loops and exit handlers, unless told that they matter.
    task.register_pipeline_channels([pool.accelerator_type, pool.accelerator_count])
    task.set_cpu_request("4").set_memory_request("32Gi")
    # Engines and NCCL talk through shared memory; a container's own 64 MiB end in a bus error.
    kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory", size_limit="16Gi")
    kubernetes.set_timeout(task, GPU_SECONDS)
    return _restricted(task)


def _on_cpu(task: dsl.PipelineTask) -> dsl.PipelineTask:
    task.set_cpu_request("1").set_memory_request("4Gi").set_memory_limit("16Gi")
    kubernetes.set_timeout(task, CPU_SECONDS)
    return _restricted(task)


def _retried(task: dsl.PipelineTask) -> None:
    """Retries with backoff; steps resume from ledgers, and end at once where it is no use."""
    task.set_retry(RETRIES, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")


def _restricted(task: dsl.PipelineTask) -> dsl.PipelineTask:
    kubernetes.set_security_context(
        task, run_as_user=USER, run_as_group=USER, run_as_non_root=True
    )  # fmt: skip
    # Weights and caches: on the node's disk and bounded, not in the container's layer.
    kubernetes.empty_dir_mount(task, "home", "/home/cosalign", size_limit="300Gi")
    return task
