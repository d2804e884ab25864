"""The whole graph as a user runs it: a tiny real model, a real object store, ``cosalign run``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosalign.runtime.step import StepManifest, parse_manifest
from cosalign.store.ledger import Ledger
from cosalign.store.storage import Storage, open_storage

STEPS = ("synthesis", "scoring", "pairing", "training", "evaluation")
PROFILE = """
models: {{base: {model}, engine: {{max_model_len: 4096, kv_cache_gib: 1, flush_rows: 4}}}}
prompts: {{files: [{prompts}], limit: 40, min_tokens: 1, max_tokens: 200, held_out_share: 0.25}}
configs: {{files: [{configs}]}}
synthesis:
  generators: [{{name: tiny, plain: 1, superset: 1, not_superset: 1, max_tokens: 12}}]
training:
  sft: {{max_steps: 4, learning_rate: 1.0e-3, batch_size: 4, micro_batch_size: 2, max_length: 2048, save_steps: 1}}
  dpo: {{max_steps: 4, learning_rate: 1.0e-4, batch_size: 4, micro_batch_size: 2, max_length: 2048, save_steps: 1}}
evaluation: {{prompts_per_config: 4, max_tokens: 12}}
"""  # noqa: E501


@dataclass
class Graph:
    """``cosalign run`` against one storage root."""

    root: str
    profile: Path
    work: Path

    @property
    def storage(self) -> Storage:
        return open_storage(self.root)

    def start(self, *extra: str) -> subprocess.Popen[bytes]:
        """Starts a run in the background; its log goes to a file."""
        command = [str(Path(sys.executable).parent / "cosalign"), "run"]
        options = ["--profile", str(self.profile), "--set", f"storage.root={self.root}"]
        options += ["--set", f"storage.cache={self.work}/cache", *extra]
        environment = {**os.environ, "COSALIGN_LOG": "json", "OMP_NUM_THREADS": "1"}
        self.work.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command + options, stdout=log, stderr=log, env=environment, cwd=self.work
            )

    def run(self, *extra: str) -> int:
        """Runs to the end; gives the exit code."""
        return self.start(*extra).wait()

    @property
    def log(self) -> Path:
        return self.work / "run.log"

    def plans(self, work: str) -> list[dict[str, Any]]:
        """What each attempt at some paid work found stored, and what it had to pay, in order."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        events = [json.loads(line) for line in lines if line.startswith('{"')]
        return [e for e in events if e["event"] == "plan" and e["work"] == work]

    def manifests(self) -> dict[str, StepManifest]:
        """The one finished manifest of each step."""
        found: dict[str, StepManifest] = {}
        for stat in self.storage.list("steps"):
            match = re.fullmatch(r"steps/([a-z]+)/[0-9a-f]+/manifest\.json", stat.path)
            if match:
                assert match[1] not in found, f"{match[1]} was finished under two fingerprints"
                found[match[1]] = parse_manifest(self.storage.read_bytes(stat.path), stat.path)
        return found

    def ledger(self, name: str) -> Ledger:
        from cosalign.domain.schemas import RESPONSE_LEDGER, VERDICT_LEDGER

        schema = {"responses": RESPONSE_LEDGER, "verdicts": VERDICT_LEDGER}[name]
        return Ledger(self.storage, name, schema)


def stage_process(step: str, run: int) -> int | None:
    """The process id of a stage that a run has started; other runs' stages are none of ours."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == run and command[1:3] == [b"-m", f"cosalign.{step}".encode()]:
                return int(entry.name)
    return None


def kill_stage(graph: Graph, step: str, when: Callable[[], bool], *extra: str) -> int:
    """Starts a run, SIGKILLs the stage as soon as ``when`` holds; gives the run's exit code."""
    run = graph.start(*extra)
    while run.poll() is None:
        process = stage_process(step, run.pid)
        if process is not None and when():
            os.kill(process, signal.SIGKILL)
            return run.wait()
        time.sleep(0.02)
    log = graph.log.read_text("utf-8", "replace")[-3000:]
    raise AssertionError(f"the run ended ({run.returncode}) before {step} was killed:\n{log}")
