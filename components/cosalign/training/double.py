"""A test double of training: a model's name that depends on what training would depend on.

Tests of the graph run on ``double:`` models, which have no weights. There a stage leaves another
``double:`` address, which answers otherwise than its start and is another one whenever the records
or the settings are others. Nothing is learnt.
"""

from __future__ import annotations

from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.inference.double import DOUBLE_SCHEME
from cosalign.inference.models import ModelFolder


def double_stage(name: str, start: ModelFolder, records_sha256: str, recipe: Json) -> str:
    """The address of the stand-in for a stage's model."""
    identity: Json = [name, start.digest, records_sha256, recipe]
    return DOUBLE_SCHEME + fingerprint("double training", identity)
