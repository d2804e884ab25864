"""Who carries runs out: one Protocol, so that reconcile is the same on a cluster and on a laptop.

A submitter is asked for few things, and all of them can be asked again: whoever reconciles may die
between any two, and nothing that a submitter remembers is relied upon.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cosalign.domain.fingerprint import Json

RunStatus = Literal["running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True)
class RunOrder:
    """A run to be started.

    Attributes:
        name: Its name, which no other run has.
        pipeline: What to run.
        parameters: The pipeline's, beside those that the submitter adds for its cluster.
        labels: Names and values that say whose run it is.
    """

    name: str
    pipeline: str
    parameters: Mapping[str, Json]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SubmittedRun:
    """A run that was started.

    Attributes:
        run_id: Under which the submitter knows it.
        status: How it is doing.
        message: Why it failed, where it did.
        wrong: Whether people have to mend something before it is started again.
    """

    run_id: str
    status: RunStatus
    message: str = ""
    wrong: bool = False


class Submitter(Protocol):
    """Starts runs and looks after them."""

    @property
    def identity(self) -> Json:
        """What a run's result depends on by the submitter: pipeline versions, parameters."""
        ...

    @property
    def by_hand(self) -> bool:
        """Whether a run is carried out while it is started, before ``start`` returns."""
        ...

    def find(self, name: str) -> list[SubmittedRun]:
        """Runs of a name, the one that was started first before the others."""
        ...

    def start(self, order: RunOrder) -> str:
        """Starts a run and gives its id.

        Raises:
            UserError: It is refused.
            TransientError: It could not be started, or it may have been and the answer was lost.
        """
        ...

    def look(self, run_id: str) -> SubmittedRun | None:
        """How a run is doing; ``None`` where there is none of that id."""
        ...

    def cancel(self, run_id: str) -> None:
        """Ends a run that goes on."""
        ...


@dataclass
class SubmitterDouble:
    """Runs in memory: a double with the whole interface, for tests and dry runs.

    Attributes:
        carry_out: Is given each run that is started, and says how it ends; without it, runs go on
            until ``statuses`` says otherwise.
        runs: What was started, in order: id and order.
        statuses: How runs are doing, by id.
        cancelled: Ids of runs that were ended.
    """

    carry_out: Callable[[RunOrder], SubmittedRun] | None = None
    runs: list[tuple[str, RunOrder]] = field(default_factory=list)
    statuses: dict[str, SubmittedRun] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    by_hand: bool = False
    identity: Json = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, name: str) -> list[SubmittedRun]:
        """See :class:`Submitter`."""
        with self._lock:
            return [self.statuses[run_id] for run_id, order in self.runs if order.name == name]

    def start(self, order: RunOrder) -> str:
        """See :class:`Submitter`."""
        with self._lock:
            run_id = f"r{len(self.runs) + 1}"
            self.runs.append((run_id, order))
            self.statuses[run_id] = SubmittedRun(run_id, "running")
        if self.carry_out is not None:
            ended = self.carry_out(order)
            self.statuses[run_id] = SubmittedRun(run_id, ended.status, ended.message, ended.wrong)
        return run_id

    def look(self, run_id: str) -> SubmittedRun | None:
        """See :class:`Submitter`."""
        return self.statuses.get(run_id)

    def cancel(self, run_id: str) -> None:
        """See :class:`Submitter`."""
        self.cancelled.append(run_id)
        self.statuses[run_id] = SubmittedRun(run_id, "cancelled")
