"""Copies of one model side by side, each in a process of its own, behind one engine.

vLLM has data parallelism of its own, made for serving: its replicas are lockstepped for models of
experts, and it hands requests to whichever replica is least busy. Here requests come in prefix
order and are handed out in chunks that are cut where neighbours share least, so that what one
prompt's responses share is computed once, in one copy. A chunk goes to the copy with least to do.

A copy that dies takes its unanswered requests with it: the call ends with "try again later", and
what was answered is with the caller. Copies end when this process does, however it does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self, cast

from cosalign.domain.errors import CosalignError, EngineUnavailable
from cosalign.domain.run_config import EngineGroup
from cosalign.inference.engine import (
    Generation,
    GenerationRequest,
    Labelling,
    LabelRequest,
    Scored,
    ScoreRequest,
    Tokenizer,
)
from cosalign.inference.engine_places import Place
from cosalign.inference.engine_worker import Batch, Greeting, Kind
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder
from cosalign.inference.prefix_order import prefix_chunks

CHUNK = 16
"""Requests handed out together, at least: the responses of a prompt or two."""
AHEAD = 1024
"""Requests that a copy may have before it: more than its engine takes in, so it never waits."""
WORKER = "from cosalign.inference.engine_worker import main; main()"
"""Not ``-m``: what is pickled has to be of the module's name, and not of ``__main__``'s."""
CLOSE_SECONDS = 10.0


class _Copy:
    """One worker process, from this side."""

    def __init__(self, number: str, place: Place) -> None:
        self.number = number
        self.link, far_end = Pipe()
        self.unanswered = 0
        with far_end:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter and code
                [sys.executable, "-c", WORKER, str(far_end.fileno()), *map(str, place.cores)],
                env={**os.environ, **place.environment},
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def send(self, message: object) -> None:
        try:
            self.link.send(message)
        except OSError:
            raise self._gone() from None

    def receive(self) -> Any:
        """The next message.

        Raises:
            CosalignError: The one that ended the worker.
            EngineUnavailable: The worker died.
        """
        try:
            message = self.link.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if isinstance(message, CosalignError):
            raise message
        return message

    def close(self) -> None:
        self.link.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> EngineUnavailable:
        try:
            code = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        return EngineUnavailable(
            f"engine process {self.number} is gone (exit code {code}); was its memory enough? what "
            "was answered is stored: run again"
        )


class DataParallelEngine:
    """Several copies of a model as one engine.

    Args:
        model: The model.
        settings: How each copy runs.
        places: A share of the machine for each copy.

    Raises:
        ConfigError: As :class:`cosalign.inference.vllm_engine.VllmEngine`.
        EngineUnavailable: A copy did not start.
    """

    def __init__(self, model: ModelFolder, settings: EngineGroup, places: Sequence[Place]) -> None:
        self._model = model
        self._tokenizer = load_tokenizer(model)
        self._call = 0
        of = len(places)
        self._copies = [_Copy(f"{i + 1} of {of}", place) for i, place in enumerate(places)]
        try:
            for copy in self._copies:
                copy.send((model, settings.model_copy(update={"data_parallel": 1})))
            greetings = [cast("Greeting", copy.receive()) for copy in self._copies]
        except BaseException:
            self.close()
            raise
        self._greeting = greetings[0]

    @property
    def model_digest(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._model.digest

    @property
    def description(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._greeting.description

    @property
    def dtype(self) -> str:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._greeting.dtype

    @property
    def max_model_len(self) -> int:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._greeting.max_model_len

    @property
    def tokenizer(self) -> Tokenizer:
        """See :class:`cosalign.inference.engine.Engine`."""
        return self._tokenizer

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Generation]:
        """See :class:`cosalign.inference.engine.Engine`.

        Raises:
            EngineUnavailable: A copy went away.
        """
        return self._stream("generate", prefix_chunks(requests, CHUNK))

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        """See :class:`cosalign.inference.engine.Engine`.

        Raises:
            EngineUnavailable: A copy went away.
        """
        return self._stream("label", prefix_chunks(requests, CHUNK))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[Scored]:
        """See :class:`cosalign.inference.engine.ScoresContinuations`.

        Raises:
            EngineUnavailable: A copy went away.
        """
        return self._stream("score", prefix_chunks(requests, CHUNK))

    def close(self) -> None:
        """See :class:`cosalign.inference.engine.Engine`."""
        copies, self._copies = self._copies, []
        for copy in copies:
            copy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stream(self, kind: Kind, chunks: Iterator[tuple[Any, ...]]) -> Iterator[Any]:
        if not self._copies:
            raise CosalignError("the engine is closed")
        # Results of a call that its caller abandoned may still be on their way; they are let fall.
        self._call += 1
        for copy in self._copies:
            copy.unanswered = 0
        exhausted = False
        while True:
            while not exhausted and (copy := self._least_busy()).unanswered < AHEAD:
                chunk = next(chunks, None)
                if chunk is None:
                    exhausted = True
                else:
                    copy.send(Batch(self._call, kind, chunk))
                    copy.unanswered += len(chunk)
            if not any(copy.unanswered for copy in self._copies):
                return
            yield from self._landed()

    def _least_busy(self) -> _Copy:
        return min(self._copies, key=lambda copy: copy.unanswered)

    def _landed(self) -> Iterator[Any]:
        by_link = {copy.link: copy for copy in self._copies}
        for link in wait(list(by_link)):
            copy = by_link[cast("Connection", link)]
            call, result = copy.receive()
            if call == self._call:
                copy.unanswered -= 1
                yield result
