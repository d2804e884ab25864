from __future__ import annotations

import ctypes

import pytest

from cosalign.pairing.freed_memory import keep_freed_memory


def test_glibc_is_asked_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_freed_memory.cache_clear()
    assert keep_freed_memory() is hasattr(ctypes.CDLL(None), "mallopt")
    keep_freed_memory.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False
    keep_freed_memory.cache_clear()
