"""What each task took: a small note in storage, from which a run's bill is made.

::

    usage/RUN_CONFIG_SHA256/20261129T101500-1f2e3d4c.json

A note is written when a task begins and again when it ends, well or not, so that an attempt that
was killed shows as one without an end, and is counted as such and not as nothing. It knows the
machine by what the container was given: GPUs by their device files (a pod has those of its own
GPUs and no others), cores by its affinity. A training in a TrainJob counts the job's GPUs for as
long as the step waits for it. Two tasks on one machine at once count it twice.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cosalign.domain.errors import CosalignError
from cosalign.domain.run_config import RunConfig
from cosalign.domain.validation import StrictModel
from cosalign.store.storage import Storage

FOLDER = "usage"
_DEVICES = Path("/dev")


class Usage(StrictModel):
    """What one attempt at a task took.

    Attributes:
        form: Version of this document's form.
        step: The step.
        part: Which part of it: empty for the step itself, ``prepare`` or ``share 3/8``.
        began: When, ISO 8601 in UTC.
        seconds: How long; ``None`` while it goes on, and for ever where it was killed.
        well: Whether it ended without an error; ``None`` likewise.
        gpus: GPUs that it had.
        cores: Processor cores that it had.
        currency: What prices are in.
        gpu_hour: Price of a GPU's hour when it ran; ``None`` where it was not known.
        core_hour: Price of a core's hour, likewise.
    """

    form: Literal["cosalign-usage/1"] = "cosalign-usage/1"
    step: str
    part: str = ""
    began: str
    seconds: float | None = None
    well: bool | None = None
    gpus: int
    cores: int
    currency: str
    gpu_hour: float | None
    core_hour: float | None

    @property
    def gpu_hours(self) -> float:
        """GPU-hours; nothing of an attempt without an end."""
        return self.gpus * (self.seconds or 0.0) / 3600

    @property
    def core_hours(self) -> float:
        """Core-hours of an attempt without GPUs, whose price has those of a node in it."""
        return 0.0 if self.gpus else self.cores * (self.seconds or 0.0) / 3600

    @property
    def price(self) -> float | None:
        """What it cost; ``None`` where a price is needed and not known."""
        parts = [(self.gpu_hours, self.gpu_hour), (self.core_hours, self.core_hour)]
        if any(hours and price is None for hours, price in parts):
            return None
        return sum(hours * (price or 0.0) for hours, price in parts)


@contextmanager
def metered(
    storage: Storage, config: RunConfig, config_digest: str, step: str, part: str = ""
) -> Iterator[None]:
    """Notes what the block takes.

    Args:
        storage: The storage root.
        config: The run config.
        config_digest: Its SHA-256, by which the run is known.
        step: The step.
        part: Which part of it.
    """
    now = datetime.now(UTC)
    path = f"{FOLDER}/{config_digest}/{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}.json"
    usage = Usage(
        step=step, part=part, began=now.isoformat(timespec="seconds"), gpus=_gpus(config, step),
        cores=len(os.sched_getaffinity(0)), **config.prices.model_dump(),
    )  # fmt: skip
    started, well = time.monotonic(), False
    _write(storage, path, usage)
    try:
        yield
        well = True
    finally:
        seconds = round(time.monotonic() - started, 3)
        with suppress(CosalignError):  # What went wrong before is what has to be told.
            _write(storage, path, usage.model_copy(update={"seconds": seconds, "well": well}))


def read_usage(storage: Storage, config_digest: str | None = None) -> dict[str, list[Usage]]:
    """All notes, or those of one run, by the run config's SHA-256, oldest first."""
    folder = FOLDER if config_digest is None else f"{FOLDER}/{config_digest}"
    found: dict[str, list[Usage]] = {}
    for stat in storage.list(folder):
        usage = Usage.model_validate_json(storage.read_bytes(stat.path))
        found.setdefault(stat.path.split("/")[1], []).append(usage)
    return found


def _gpus(config: RunConfig, step: str) -> int:
    if step == "training" and config.training.backend == "train_job":
        job = config.training.train_job
        asked = [int(n) for name, n in job.resources.items() if "gpu" in name and n.isdigit()]
        return job.nodes * (asked[0] if asked else job.processes_per_node)
    return sum(1 for device in _DEVICES.glob("nvidia[0-9]*") if device.name[6:].isdigit())


def _write(storage: Storage, path: str, usage: Usage) -> None:
    text = json.dumps(usage.model_dump(mode="json"), sort_keys=True)
    storage.write_bytes(path, f"{text}\n".encode())
