"""The exit handler's container: says how a run ended, whatever became of it.

A failed KFP run shows a red box and a pod's log that is soon gone. This leaves ``outcome.json``
beside the run's other results and one page in the UI: the state, KFP's own message, and the
messages of tasks that ended for good. It never fails a run by itself: what cannot be read is said,
on the page alone where that is the run config, which names the storage; what may pass is tried
again.
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from cosalign.domain.errors import ConfigError, UserError
from cosalign.runtime.executor import ExecutorIo, parse_executor_input
from cosalign.runtime.exit_codes import run_and_exit_code
from cosalign.runtime.logs import configure_logs, get_logger
from cosalign.runtime.permanent_failure import PermanentFailure, permanent_failures
from cosalign.runtime.result_notes import run_record_uri
from cosalign.runtime.run_config import read_run_config, run_config_digest
from cosalign.store.storage import Storage, open_storage

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{run_id}</title>
<h1>{state}</h1><p>Run {run_id}, {finished}</p>{message}{failures}</html>
"""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run_id: The run's id.
        state: KFP's word for it: ``SUCCEEDED``, ``FAILED``, ``CANCELLED``.
        message: KFP's error message; empty where there is none.
        failures: Tasks that ended with an error that people have to mend.
        finished: When, ISO 8601 in UTC.
        record: Address of the manifest that leads to all results of the run, which an increment
            names as ``previous``; ``None`` where the run did not come as far as training.
    """

    run_id: str
    state: str
    message: str
    failures: tuple[PermanentFailure, ...]
    finished: str
    record: str | None = None

    def as_page(self) -> str:
        """One HTML page, all values escaped."""
        items = "".join(
            f"<li><code>{html.escape(failure.address)}</code><p>{html.escape(failure.reason)}</p>"
            for failure in self.failures
        )
        return _PAGE.format(
            run_id=html.escape(self.run_id),
            state=html.escape(self.state),
            finished=html.escape(self.finished),
            message=f"<p>{html.escape(self.message)}</p>" if self.message else "",
            failures=f"<h2>To be mended</h2><ul>{items}</ul>" if items else "",
        )


def outcome_of(
    storage: Storage, run_id: str, status: dict[str, Any], config_digest: str
) -> Outcome:
    """Gathers a run's outcome.

    Args:
        storage: The storage root.
        run_id: The run's id, which is a part of its tasks' addresses.
        status: KFP's ``PipelineTaskFinalStatus``.
        config_digest: SHA-256 of the run config.
    """
    failures = permanent_failures(storage, f"/{run_id}/")
    return _outcome(run_id, status, failures, run_record_uri(storage, config_digest))


def _outcome(
    run_id: str,
    status: dict[str, Any],
    failures: Iterable[PermanentFailure],
    record: str | None = None,
) -> Outcome:
    return Outcome(
        run_id=run_id,
        state=str(status.get("state", "UNKNOWN")),
        message=str((status.get("error") or {}).get("message", "")),
        failures=tuple(failures),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        record=record,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Container entry; gives the exit code."""
    configure_logs()
    return run_and_exit_code(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m cosalign.runtime.run_end", description=__doc__)
    parser.add_argument("--executor-input", required=True, help="KFP's executor input, JSON")
    parser.add_argument("--run-id", required=True, help="the run's id")
    args = parser.parse_args(argv)
    io = parse_executor_input(args.executor_input)
    status = _status(io)
    try:
        outcome = _kept(io, args.run_id, status)
    except UserError as problem:
        # Another attempt would end the same way, and show nobody why.
        outcome = _outcome(args.run_id, status, [_unread(io, problem)])
    for name in io.outputs:
        io.write_output(name, outcome.as_page().encode())
    io.finish()
    failed = [failure.address for failure in outcome.failures]
    get_logger(__name__).info("run_ended", run=outcome.run_id, state=outcome.state, failed=failed)


def _kept(io: ExecutorIo, run_id: str, status: dict[str, Any]) -> Outcome:
    """The outcome, which then lies beside the run's other results."""
    config = read_run_config(
        io.parameters["run_config_uri"], io.parameters.get("run_config_digest") or None
    )
    storage = open_storage(config.storage.root)
    digest = io.parameters.get("run_config_digest") or run_config_digest(config)
    outcome = outcome_of(storage, run_id, status, digest)
    text = json.dumps(asdict(outcome), indent=2)
    storage.write_bytes(f"runs/{run_id}/outcome.json", f"{text}\n".encode())
    return outcome


def _unread(io: ExecutorIo, problem: UserError) -> PermanentFailure:
    get_logger(__name__).warning("outcome_not_kept", reason=str(problem))
    return PermanentFailure(io.parameters["run_config_uri"], str(problem))


def _status(io: ExecutorIo) -> dict[str, Any]:
    found = io.parameters.get("status") or {}
    status = json.loads(found) if isinstance(found, str) else found
    if not isinstance(status, dict):
        raise ConfigError(f"the final status is no object: {status!r}")
    return status


if __name__ == "__main__":
    sys.exit(main())
