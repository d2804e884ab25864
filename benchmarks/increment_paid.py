"""What one run paid for, found in the ledgers by the time it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.increment_runs import LEDGERS, PROFILE, Bench

from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import resolve_model
from cosalign.judging.judge import verdict_key
from cosalign.judging.label_protocol import Evidence, response_protocol
from cosalign.judging.open_judge import judge_identity
from cosalign.runtime.run_config import load_run_config
from cosalign.store.ledger import Ledger
from cosalign.store.tables import read_table
from cosalign.training.encode import CONTEXT, DPO_ANSWERS, ChatEncoder, encode_dpo, end_of_turn
from cosalign.training.records import cut_responses
from cosalign.training.reference import reference_key
from cosalign.training.stage_history import read_history


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
