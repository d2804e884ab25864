"""What is said about machines that are too small, and about those that are only slow."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cosalign.runtime import machine
from cosalign.runtime.machine import Machine, assess, this_machine

GOOD = Machine(100.0, 24.0, 2, frozenset({"avx2", "avx512f"}))


def test_a_good_machine_hears_nothing() -> None:
    found = assess(GOOD, 6)
    assert (found.problems, found.notes) == ((), ())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (replace(GOOD, disk_gib=5.4), "5.4 GiB of disk are free here, 6 are needed"),
        (replace(GOOD, memory_gib=3.9), "3.9 GiB of memory, 5 are needed at least"),
        (replace(GOOD, flags=frozenset({"sse4_2"})), "no AVX2"),
    ],
)
def test_what_cannot_work_is_a_problem(changed: Machine, told: str) -> None:
    found = assess(changed, 6)
    assert len(found.problems) == 1
    assert told in found.problems[0]
    assert not found.notes


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (replace(GOOD, memory_gib=7.6), "7.6 GiB of memory are little"),
        (replace(GOOD, flags=frozenset({"avx2"})), "no AVX512"),
        (replace(GOOD, cores=1), "one core"),
    ],
)
def test_what_is_only_slow_is_a_note(changed: Machine, told: str) -> None:
    found = assess(changed, 6)
    assert not found.problems
    assert [told in note for note in found.notes] == [True]


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("2147483648\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path)
    assert this_machine(tmp_path).memory_gib == 2.0
    (tmp_path / "memory.max").write_text("max\n")
    assert this_machine(tmp_path).memory_gib > 2.0


def test_it_runs_before_anything_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(machine.__file__), "--installed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr
    assert (done.returncode == 2) == ("demo: error:" in done.stderr)
