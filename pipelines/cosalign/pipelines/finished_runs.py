"""Finds what earlier runs left in storage: their config and the models that they trained."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from cosalign.domain.errors import UserError
from cosalign.domain.run_config import RunConfig
from cosalign.runtime.run_config import read_run_config
from cosalign.store.storage import Storage

_SUMMARY = re.compile(r"runs/([^/]+)/summary\.json")


@dataclass(frozen=True)
class TrainedRun:
    """A run that trained models; ``models`` are addresses by name (``sft``, ``dpo``)."""

    run_id: str
    config: RunConfig
    models: dict[str, str]


def newest_trained_run(storage: Storage, run_id: str | None = None) -> TrainedRun:
    """The run that ended last of those that trained, or the one named.

    Args:
        storage: The storage root.
        run_id: Which run; the newest where ``None``.

    Raises:
        UserError: There is no such run, or it trained no model.
    """
    found = [match[1] for stat in storage.list("runs") if (match := _SUMMARY.fullmatch(stat.path))]
    named = found if run_id is None else [name for name in found if name == run_id]
    ended = ((name, _summary(storage, name)) for name in named)
    trained = [(s.get("finished", ""), name, s["models"]) for name, s in ended if s.get("models")]
    if trained:
        _, name, models = max(trained, key=lambda entry: entry[:2])
        uri = storage.uri_of(f"runs/{name}/config.yaml")
        return TrainedRun(name, read_run_config(uri, None), models)
    which = "no finished run" if run_id is None else f"no run {run_id!r}"
    raise UserError(
        f"{storage.uri} holds {which} with a trained model; make one with `make demo` or "
        "`cosalign run --profile NAME`, or name its storage with --root"
    )


def _summary(storage: Storage, run_id: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(storage.read_bytes(f"runs/{run_id}/summary.json"))
    return summary
