from __future__ import annotations

from typing import Any

import pytest

from cosalign.runtime.progress import Progress


class Lines:
    """A logger that keeps its lines."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def info(self, event: str, **values: Any) -> None:
        self.kept.append({"event": event, **values})


def states(log: Lines) -> list[tuple[str, int]]:
    return [(line["state"], line["done"]) for line in log.kept]


def test_the_first_line_comes_at_once_and_the_last_at_the_end() -> None:
    log = Lines()
    with Progress(log, "generate", 10) as progress:
        assert states(log) == [("started", 0)]
        progress.advance(4)
        progress.advance()
        assert progress.done == 5
    assert states(log) == [("started", 0), ("finished", 5)]
    assert {(line["event"], line["work"], line["total"]) for line in log.kept} == {
        ("progress", "generate", 10)
    }


def test_lines_come_between_when_it_is_time() -> None:
    log = Lines()
    with Progress(log, "generate", 3, interval=0) as progress:
        for _ in range(3):
            progress.advance()
    assert states(log) == [
        ("started", 0),
        ("running", 1),
        ("running", 2),
        ("running", 3),
        ("finished", 3),
    ]
    running = [line for line in log.kept if line["state"] == "running"]
    assert all(line["seconds_left"] is not None for line in running)
    assert running[-1]["seconds_left"] == 0


def test_nothing_done_promises_nothing() -> None:
    log = Lines()
    with Progress(log, "generate", 0, interval=0):
        pass
    assert [line["seconds_left"] for line in log.kept] == [None, None]


def test_an_error_stops_the_work_and_goes_on() -> None:
    log = Lines()
    with pytest.raises(RuntimeError), Progress(log, "generate", 3) as progress:
        progress.advance()
        raise RuntimeError
    assert states(log)[-1] == ("stopped", 1)
