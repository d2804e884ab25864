"""What a result was made of, beside it: the document behind its fingerprint, and its inputs.

A fingerprint says whether two results are the same and not what they are. So the document that it
was taken of is kept, with the folders of the results that came in: from any result one gets to all
that it came from, and reads there which judge, base model and settings made it. An increment does
both. The document vouches for itself, since its fingerprint is the folder's name; a link is checked
by what the document says of the linked tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.store.storage import Storage

LINEAGE_FILE = "lineage.json"


@dataclass(frozen=True)
class Lineage:
    """What a result was made of.

    Attributes:
        identity: The step's name, the taxonomy, the inputs' tables and models by digest, and all
            else that the result depends on.
        made_from: Folders of the results that came in, by the names that the step knows them by.
    """

    identity: Mapping[str, Any]
    made_from: Mapping[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the result, 64 hex digits."""
        return fingerprint("step", self.identity)

    def of_step(self, *keys: str) -> Any:
        """A part of what the step itself named; ``None`` where it named none."""
        found: Any = self.identity["identity"]
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def as_bytes(self) -> bytes:
        """The document as it is stored."""
        plain: Json = {"identity": self.identity, "made_from": dict(self.made_from)}
        return f"{json.dumps(plain, indent=1, sort_keys=True, allow_nan=False)}\n".encode()


def settle_lineage(storage: Storage, folder: str, lineage: Lineage) -> None:
    """Writes a result's lineage, unless it is there."""
    path = f"{folder}/{LINEAGE_FILE}"
    if storage.stat(path) is None:
        storage.write_bytes(path, lineage.as_bytes())


def read_lineage(storage: Storage, folder: str) -> Lineage | None:
    """The lineage of a result; ``None`` where an earlier release made it and none was written.

    Raises:
        DataError: It is torn, or of another result.
    """
    path = f"{folder}/{LINEAGE_FILE}"
    if storage.stat(path) is None:
        return None
    try:
        raw = json.loads(storage.read_bytes(path))
        found = Lineage(raw["identity"], raw["made_from"])
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{storage.uri_of(path)}: torn; delete it and start that run again"
        ) from None
    if not folder.endswith(f"/{found.fingerprint}"):
        raise DataError(
            f"{storage.uri_of(path)}: altered, it is not what its folder is named after; delete it "
            "and start that run again"
        )
    return found
