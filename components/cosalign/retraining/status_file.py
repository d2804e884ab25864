"""The last status of everything, in storage: what ``cosalign status`` shows, and what was told.

``reconcile/NAME/status.json`` is written at the end of a tick, after what is told of it: notices,
Kubernetes. Whoever dies before has told some of it; the next tick sees the old status, and tells it
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

from cosalign.domain.errors import DataError
from cosalign.domain.validation import StrictModel, validated
from cosalign.retraining.config_standing import ConfigStanding, standings
from cosalign.retraining.reconcile import Tick
from cosalign.retraining.run_lane import LaneEntry
from cosalign.store.storage import GenerationMismatch, Storage


class RunStanding(StrictModel):
    """The newest run of a lane.

    Attributes:
        run: Its name.
        run_id: Its server's id.
        kind: ``evaluate``, ``increment`` or ``full``.
        phase: ``claimed``, ``submitted`` or ``ended``.
        ending: How it ended.
        message: Why, where it did not end well.
        why: Why it was started.
        configs: How many configs it is about.
        attempt: Which attempt it is.
        passed: Whether the gate let its model pass.
        model: Digest of the model that it made or measured.
        report: Address of its results.
        at: When this was recorded.
    """

    run: str
    run_id: str | None
    kind: str
    phase: str
    ending: str | None
    message: str
    why: str
    configs: int
    attempt: int
    passed: bool | None
    model: str | None
    report: str | None
    at: str


class ModelStanding(StrictModel):
    """The current model: digest, address, since when, and increments since the last full run."""

    digest: str
    uri: str
    at: str
    increments: int


class Status(StrictModel):
    """Everything at one moment.

    Attributes:
        form: Version of this document's form.
        name: As of the model that is reconciled.
        at: When, ISO 8601 in UTC, by the storage's clock.
        accepted: Number of the accepted set.
        model: The current model; ``None`` where none was promoted.
        due: What is due, in one word.
        why: The same for people.
        settle_left: Seconds until it may be acted on.
        evaluate: The newest evaluation.
        train: The newest training.
        problems: Files that could not be read.
        configs: What became of each config.
    """

    form: str = "cosalign-status/1"
    name: str
    at: str
    accepted: int
    model: ModelStanding | None
    due: str
    why: str
    settle_left: float
    evaluate: RunStanding | None
    train: RunStanding | None
    problems: tuple[str, ...] = ()
    configs: tuple[ConfigStanding, ...]

    @property
    def by_key(self) -> Mapping[tuple[str, str], ConfigStanding]:
        """Configs by namespace and name."""
        return {config.key: config for config in self.configs}


def status_of(tick: Tick, name: str, before: Status | None) -> Status:
    """The status that a tick leads to.

    Args:
        tick: What a look found and did.
        name: As of the model that is reconciled.
        before: The status before.
    """
    model = tick.model
    decision = tick.decision
    return Status(
        name=name, at=tick.moment.isoformat(timespec="seconds"), accepted=tick.accepted.number,
        model=ModelStanding(
            digest=model.digest, uri=model.entry.uri, at=model.entry.at,
            increments=sum(entry.plan.kind == "increment" for entry in model.trained),
        ) if model else None,
        due=decision.action if decision else "nothing",
        why=decision.sentence if decision else "nothing is wanted",
        settle_left=round(tick.settle_left, 1),
        evaluate=_run(tick.evaluate), train=_run(tick.train),
        problems=tick.desired.problems,
        configs=tuple(standings(tick, before.by_key if before else {})),
    )  # fmt: skip


def _run(entry: LaneEntry | None) -> RunStanding | None:
    if entry is None:
        return None
    outcome = entry.outcome
    gate = outcome.gate if outcome else None
    return RunStanding(
        run=entry.run, run_id=entry.run_id, kind=entry.plan.kind, phase=entry.phase,
        ending=outcome.ending if outcome else None, message=outcome.message if outcome else "",
        why=entry.plan.sentence, configs=len(entry.plan.demands), attempt=entry.attempt,
        passed=outcome.passed if outcome else None, model=outcome.model if outcome else None,
        report=f"{gate.rpartition('/')[0]}/report.html" if gate else None, at=entry.at,
    )  # fmt: skip


class StatusFile:
    """Where the status of one name lies.

    Args:
        storage: The storage root.
        name: As of the model that is reconciled.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self.storage = storage
        self.path = f"reconcile/{name}/status.json"

    def read(self) -> tuple[Status | None, int]:
        """The status and its generation; ``None`` and 0 where there is none.

        Raises:
            DataError: It is torn.
        """
        stat = self.storage.stat(self.path)
        if stat is None:
            return None, 0
        source = self.storage.uri_of(self.path)
        try:
            raw = json.loads(self.storage.read_bytes(self.path))
        except ValueError:
            raise DataError(f"{source}: torn; delete it, the next reconcile writes it") from None
        return validated(Status, raw, source, DataError), stat.generation

    def write(self, status: Status, generation: int) -> None:
        """Replaces the status that was read; one that was written meanwhile stays."""
        data = json.dumps(status.model_dump(mode="json"), indent=1, sort_keys=True)
        with suppress(GenerationMismatch):
            self.storage.write_bytes(self.path, f"{data}\n".encode(), if_generation=generation)
