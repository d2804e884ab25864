"""A stage as files in storage, from which processes elsewhere make the same stage again.

Ranks may sit on other machines than the step that starts them, and all they share is storage. They
check that what they read back has the fingerprint that was written, so that another image, model or
row cannot slip in between.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cosalign.domain.errors import DataError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import resolve_model
from cosalign.training.encode import Rows
from cosalign.training.stage import Stage

if TYPE_CHECKING:
    from cosalign.store.storage import Storage

_ORDER, _ROWS, _DEV = "order.json", "order.arrow", "order_dev.arrow"


def write_order(stage: Stage) -> None:
    """Writes what :func:`read_order` reads into the stage's folder."""
    measured = stage.measured
    stage.storage.write_bytes(f"{stage.folder}/{_ROWS}", _bytes_of(stage.rows.table))
    if measured is not None:
        stage.storage.write_bytes(f"{stage.folder}/{_DEV}", _bytes_of(measured.table))
    document = {
        "stage": stage.name,
        "fingerprint": stage.fingerprint,
        "start": stage.start.uri,
        "reference": None if stage.reference is None else stage.reference.uri,
        "training": stage.group.model_dump(mode="json"),
        "rows": _described(stage.rows),
        "dev": None if measured is None else _described(measured),
    }
    stage.storage.write_bytes(f"{stage.folder}/{_ORDER}", json.dumps(document).encode())


def read_order(storage: Storage, folder: str, cache: Path) -> Stage:
    """The stage that was written.

    Args:
        storage: Where it was written.
        folder: The stage's folder there.
        cache: A local folder with room for a model.

    Raises:
        DataError: It is not what was written.
    """
    order: dict[str, Any] = json.loads(storage.read_bytes(f"{folder}/{_ORDER}"))
    dev = None if order["dev"] is None else _read_rows(storage, f"{folder}/{_DEV}", order["dev"])
    stage = Stage(
        order["stage"],
        resolve_model(order["start"], cache),
        _read_rows(storage, f"{folder}/{_ROWS}", order["rows"]),
        TrainingGroup.model_validate(order["training"]),
        storage,
        cache,
        dev=dev,
        reference=resolve_model(order["reference"], cache) if order["reference"] else None,
    )
    if stage.fingerprint != order["fingerprint"]:
        raise DataError(
            f"{storage.uri_of(folder)}: the stage read back is another one than was ordered; the "
            "ranks must run the image of the training step and see the same model"
        )
    return stage


def withdraw_order(stage: Stage) -> None:
    """Removes the files: they hold token ids, and nobody reads them again."""
    for name in (_ORDER, _ROWS, _DEV):
        stage.storage.delete(f"{stage.folder}/{name}")


def _bytes_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _described(rows: Rows) -> dict[str, Any]:
    return {"names": rows.names, "too_long": rows.too_long, "tokens": rows.tokens}


def _read_rows(storage: Storage, path: str, described: dict[str, Any]) -> Rows:
    with pa.ipc.open_file(pa.py_buffer(storage.read_bytes(path))) as reader:
        table = reader.read_all()
    return Rows(table, tuple(described["names"]), described["too_long"], described["tokens"])
