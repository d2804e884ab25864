"""What ranks met, from the files that they leave: the one error that the step ends with.

Launchers make exit code 1 of every failure, so a rank writes down what it met. When a rank dies,
the others meet a broken connection, which says nothing of the cause: such a report is marked as one
of a lost peer, and counts only where nothing else explains the end.
"""

from __future__ import annotations

import json
import time
import traceback
from pathlib import Path
from typing import Any

from cosalign.domain.errors import (
    EXIT_DEFECT,
    EXIT_RETRY,
    EXIT_USER,
    CosalignError,
    TransientError,
    UserError,
)


class PeerLost(TransientError):
    """All that ranks report is that another one was gone; why is not known to them."""


def report_of(problem: Exception) -> bytes:
    """A rank's report.

    Args:
        problem: What it met.
    """
    lost = _is_lost_peer(problem)
    known = isinstance(problem, CosalignError)
    code = problem.exit_code if isinstance(problem, CosalignError) else EXIT_DEFECT
    document = {
        "time": time.time_ns(),
        "exit_code": EXIT_RETRY if lost else code,
        "peer_lost": lost,
        "message": str(problem) if known else traceback.format_exception_only(problem)[-1].strip(),
    }
    return json.dumps(document).encode()


def _is_lost_peer(problem: Exception) -> bool:
    """Whether this is an error of the connections between ranks, as gloo, NCCL or the store say it.

    gloo's errors have no type of their own. A call that NCCL refuses is a mistake, and no loss.
    """
    from torch.distributed import DistError

    if isinstance(problem, DistError):
        return "ncclInvalid" not in str(problem)
    return isinstance(problem, RuntimeError) and "/gloo/" in str(problem)


def failure_of(reports: Path, code: int) -> CosalignError:
    """The first failure that a rank wrote down, as an error of its kind.

    Args:
        reports: The folder that ranks write to.
        code: The launcher's exit code.

    Returns:
        That error; :class:`PeerLost` where ranks report only that another one was gone.
    """
    found = [json.loads(path.read_bytes()) for path in reports.glob("*.json")]
    told = [report for report in found if not report.get("peer_lost")]
    if told:
        first = _first(told)
        kinds = {EXIT_USER: UserError, EXIT_RETRY: TransientError}
        return kinds.get(first["exit_code"], CosalignError)(first["message"])
    kept = "the last whole checkpoint is kept, run again to go on"
    if found:
        return PeerLost(
            "a training process was lost, by a signal, for want of memory or with its node; "
            f"{kept}. What another one met: {_first(found)['message']}"
        )
    return TransientError(
        f"a training process died without a word (launcher's exit code {code}), by a signal or for "
        f"want of memory; {kept}"
    )


def _first(reports: list[dict[str, Any]]) -> dict[str, Any]:
    return min(reports, key=lambda report: int(report["time"]))
