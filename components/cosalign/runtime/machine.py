"""Says before a run what this machine is too small for, and what will only be slower.

``make demo`` calls it before anything is installed (``python machine.py``), so it imports the
standard library alone and prints plain lines. A limit of a container counts, not the host's.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
DISK_SETUP_GIB = 6.0
"""Packages 5.0, the converted model 0.3, a run's models and checkpoints."""
DISK_RUN_GIB = 2.0
"""A run alone, its packages installed: two trained models, checkpoints while they are made."""
MEMORY_NEEDED_GIB = 5.0
"""vLLM's three processes hold 3.7 GiB, training 4 to 5."""
MEMORY_AMPLE_GIB = 8.0
EXIT_TOO_SMALL = 2
CONTROL_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """What counts of a machine; its memory is the smaller of the host's and a container's."""

    disk_gib: float
    memory_gib: float
    cores: int
    flags: frozenset[str]


@dataclass(frozen=True)
class Findings:
    """What stops a run, and what only slows it down."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]


def this_machine(folder: Path) -> Machine:
    """The machine that this process runs on, and the disk that holds ``folder``."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        disk_gib=shutil.disk_usage(folder).free / GIB,
        memory_gib=min([pages, *_container_limits(CONTROL_GROUPS)]) / GIB,
        cores=len(os.sched_getaffinity(0)),
        flags=_cpu_flags(Path("/proc/cpuinfo")),
    )


def assess(machine: Machine, disk_needed_gib: float) -> Findings:
    """Holds a machine against what the demo needs.

    Args:
        machine: The machine.
        disk_needed_gib: Free space that is needed.
    """
    problems, notes = [], []
    if machine.disk_gib < disk_needed_gib:
        problems.append(
            f"{machine.disk_gib:.1f} GiB of disk are free here, {disk_needed_gib:.0f} are needed; "
            "make room, or clone the project onto a larger disk"
        )
    if machine.memory_gib < MEMORY_NEEDED_GIB:
        problems.append(
            f"{machine.memory_gib:.1f} GiB of memory, {MEMORY_NEEDED_GIB:.0f} are needed at least; "
            "use a larger machine, or give the container more"
        )
    elif machine.memory_gib < MEMORY_AMPLE_GIB:
        notes.append(
            f"{machine.memory_gib:.1f} GiB of memory are little: close other programs; if a stage "
            "is killed all the same, start again and it goes on where it was"
        )
    if "avx2" not in machine.flags:
        problems.append("this CPU has no AVX2, which vLLM's CPU build needs; use another machine")
    elif "avx512f" not in machine.flags:
        notes.append("this CPU has no AVX512: the run works and takes longer")
    if machine.cores == 1:
        notes.append("one core: the run takes about twice as long as on two")
    return Findings(tuple(problems), tuple(notes))


def _container_limits(groups: Path) -> list[int]:
    """Memory limits of control groups, version 2 and 1, in bytes."""
    limits = []
    for file in (groups / "memory.max", groups / "memory" / "memory.limit_in_bytes"):
        text = file.read_text("ascii").strip() if file.is_file() else ""
        if text.isdecimal():
            limits.append(int(text))
    return limits


def _cpu_flags(file: Path) -> frozenset[str]:
    """Flags of the first CPU; where they cannot be read, those that are needed are assumed."""
    text = file.read_text("utf-8", "replace") if file.is_file() else ""
    found = [line.partition(":")[2] for line in text.splitlines() if line.startswith("flags")]
    return frozenset(found[0].split()) if found else frozenset({"avx2", "avx512f"})


def main(folder: Path, *, installed: bool) -> int:
    """Prints the findings on ``folder``'s machine; gives the exit code."""
    needed = DISK_RUN_GIB if installed else DISK_SETUP_GIB
    findings = assess(this_machine(folder), needed)
    for problem in findings.problems:
        sys.stderr.write(f"demo: error: {problem}\n")
    for note in findings.notes:
        sys.stderr.write(f"demo: note: {note}\n")
    return EXIT_TOO_SMALL if findings.problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(), installed="--installed" in sys.argv[1:]))
