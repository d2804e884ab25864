"""A mistake that only people can mend ends a task's later attempts at once.

KFP's retries know no exit codes: a config that is wrong would take a GPU node three times more, ten
minutes apart. So an attempt that ends with such an error leaves a marker in storage, under the
address of the task's own outputs. That address is the same for all attempts at one task of one run,
and another for every other, so that the next run starts with no marker. Outputs in a local folder
(``cosalign run``, plain flags) leave none: there only what may pass is tried again. Nor does a run
config that cannot be read, since it names the storage: its run's first task alone is tried again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cosalign.domain.errors import CosalignError, UserError
from cosalign.domain.fingerprint import row_id
from cosalign.runtime.executor import ExecutorIo
from cosalign.runtime.logs import get_logger
from cosalign.store.storage import Storage

FOLDER = "failures"


@dataclass(frozen=True)
class PermanentFailure:
    """What a task ended with; ``address`` is where its outputs would have gone."""

    address: str
    reason: str


@contextmanager
def attempt(storage: Storage, io: ExecutorIo) -> Iterator[None]:
    """One attempt at a task.

    Args:
        storage: The storage root, where the marker lies.
        io: The task's outputs, whose address names it.

    Raises:
        UserError: An earlier attempt at this very task ended with an error that stays.
    """
    if "://" not in io.address or io.address.startswith("file://"):
        yield
        return
    path = f"{FOLDER}/{row_id('attempt', io.address)}.json"
    if storage.stat(path) is not None:
        reason = json.loads(storage.read_bytes(path))["reason"]
        raise UserError(f"an earlier attempt ended for good, so this one does too: {reason}")
    try:
        yield
    except UserError as error:
        _leave(storage, path, PermanentFailure(io.address, str(error)))
        raise


def permanent_failures(storage: Storage, part_of_address: str) -> list[PermanentFailure]:
    """The markers of tasks whose address has some part in it: a run's id, say."""
    found = [json.loads(storage.read_bytes(stat.path)) for stat in storage.list(FOLDER)]
    return [PermanentFailure(**one) for one in found if part_of_address in one["address"]]


def _leave(storage: Storage, path: str, failure: PermanentFailure) -> None:
    try:
        storage.write_bytes(path, json.dumps(vars(failure)).encode())
    except CosalignError as problem:
        # The attempt's own error is the one to show; without a marker the next merely repeats it.
        get_logger(__name__).warning("no_marker_left", reason=str(problem))
