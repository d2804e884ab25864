"""Figures for Prometheus, pushed to a gateway or written for a node exporter's textfile collector.

A reconcile lives for seconds, so nothing could scrape it. All figures come from the status, so they
say the same as ``cosalign status`` and Kubernetes do.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cosalign.domain.errors import TransientError
from cosalign.retraining.status_file import RunStanding, Status

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_JOB = "cosalign_reconcile"
_SECONDS = 10.0


def registry_of(status: Status, at: float, pending: int) -> CollectorRegistry:
    """The figures of a status.

    Args:
        status: The status.
        at: The storage's time of the tick, seconds since 1970.
        pending: Notices that nobody took yet.
    """
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    plain = {
        "cosalign_reconcile_last_success_timestamp_seconds": ("When reconcile last ended.", at),
        "cosalign_settle_seconds_left": ("Until changed configs are acted on.", status.settle_left),
        "cosalign_accepted_set": ("Number of the accepted set.", float(status.accepted)),
        "cosalign_notices_pending": ("Webhook notices that nobody took yet.", float(pending)),
        "cosalign_unreadable_files": ("Files that tell no name.", float(len(status.problems))),
        "cosalign_increments_since_full_run": (
            "Increments that the current model carries.",
            float(status.model.increments if status.model else 0),
        ),
    }  # fmt: skip
    for name, (says, value) in plain.items():
        _gauge(registry, name, says).set(value)
    _configs(registry, status)
    _runs(registry, status)
    return registry


def _configs(registry: CollectorRegistry, status: Status) -> None:
    phases = _gauge(registry, "cosalign_configs", "Configs by region and phase.", "region", "phase")
    counts = Counter((config.region, config.phase) for config in status.configs)
    for (region, phase), count in counts.items():
        phases.labels(region, phase).set(count)
    score = _gauge(registry, "cosalign_config_score", "CoSA-Score of the current model.",
                   "namespace", "name", "region")  # fmt: skip
    for config in status.configs:
        if config.score is not None:
            score.labels(config.namespace or "", config.name, config.region).set(config.score)
    if status.model is not None:
        info = _gauge(registry, "cosalign_model_info", "The current model.", "digest")
        info.labels(status.model.digest[:12]).set(1)


def _runs(registry: CollectorRegistry, status: Status) -> None:
    active = _gauge(registry, "cosalign_runs_active", "Whether a run goes on.", "lane")
    failed = _gauge(registry, "cosalign_last_run_failed", "Whether the last run did not end well.",
                    "lane")  # fmt: skip
    blocked = _gauge(registry, "cosalign_last_gate_failed", "Whether the last gate let none pass.",
                     "lane")  # fmt: skip
    lanes: dict[str, RunStanding | None] = {"evaluate": status.evaluate, "train": status.train}
    for lane, run in lanes.items():
        active.labels(lane).set(run is not None and run.phase != "ended")
        failed.labels(lane).set(run is not None and run.ending not in (None, "succeeded"))
        blocked.labels(lane).set(run is not None and run.passed is False)


def _gauge(registry: CollectorRegistry, name: str, says: str, *labels: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    from prometheus_client import Gauge

    return Gauge(name, says, labels, registry=registry)


def write_metrics(registry: CollectorRegistry, file: Path) -> None:
    """Writes the figures for a textfile collector, whole or not at all."""
    from prometheus_client import write_to_textfile

    file.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(file), registry)


def push_metrics(registry: CollectorRegistry, gateway: str, name: str) -> None:
    """Pushes the figures to a gateway, in place of those of the last push.

    Raises:
        TransientError: It does not take them.
    """
    from prometheus_client import push_to_gateway

    try:
        push_to_gateway(
            gateway, job=_JOB, registry=registry, grouping_key={"name": name}, timeout=_SECONDS
        )
    except OSError as problem:
        raise TransientError(
            f"the pushgateway {gateway} does not take metrics ({problem}); correct its address, or "
            "leave it out"
        ) from None
