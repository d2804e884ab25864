"""One copy of a model in a process of its own: the far end of :mod:`data_parallel`.

It is started with the GPUs or cores that it may use in its environment, which is read once, when
torch is imported. It is sent what to open and then
batches of requests; it sends a greeting and then results, or the error that ends it.

A worker must not outlive its parent: it would hold a GPU that the step needs when it is started
again. So a thread does nothing but read the socket, and ends the process when that is closed, be it
in the middle of a step.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from cosalign.domain.errors import CosalignError
from cosalign.inference.engine import Engine
from cosalign.inference.open_engine import open_engine

Kind = Literal["generate", "label", "score"]


@dataclass(frozen=True)
class Greeting:
    """What a worker says once its engine runs."""

    description: str
    dtype: str
    max_model_len: int


@dataclass(frozen=True)
class Batch:
    """Requests of one kind; ``call`` comes back with each result."""

    call: int
    kind: Kind
    requests: tuple[Any, ...]


class _Inbox:
    """Batches as they arrive, as endless streams of requests for the engine."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._batches: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self._held: Batch | None = None
        self._unanswered = 0
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        while True:
            try:
                self._batches.put(self._link.recv())
            except (EOFError, OSError):
                # Not sys.exit: the main thread may be deep in a step, and nobody waits for it.
                os._exit(0)

    def next_kind(self) -> tuple[int, Kind]:
        """The call and kind of the next batch, once there is one."""
        self._held = self._held or self._batches.get()
        return self._held.call, self._held.kind

    def requests(self, call: int) -> Iterator[Any]:
        """The requests of a call; ``None`` where none is here yet and others are in the engine."""
        while True:
            try:
                batch = self._held or self._batches.get(block=self._unanswered == 0)
            except queue.Empty:
                yield None
                continue
            self._held = batch if batch.call != call else None
            if self._held:
                return
            for request in batch.requests:
                self._unanswered += 1
                yield request

    def answered(self) -> None:
        """Notes that a request has its result."""
        self._unanswered -= 1


def serve(link: Connection) -> None:
    """Opens the engine it is told of and answers batches until the parent closes the link."""
    model, settings = link.recv()
    inbox = _Inbox(link)
    try:
        with open_engine(model, settings) as engine:
            link.send(Greeting(engine.description, engine.dtype, engine.max_model_len))
            while True:
                _answer(engine, inbox, link)
    except CosalignError as problem:
        link.send(problem)


def _answer(engine: Engine, inbox: _Inbox, link: Connection) -> None:
    call, kind = inbox.next_kind()
    # The engine's method has the kind's name.
    for result in getattr(engine, kind)(inbox.requests(call)):
        inbox.answered()
        link.send((call, result))


def main() -> None:
    """The worker process: arguments are its inherited socket's descriptor, and the cores it has."""
    socket, *cores = map(int, sys.argv[1:])
    if cores:
        # Now, while there is one thread: those that torch starts take after it.
        os.sched_setaffinity(0, cores)
    serve(Connection(socket))
