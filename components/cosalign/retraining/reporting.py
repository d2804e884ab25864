"""All that is told of a tick: Kubernetes, the status file, a webhook, metrics.

(The audit log is the reconciler's own: ``audit_rows.py``.) A notice is put into the outbox, and
objects are told, before the status file is written: what was told before a crash is told again by
the next tick, and is the same. Webhook and pushgateway may be away without failing the tick.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cosalign.domain.errors import TransientError
from cosalign.retraining.config_standing import ConfigStanding
from cosalign.retraining.desired_configs import DesiredConfigs
from cosalign.retraining.metrics import push_metrics, registry_of, write_metrics
from cosalign.retraining.notices import Outbox, Webhook, changes_of
from cosalign.retraining.reconcile import Tick
from cosalign.retraining.status_file import Status, StatusFile, status_of
from cosalign.runtime.logs import get_logger
from cosalign.store.storage import Storage

log = get_logger(__name__)


class ConfigReporter(Protocol):
    """Tells the places that configs come from what became of them."""

    def tell(self, desired: DesiredConfigs, standings: Iterable[ConfigStanding]) -> int:
        """Tells it, and gives how many places were written."""
        ...


@dataclass(frozen=True)
class Outside:
    """Who is told, beside storage.

    Attributes:
        configs: Where configs come from; ``None`` where that takes no word.
        webhook: Where notices go.
        metrics_file: Where figures are written.
        pushgateway: Where figures are pushed.
    """

    configs: ConfigReporter | None = None
    webhook: Webhook | None = None
    metrics_file: Path | None = None
    pushgateway: str | None = None


def report(storage: Storage, tick: Tick, name: str, outside: Outside) -> Status:
    """Tells everybody what a tick found and did.

    Args:
        storage: The storage root.
        tick: What it found and did.
        name: As of the model that is reconciled.
        outside: Who is told.
    """
    file = StatusFile(storage, name)
    before, generation = file.read()
    status = status_of(tick, name, before)
    outbox = Outbox(storage, name)
    changes = changes_of(before, status)
    if changes and outside.webhook is not None:
        outbox.put(changes, status.at)
    if outside.configs is not None:
        outside.configs.tell(tick.desired, status.configs)
    file.write(status, generation)
    pending = outbox.send(outside.webhook) if outside.webhook is not None else 0
    _count(status, tick.now, pending, outside)
    return status


def _count(status: Status, at: float, pending: int, outside: Outside) -> None:
    if outside.metrics_file is None and outside.pushgateway is None:
        return
    registry = registry_of(status, at, pending)
    if outside.metrics_file is not None:
        write_metrics(registry, outside.metrics_file)
    if outside.pushgateway is not None:
        try:
            push_metrics(registry, outside.pushgateway, status.name)
        except TransientError as problem:
            log.warning("metrics_not_pushed", why=str(problem))
