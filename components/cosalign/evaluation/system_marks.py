"""Which colour and shape a system has on a page: both, for who cannot tell colours apart."""

from __future__ import annotations

from collections.abc import Sequence

KNOWN = ("base", "ica", "sft", "dpo", "current")
"""Systems that look the same on every page."""
MARKS = 8


def marks_of(systems: Sequence[str]) -> dict[str, int]:
    """A mark from 0 to 7 by system; a ninth system and those after it look like earlier ones."""
    taken = {name: KNOWN.index(name) for name in systems if name in KNOWN}
    free = [mark for mark in range(MARKS) if mark not in taken.values()] or list(range(MARKS))
    others = [name for name in systems if name not in taken]
    return taken | {name: free[i % len(free)] for i, name in enumerate(others)}
