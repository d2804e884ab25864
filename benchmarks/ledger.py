"""The ledger's set difference at scale: which of a million keys are not among a hundred million.

``make bench-ledger``; ``python -m benchmarks.ledger --stored 1000000`` for another size. The stored
rows are written by the ledger's own code, in parts of a million rows, as ``append_table`` leaves
them: random keys as a hash gives, a short text that compresses well, and a failed row in a
thousand. What is not laid down is long texts, which would make hundreds of gigabytes: the set
difference reads the columns ``key`` and ``failure`` only, whatever stands beside them. Half of the
keys asked for are stored. The answer is checked, and the asking runs in a process of its own, whose
peak of resident memory is stated: with nothing asked it is that of the libraries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from benchmarks.measuring import peak_mib, publish, surroundings, timed

from cosalign.domain.schemas import RESPONSE_LEDGER
from cosalign.store.ledger import Ledger
from cosalign.store.storage import open_storage

STORED, ASKED, PART_ROWS = 10**8, 10**6, 10**6


def open_ledger(folder: Path) -> Ledger:
    """The ledger under test."""
    return Ledger(open_storage(str(folder)), "responses", RESPONSE_LEDGER)


def part_keys(number: int, rows: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The keys of one part, shape (rows, 2)."""
    return np.random.default_rng([1, number]).integers(0, 2**64, (rows, 2), dtype=np.uint64)


def key_array(keys: np.ndarray[Any, np.dtype[np.uint64]]) -> pa.Array:
    """As a column of a ledger."""
    buffer = pa.py_buffer(np.ascontiguousarray(keys))
    return pa.Array.from_buffers(pa.binary(16), len(keys), [None, buffer])


def part_table(number: int, rows: int) -> pa.Table:
    """One part's rows."""
    failed = np.arange(rows) % 1000 == 999
    same = {"text": "a beer", "finish_reason": "stop", "engine": "vllm-0.32", "dtype": "bfloat16"}
    columns: dict[str, Any] = {name: pa.array([v]).take(pa.array(np.zeros(rows, np.int64)))
                               for name, v in same.items()}  # fmt: skip
    columns["key"] = key_array(part_keys(number, rows))
    columns["tokens"] = np.full(rows, 2, np.int32)
    columns["failure"] = pa.array(["timed out" if f else None for f in failed], pa.string())
    columns["created"] = np.arange(rows) + number * rows
    return pa.table({name: columns[name] for name in RESPONSE_LEDGER.names})


def asked_keys(stored: int, asked: int) -> tuple[list[bytes], int]:
    """Keys to ask for, half of them stored; and how many are missing."""
    parts, rows = max(1, stored // PART_ROWS), min(PART_ROWS, stored)
    each = max(1, asked // 2 // parts)
    # Copies: a view would keep all keys of its part in memory, and they would count as ours.
    held = np.concatenate(
        [part_keys(n, rows)[:: max(1, rows // each)][:each].copy() for n in range(parts)]
    )
    failed = sum(
        int((np.arange(0, rows, max(1, rows // each))[:each] % 1000 == 999).sum())
        for _ in range(parts)
    )
    new = part_keys(parts + 1, asked - len(held))
    both = np.random.default_rng(2).permutation(np.concatenate([held, new]))
    return [row.tobytes() for row in both], len(new) + failed


def ask(folder: Path, stored: int, asked: int) -> dict[str, Any]:
    """Measures the set difference in this process."""
    keys, missing = asked_keys(stored, asked)
    before = peak_mib()
    cpu = time.process_time()
    seconds, found = timed(lambda: open_ledger(folder).missing(keys))
    if len(found) != missing:
        raise SystemExit(f"{len(found)} keys are missing, and not {missing}")
    return {
        "missing_seconds": round(seconds, 2),
        "missing_cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mib": round(peak_mib()),
        "peak_mib_before": round(before),
        "missing": len(found),
    }


def written(folder: Path, stored: int) -> dict[str, Any]:
    """Writes the ledger."""
    ledger, rows = open_ledger(folder), min(PART_ROWS, stored)

    def write() -> None:
        for number in range(stored // rows):
            ledger.append_table(part_table(number, rows))

    seconds, _ = timed(write)
    size = sum(f.stat().st_size for f in folder.rglob("*.parquet"))
    return {"write_seconds": round(seconds, 1), "parts": stored // rows, "mib": round(size / 2**20)}


def main() -> None:
    """Measures and publishes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stored", type=int, default=STORED)
    parser.add_argument("--asked", type=int, default=ASKED)
    parser.add_argument("--ask", type=Path, help="for the process within")
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(ask(options.ask, options.stored, options.asked)))
        return
    with TemporaryDirectory(prefix="bench-ledger-") as folder:
        laid = written(Path(folder), options.stored)
        command = [sys.executable, "-m", "benchmarks.ledger", "--ask", folder, "--stored",
                   str(options.stored), "--asked", str(options.asked)]  # fmt: skip
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        ]
        stats, figures = timed(lambda: open_ledger(Path(folder)).stats())
    publish(
        {
            "benchmark": "ledger",
            "stored": options.stored,
            "asked": options.asked,
            **laid,
            "first": runs[0],
            "again": runs[1],
            "stats_seconds": round(stats, 1),
            "keys": figures.keys,
            **surroundings(("numpy", "pyarrow")),
        }
    )


if __name__ == "__main__":
    main()
