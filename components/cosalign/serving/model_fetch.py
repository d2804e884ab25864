"""Fetches the promoted model into a pod, and writes what its server is started with.

It runs before the model server, in the gateway's image, so that the server's own image can be
vLLM's as published: all that image is told stands in one file. What is fetched is held against the
digest that the pointer names, weights and all, before anything runs it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from cosalign.domain.errors import ModelError
from cosalign.inference.models import resolve_model, split_pin
from cosalign.runtime.logs import get_logger
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import open_storage

SERVER_FILE = "vllm.yaml"
_log = get_logger(__name__)


def fetch_promoted(storage: str, pointer: str, out: Path) -> Path:
    """Fetches the model that is current now.

    Args:
        storage: The storage root.
        pointer: The pointer's name.
        out: Folder for the model and the server's settings.

    Returns:
        The file of the server's settings (``--config`` of vLLM).

    Raises:
        ModelError: No model is promoted, or what lies there is another one.
    """
    entry = ModelPointer(open_storage(storage), pointer).checked()
    if entry is None:
        raise ModelError(
            f"{storage}: no model is promoted as {pointer!r}; promote one with `cosalign promote`"
        )
    # What an attempt before this one fetched of another model would fill the volume.
    shutil.rmtree(out / "models", ignore_errors=True)
    pinned = f"{split_pin(entry.uri)[0]}@sha256:{entry.digest}"
    folder = resolve_model(pinned, out)
    settings = {"model": str(folder.path), "served-model-name": entry.digest,
                "load-format": "safetensors"}  # fmt: skip
    file = out / SERVER_FILE
    # JSON is YAML, and quotes what YAML would misread: a digest of digits, say.
    file.write_text(json.dumps(settings), encoding="utf-8")
    _log.info("model fetched", digest=entry.digest, entry=entry.number)
    return file
