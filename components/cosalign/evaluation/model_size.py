"""How large a model is, counted from the headers of its weight files.

A report has to say what a model of its size can show; a name says nothing reliable about size, and
``config.json`` gives a count only through formulas that differ by architecture. The headers list
every tensor's shape, and reading them costs kilobytes.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from cosalign.inference.model_digest import WEIGHTS
from cosalign.inference.models import ModelFolder


def parameter_count(model: ModelFolder) -> int | None:
    """Parameters of a model; ``None`` for a double, which has none.

    Weights that two layers share are stored, and counted, once. Quantised weights are counted as
    stored, which is fewer numbers than the model has.
    """
    if model.is_double:
        return None
    return sum(_stored(path) for path in sorted(model.path.glob(WEIGHTS)))


def size_words(parameters: int) -> str:
    """A count as people say it: ``135 million``, ``1.7 billion``."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return str(parameters)


def _stored(path: Path) -> int:
    # The format: the header's length as eight bytes, little-endian, then the header as JSON.
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name[:2] != "__")
