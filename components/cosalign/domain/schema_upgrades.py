"""Versions of what is stored in Parquet: how an older one is read, and that a newer one is refused.

Nothing that is stored is rewritten where it lies because the code moved on: a table's digest stands
in manifests and in what was made from it. So a table or a part of a ledger says which version of
the schema it was written under, and an older one is upgraded row group by row group as it is read.
``cosalign migrate`` rewrites ledgers, whose rows have identities of their own, so that an upgrade
can be dropped some day.

Whoever changes a schema raises :data:`cosalign.domain.schemas.SCHEMA_VERSION`, adds the step from
the version before to :data:`UPGRADES` and keeps a file of the old version under
``tests/store/stored``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import pyarrow as pa

from cosalign.domain.errors import DataError
from cosalign.domain.schemas import SCHEMA_VERSION

Kind = Literal["table", "ledger"]
Upgrade = Callable[[pa.Table], pa.Table]

VERSION_KEY = b"cosalign.schema"
FIRST = 1
"""What ledgers were written under before they said so."""

UPGRADES: dict[tuple[Kind, str], Mapping[int, Upgrade]] = {}
"""By kind and name: from which version, what makes the next one of rows. Version 1 is the first."""


def current_version() -> int:
    """The version that is written now."""
    return int(SCHEMA_VERSION)


def version_of(schema: pa.Schema, source: str) -> int:
    """The version that a file was written under.

    Raises:
        DataError: It is newer than this release knows, or no version at all.
    """
    said = (schema.metadata or {}).get(VERSION_KEY, str(FIRST).encode())
    if not said.isdigit() or int(said) < FIRST:
        raise DataError(f"{source}: says schema version {said!r}, which is none; it was altered")
    if int(said) > current_version():
        raise DataError(
            f"{source}: was written under schema version {int(said)}, and this release knows up to "
            f"{current_version()}; use the release that wrote it, or a later one"
        )
    return int(said)


def upgraded(kind: Kind, name: str, rows: pa.Table, version: int) -> pa.Table:
    """Rows of an older version as they are today.

    Args:
        kind: Where they come from.
        name: Which table or ledger.
        rows: All columns of some rows.
        version: The version that they were written under.
    """
    steps = UPGRADES.get((kind, name), {})
    for number in range(version, current_version()):
        rows = steps[number](rows) if number in steps else rows
    return rows


def is_upgraded(kind: Kind, name: str, version: int) -> bool:
    """Whether rows of a version differ from today's."""
    steps = UPGRADES.get((kind, name), {})
    return any(number in steps for number in range(version, current_version()))
