"""One piece of work at a time, beside the caller, whose errors are not lost."""

from __future__ import annotations

import threading

import pytest

from cosalign.domain.errors import StorageUnavailable
from cosalign.training import background_store
from cosalign.training.background_store import BackgroundStore


def test_the_caller_goes_on_while_work_is_under_way() -> None:
    seconds: list[float] = []
    store, release = BackgroundStore(seconds.append), threading.Event()
    store.start(lambda: (release.wait(), None)[1])
    assert store.busy
    assert seconds == []
    release.set()
    store.wait()
    assert not store.busy
    assert len(seconds) == 1


def test_short_work_is_done_when_start_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short is what takes less than the patience, however loaded the machine that tries it is."""
    monkeypatch.setattr(background_store, "PATIENCE_SECONDS", 600.0)
    done: list[int] = []
    store = BackgroundStore(lambda _: None)
    store.start(lambda: done.append(1))
    assert done == [1]
    assert not store.busy


def test_the_next_work_waits_for_the_one_before() -> None:
    order: list[str] = []
    store, release = BackgroundStore(lambda _: None), threading.Event()

    def slow() -> None:
        release.wait()
        order.append("first")

    store.start(slow)
    threading.Timer(0.05, release.set).start()
    store.start(lambda: order.append("second"))
    store.wait()
    assert order == ["first", "second"]


def test_an_error_is_raised_where_it_is_waited_for_and_once() -> None:
    seconds: list[float] = []
    store, release = BackgroundStore(seconds.append), threading.Event()

    def failing() -> None:
        release.wait()
        raise StorageUnavailable("the bucket is away")

    store.start(failing)
    release.set()
    with pytest.raises(StorageUnavailable, match="the bucket is away"):
        store.wait()
    store.wait()
    assert seconds == []
