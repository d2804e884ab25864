"""Keeps one engine running at a time, and starts none that is not needed.

An engine takes most of a GPU's memory and half a minute to start. A step asks the host for the
model it needs; the host keeps the engine while the same model is asked for, and stops it before it
starts another.
"""

from __future__ import annotations

from dataclasses import asdict
from types import TracebackType
from typing import Self

from cosalign.domain.run_config import EngineGroup
from cosalign.inference.engine import Engine
from cosalign.inference.models import ModelFolder
from cosalign.inference.open_engine import open_engine
from cosalign.inference.prefix_cache import MeasuresPrefixUse
from cosalign.runtime.logs import get_logger


class EngineHost:
    """Holder of at most one running engine; ``starts`` counts engine starts.

    Args:
        settings: How engines run.
        pays: Where ``False``, no engine is started and work is only read from the ledgers: that is
            for a step whose shares have paid, and which runs where there may be no GPU.
    """

    def __init__(self, settings: EngineGroup, *, pays: bool = True) -> None:
        self.settings = settings
        self.pays = pays
        self.starts = 0
        self._engine: Engine | None = None
        self._digest = ""

    def engine(self, model: ModelFolder) -> Engine:
        """The running engine of a model, started if need be."""
        if self._engine is None or self._digest != model.digest:
            self.close()
            log = get_logger(__name__)
            log.info("engine_starting", model=model.digest[:12], kind=self.settings.kind)
            self._engine = open_engine(model, self.settings)
            self._digest = model.digest
            self.starts += 1
            log.info("engine_started", engine=self._engine.description)
        return self._engine

    def close(self) -> None:
        """Stops the running engine, if any."""
        if self._engine is not None:
            if isinstance(self._engine, MeasuresPrefixUse):
                get_logger(__name__).info("prefix_cache", **asdict(self._engine.usage))
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
