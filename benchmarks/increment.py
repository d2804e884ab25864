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
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.demo_effect import difference
from benchmarks.increment_paid import paid_by
from benchmarks.increment_runs import ALTERNATIVES, CONFIGS, FOLDER, PACKAGES, Bench
from benchmarks.measuring import publish, surroundings

from cosalign.store.tables import read_table


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
