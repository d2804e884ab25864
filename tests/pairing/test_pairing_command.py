"""``python -m cosalign.pairing`` on plain files, as a process: pairs, or one clear message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

VERDICTS: dict[str, Any] = {
    "prompt_id": [7, 7, 7, 8],
    "response_id": [1, 2, 3, 4],
    "risk_mask": pa.array([0, 1, 2, None], pa.uint32()),
    "addressed": [True, True, False, True],
}
DRAWS: dict[str, Any] = {
    "prompt_id": [7, 8],
    "config_id": [70, 80],
    "allowed_mask": pa.array([1, 0], pa.uint32()),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(pa.table(VERDICTS), tmp_path / "verdicts.parquet")
    pq.write_table(pa.table(DRAWS), tmp_path / "draws.parquet")
    return tmp_path


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cosalign.pairing", "--verdicts", f"{folder}/verdicts.parquet",
         "--draws", f"{folder}/draws.parquet", "--out", f"{folder}/out", *more],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def replace(folder: Path, name: str, **columns: Any) -> None:
    table = {**(VERDICTS if name == "verdicts" else DRAWS), **columns}
    kept = {key: value for key, value in table.items() if value is not None}
    pq.write_table(pa.table(kept), folder / f"{name}.parquet")


def made(folder: Path) -> list[tuple[int, int, int]]:
    rows = pq.read_table(folder / "out" / "pairs.parquet").to_pylist()
    return [(row["chosen_id"], row["rejected_id"], row["rejected_error"]) for row in rows]


def test_two_files_become_pairs(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert made(folder) == [(1, 2, 1), (1, 3, 40), (2, 3, 40)]
    assert pq.read_schema(folder / "out" / "pairs.parquet").field("chosen_id").type == pa.int64()


def test_a_pool_folds_the_other_risks(folder: Path) -> None:
    done = run(folder, "--pool-mask=2", "--seed=3")
    assert done.returncode == 0, done.stderr
    assert made(folder) == [(1, 2, 30), (1, 3, 40)]


BAD_FILES: list[tuple[str, dict[str, Any], str]] = [
    ("verdicts", {"risk_mask": None}, "'risk_mask'"),
    ("verdicts", {"response_id": [1.0, 2.0, 3.0, 4.0]}, "response_id is of type double"),
    ("verdicts", {"response_id": [1, 1, 3, 4]}, "stands more than once"),
    ("verdicts", {"risk_mask": [0, 1, 256, 0]}, "--categories"),
    ("draws", {"allowed_mask": [128, 0]}, "allowed_mask holds 128"),
]


def refused(done: subprocess.CompletedProcess[str], message: str) -> bool:
    lines = done.stderr.strip().splitlines()
    return (
        done.returncode == 2
        and len(lines) == 1
        and lines[0].startswith("cosalign: error: ")
        and message in lines[0]
    )


@pytest.mark.parametrize(("name", "columns", "message"), BAD_FILES)
def test_bad_tables_are_refused(
    folder: Path, name: str, columns: dict[str, Any], message: str
) -> None:
    replace(folder, name, **columns)
    done = run(folder)
    assert refused(done, message), done.stderr
    assert not (folder / "out").exists()


def test_a_torn_file_is_refused(folder: Path) -> None:
    file = folder / "draws.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    done = run(folder)
    assert refused(done, "draws.parquet: not a readable Parquet file"), done.stderr


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "verdicts.parquet").unlink()
    done = run(folder)
    assert refused(done, "no such file"), done.stderr


@pytest.mark.parametrize("option", ["--pool-mask=256", "--categories=0"])
def test_an_impossible_option_is_refused(folder: Path, option: str) -> None:
    done = run(folder, option)
    assert refused(done, "categories"), done.stderr
