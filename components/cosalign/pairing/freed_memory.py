"""Keeps the allocator from giving memory back between two array operations.

Each operation makes an array of some hundred kilobytes and drops it a moment later. By default
glibc returns such blocks to the kernel, which has to clear every page of the next one: more than a
quarter of the time of pairing (``docs/design/pairing.md``). Held instead, they are used again; how
much is held is bounded by what is in use at once, since chunks are.
"""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of settings in glibc's ``malloc.h``."""
_BYTES = 1 << 28


@cache
def keep_freed_memory() -> bool:
    """Asks glibc to keep freed blocks, once a process.

    Returns:
        Whether it will; no other C library is asked, and there nothing changes but the time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _BYTES) and mallopt(_TRIM_THRESHOLD, _BYTES))
