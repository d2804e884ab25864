"""SIGTERM: a checkpoint where one fits the grace period, an end with a reason where none does."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from cosalign.domain.errors import EXIT_RETRY
from cosalign.training.preemption import Preempted, SigtermWatch


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_where_a_save_fits_it_is_only_noted() -> None:
    with SigtermWatch(grace_seconds=30) as watch:
        watch.needed_seconds = 29.9
        assert not watch.asked
        _terminate()
        assert watch.asked


def test_where_none_fits_it_ends_at_once_and_says_why() -> None:
    with SigtermWatch(grace_seconds=30) as watch:
        watch.needed_seconds = 957
        with pytest.raises(Preempted, match=r"957 s.*30 s.*grace_seconds") as end:
            _terminate()
    assert end.value.exit_code == EXIT_RETRY


def test_outside_a_training_the_signal_is_what_it_was() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with SigtermWatch(30):
            _terminate()
        assert seen == []
        _terminate()
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_watched() -> None:
    found: list[object] = []

    def inside() -> None:
        with SigtermWatch(30):
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [before]
