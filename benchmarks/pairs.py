"""Pairing: the streaming engine against a plain Python loop and against self-joins, in one run.

``make bench-pairs``; ``python -m benchmarks.pairs --sizes 1000000`` for some sizes only. A *scored
row* is a response under a config: 8 responses and 4 configs a prompt make 32 of them. Everything is
measured from Parquet files to a Parquet file, reading and writing included, each contender in a
process of its own whose peak of resident memory is stated, the fastest of several runs. The loop is
measured at 10^6, the joins at 10^6 and 10^7, the engine also at 10^8.

The contenders make the same preferences: the number of pairs of each (chosen error, rejected error)
is compared, since which member of a group stands for it is drawn at random.

At 10^7 the engine is also measured on rows in no order, and on ids that are strings of 32 digits.

``write_share`` is the time spent encoding and writing Parquet over the engine's wall time; writing
runs beside the arithmetic, so the rest is not the complement.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from benchmarks.measuring import peak_mib, publish, surroundings, timed
from benchmarks.pair_tables_made_up import CATEGORIES, write_tables

from cosalign.domain.error_score import PAPER_WEIGHTS, error_tenths
from cosalign.pairing.pair_files import Emit, PairInputs, pair_files
from cosalign.pairing.pair_output import pair_sink
from cosalign.pairing.settings import PairingSettings

SIZES = (10**6, 10**7, 10**8)
LOOP_UP_TO, JOIN_UP_TO = 10**6, 10**7
REPEATS = {10**6: 11, 10**7: 3, 10**8: 1}
LOOP_REPEATS = 3
Row = dict[str, Any]
COLUMNS = ("prompt_id", "config_id", "chosen_id", "rejected_id", "chosen_error", "rejected_error")


def engine(verdicts: Path, draws: Path, out: Path) -> Row:
    """The project's engine; says how long it wrote."""
    sinks = []

    def opened(schema: pa.Schema) -> Emit:
        sinks.append(pair_sink(lambda: out, schema))
        return sinks[0].write

    pair_files(PairInputs(verdicts, draws), PairingSettings(CATEGORIES), opened)
    sinks[0].close()
    return {"write_seconds": sinks[0].seconds}


def python_loop(verdicts: Path, draws: Path, out: Path) -> Row:
    """Algorithm 1 as it reads in the paper, over Python objects."""
    responses = defaultdict(list)
    for row in pq.read_table(verdicts).to_pylist():
        responses[row["prompt_id"]].append(row)
    chooser = random.Random(0)  # noqa: S311
    pairs = []
    for draw in pq.read_table(draws).to_pylist():
        members: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for row in responses[draw["prompt_id"]]:
            members[row["risk_mask"], row["addressed"]].append(row["response_id"])
        errors = {key: error_tenths(*key, draw["allowed_mask"]) for key in members}
        for one, other in combinations(errors, 2):
            low, high = sorted((one, other), key=lambda key: errors[key])
            if errors[low] < errors[high] and errors[low] < PAPER_WEIGHTS.beta:
                pair = (chooser.choice(members[low]), chooser.choice(members[high]))
                ids = (draw["prompt_id"], draw["config_id"], *pair)
                pairs.append((*ids, errors[low], errors[high]))
    columns = dict(zip(COLUMNS, zip(*pairs, strict=True), strict=True))
    pq.write_table(pa.table(columns), out, compression="lz4")
    return {}


def polars_join(verdicts: Path, draws: Path, out: Path) -> Row:
    """Groups, their errors, and a join of these with themselves, by the streaming engine."""
    import polars as pl

    weights = PAPER_WEIGHTS
    allowed = pl.col("risk_mask") & pl.col("allowed_mask")
    disallowed = pl.col("risk_mask") & ~pl.col("allowed_mask")
    error = (
        weights.alpha * allowed.bitwise_count_ones().cast(pl.Int32)
        + weights.beta * disallowed.bitwise_count_ones().cast(pl.Int32)
        + pl.when("addressed").then(0).otherwise(weights.gamma)
    ).cast(pl.Int32)
    groups = (
        pl.scan_parquet(verdicts)
        .drop_nulls(["risk_mask", "addressed"])
        .group_by("prompt_id", "risk_mask", "addressed")
        .agg("response_id")
    )
    ids = ["prompt_id", "config_id"]
    scored = pl.scan_parquet(draws).join(groups, on="prompt_id")
    scored = scored.select(*ids, "response_id", error.alias("error"))
    chosen = scored.filter(pl.col("error") < weights.beta)
    chosen = chosen.rename({"response_id": "chosen", "error": "chosen_error"})
    rejected = scored.rename({"response_id": "rejected", "error": "rejected_error"})
    seed = pl.struct(*ids, "chosen_error", "rejected_error")

    def member(name: str, salt: int) -> pl.Expr:
        index = seed.hash(salt) % pl.col(name).list.len()
        return pl.col(name).list.get(index).alias(f"{name}_id")

    pairs = chosen.join(rejected, on=ids).filter(pl.col("chosen_error") < pl.col("rejected_error"))
    columns = [*map(pl.col, ids), member("chosen", 1), member("rejected", 2)]
    pairs.select(*columns, *COLUMNS[-2:]).sink_parquet(out, compression="lz4")
    return {}


def duckdb_join(verdicts: Path, draws: Path, out: Path) -> Row:
    """The same in SQL."""
    import duckdb

    weights = PAPER_WEIGHTS
    duckdb.sql(f"""
        COPY (
            WITH groups AS (
                SELECT prompt_id, risk_mask, addressed, list(response_id) AS members
                FROM read_parquet('{verdicts}')
                WHERE risk_mask IS NOT NULL AND addressed IS NOT NULL
                GROUP BY ALL
            ), scored AS (
                SELECT prompt_id, config_id, members,
                    ({weights.alpha} * bit_count(risk_mask & allowed_mask)
                    + {weights.beta} * bit_count(risk_mask & ~allowed_mask)
                    + CASE WHEN addressed THEN 0 ELSE {weights.gamma} END)::INTEGER AS error
                FROM read_parquet('{draws}') JOIN groups USING (prompt_id)
            )
            SELECT prompt_id, config_id,
                c.members[1 + (random() * len(c.members))::INTEGER % len(c.members)] AS chosen_id,
                r.members[1 + (random() * len(r.members))::INTEGER % len(r.members)] AS rejected_id,
                c.error AS chosen_error, r.error AS rejected_error
            FROM scored c JOIN scored r USING (prompt_id, config_id)
            WHERE c.error < {weights.beta} AND c.error < r.error
        ) TO '{out}' (FORMAT parquet, COMPRESSION lz4)
    """)  # noqa: S608
    return {}


CONTENDERS: dict[str, Callable[[Path, Path, Path], Row]] = {
    "engine": engine, "python_loop": python_loop, "polars": polars_join, "duckdb": duckdb_join,
}  # fmt: skip


def in_process(name: str, verdicts: Path, draws: Path, out: Path, repeats: int) -> Row:
    """Runs a contender in a process of its own; the fastest of its runs."""
    command = [sys.executable, "-m", "benchmarks.pairs", "--contender", name, "--repeats",
               str(repeats), str(verdicts), str(draws), str(out)]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def run_contender(name: str, paths: Sequence[Path], repeats: int) -> Row:
    """Measures in this process."""
    if name == "polars":
        import polars  # noqa: F401 imported before the clock runs, as all the others' libraries
    if name == "duckdb":
        import duckdb  # noqa: F401
    best: Row = {"seconds": float("inf")}
    for _ in range(repeats):
        cpu = time.process_time()
        seconds, more = timed(lambda: CONTENDERS[name](*paths))
        cpu = time.process_time() - cpu
        if seconds < best["seconds"]:
            best = {"seconds": seconds, "cpu_seconds": cpu, **more}
    return {**best, "peak_mib": round(peak_mib())}


def errors_of(path: Path) -> dict[tuple[int, int], int]:
    """How many pairs there are of each (chosen error, rejected error)."""
    found: dict[tuple[int, int], int] = defaultdict(int)
    for batch in pq.ParquetFile(path).iter_batches(1 << 20, columns=list(COLUMNS[-2:])):
        counted = pa.table(batch).group_by(list(COLUMNS[-2:])).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            found[row["chosen_error"], row["rejected_error"]] += row["count_all"]
    return dict(found)


def shuffled(path: Path) -> Path:
    """A copy whose rows are in no order, so that the engine has to sort them by prompt."""
    table = pq.read_table(path)
    order = np.random.default_rng(0).permutation(table.num_rows)
    made = path.with_name(f"shuffled-{path.name}")
    pq.write_table(table.take(pa.array(order)), made)
    return made


def with_string_ids(path: Path) -> Path:
    """A copy whose ids are strings of 32 hexadecimal digits, as the pipeline's are."""
    table = pq.read_table(path)
    for at, name in enumerate(table.column_names):
        if name.endswith("_id"):
            ids = pa.array([f"{value:032x}" for value in table[name].to_pylist()])
            table = table.set_column(at, name, ids)
    made = path.with_name(f"strings-{path.name}")
    pq.write_table(table, made)
    return made


def measured(scored: int, folder: Path) -> Row:
    """All figures of one size."""
    verdicts, draws = write_tables(folder, scored)
    out = folder / "pairs.parquet"
    repeats = REPEATS.get(scored, 1)
    ours = in_process("engine", verdicts, draws, out, repeats)
    errors = errors_of(out)
    row: Row = {
        "rows": scored,
        "pairs": sum(errors.values()),
        "seconds": round(ours["seconds"], 3),
        "cpu_seconds": round(ours["cpu_seconds"], 3),
        "write_share": round(ours["write_seconds"] / ours["seconds"], 3),
        "peak_mib": ours["peak_mib"],
        "output_mib": round(out.stat().st_size / 2**20, 1),
    }
    if LOOP_UP_TO < scored <= JOIN_UP_TO:
        for name, change in (("shuffled", shuffled), ("string_ids", with_string_ids)):
            paths = change(verdicts), change(draws)
            other = in_process("engine", *paths, out, repeats)
            if errors_of(out) != errors:
                raise SystemExit(f"{name} rows make different preferences")
            row[f"{name}_seconds"] = round(other["seconds"], 3)
            row[f"{name}_peak_mib"] = other["peak_mib"]
            for path in paths:
                path.unlink()
    joins = ["polars", "duckdb"] if scored <= JOIN_UP_TO else []
    for name in joins + (["python_loop"] if scored <= LOOP_UP_TO else []):
        theirs = in_process(
            name, verdicts, draws, out, LOOP_REPEATS if name == "python_loop" else repeats
        )
        if errors_of(out) != errors:
            raise SystemExit(f"{name} and the engine make different preferences")
        key = "speedup_vs_python_loop" if name == "python_loop" else f"ratio_vs_{name}"
        row[key] = round(theirs["seconds"] / ours["seconds"], 2)
        row[f"{name}_seconds"] = round(theirs["seconds"], 3)
        row[f"{name}_cpu_seconds"] = round(theirs["cpu_seconds"], 3)
        row[f"{name}_peak_mib"] = theirs["peak_mib"]
    for path in (verdicts, draws, out):
        path.unlink()
    return row


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--contender", choices=list(CONTENDERS), help="for the processes within")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("paths", type=Path, nargs="*", help="for the processes within")
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(run_contender(options.contender, options.paths, options.repeats)))
        return
    with TemporaryDirectory(prefix="bench-pairs-") as folder:
        sizes = [measured(scored, Path(folder)) for scored in options.sizes]
    packages = ("numpy", "pyarrow", "polars", "duckdb")
    publish({"benchmark": "pairs", "sizes": sizes, **surroundings(packages)})


if __name__ == "__main__":
    main()
