"""Container entry of steps whose paid work may be spread over pods.

::

    python -m cosalign.synthesis prepare …   once: pays for what all shares need, and names them
    python -m cosalign.synthesis share …     one of many: pays for its part of the prompts
    python -m cosalign.synthesis …           the step: from ledgers to tables and manifest

A share leaves nothing but ledger rows and its step's fingerprint. The step compares that with its
own, so that a file changed under a run is noticed and never half used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from cosalign.domain.errors import ConfigError
from cosalign.runtime.executor import ExecutorIo
from cosalign.runtime.exit_codes import run_and_exit_code
from cosalign.runtime.logs import configure_logs, get_logger
from cosalign.runtime.permanent_failure import attempt
from cosalign.runtime.shares import Share, all_shares, parse_share
from cosalign.runtime.step import (
    REUSED,
    Step,
    StepContext,
    config_digest,
    finished_manifest,
    main,
    open_step,
    parse_arguments,
    task_config,
    task_inputs,
    task_order,
)
from cosalign.runtime.usage import metered
from cosalign.store.storage import open_storage

PREPARE, SHARE = "prepare", "share"


class SharedStep(Step, Protocol):
    """A step that can be paid for in shares."""

    def pay(self, context: StepContext, share: Share) -> Mapping[str, int]:
        """Pays for one share of the work, into the ledgers, and gives how much was made."""
        ...


class PreparedStep(SharedStep, Protocol):
    """A step with paid work that all its shares need, and that none of them can do alone."""

    def prepare(self, context: StepContext) -> Mapping[str, int]:
        """Pays for it, into the ledgers, and gives how much was made."""
        ...


def shared_main(step: SharedStep, argv: Sequence[str] | None = None) -> int:
    """Container entry of a step with shares; gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [SHARE]:
        configure_logs()
        return run_and_exit_code(lambda: _share(step, words[1:]))
    return main(step, words)


def prepared_main(step: PreparedStep, argv: Sequence[str] | None = None) -> int:
    """Container entry of a step that can be prepared; gives the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [PREPARE]:
        configure_logs()
        return run_and_exit_code(lambda: _prepare(step, words[1:]))
    return shared_main(step, words)


def _prepare(step: PreparedStep, argv: Sequence[str]) -> None:
    io = parse_arguments(step, argv)
    shares = all_shares(int(io.parameters.get("shards", 0)))
    with _attempted(step, io, PREPARE):
        context, identity, finished = _opened(step, io)
        made: Mapping[str, int] = {}
        if shares and not finished:
            made = step.prepare(context)
        _log(step, "prepared", identity, made, finished)
    io.write_parameter("shares", [str(share) for share in shares])
    _tell(io, made, finished or not shares)


def _share(step: SharedStep, argv: Sequence[str]) -> None:
    io = parse_arguments(step, argv)
    if "share" not in io.parameters:
        raise ConfigError(f"{step.name}: the input 'share' is missing; see --help")
    share = parse_share(io.parameters["share"])
    with _attempted(step, io, f"{SHARE} {share}"):
        context, identity, finished = _opened(step, io)
        made = {} if finished else step.pay(context, share)
        _log(step, f"share_{share}", identity, made, finished)
    io.write_parameter("identity", identity)
    _tell(io, made, finished)


@contextmanager
def _attempted(step: Step, io: ExecutorIo, part: str) -> Iterator[None]:
    config = task_config(step, io)
    storage = open_storage(config.storage.root)
    with attempt(storage, io), metered(storage, config, config_digest(io, config), step.name, part):
        yield


def _opened(step: Step, io: ExecutorIo) -> tuple[StepContext, str, bool]:
    """The step's context and fingerprint, and whether its result stands already."""
    config, inputs = task_config(step, io), task_inputs(step, io)
    context, identity = open_step(step, config, inputs, task_order(io))
    return context, identity, finished_manifest(step, context.storage, identity) is not None


def _log(step: Step, event: str, identity: str, made: Mapping[str, int], finished: bool) -> None:
    log = get_logger(__name__).bind(step=step.name, fingerprint=identity[:12])
    log.info("nothing_to_pay" if finished else event, **made)


def _tell(io: ExecutorIo, made: Mapping[str, int], reused: bool) -> None:
    for name in io.outputs:
        io.metadata[name] = {REUSED: reused, **made}
    io.finish()
