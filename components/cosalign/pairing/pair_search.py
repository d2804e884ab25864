"""Finds pairs by id in a storage root, and the tables of the run that made them.

A pair's id is a hash of four ids, so it cannot be looked up: the pairs tables are read through, a
batch at a time. What a run's tables are is in the data card that stands beside its pairs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow.compute as pc

from cosalign.domain.errors import DataError
from cosalign.domain.pair_identity import pair_id_of
from cosalign.domain.run_config import GeneratorSettings, PairingGroup
from cosalign.domain.taxonomy import Taxonomy
from cosalign.pairing.table_stream import first_row, streamed
from cosalign.runtime.lineage import read_lineage
from cosalign.runtime.step import StepManifest, parse_manifest
from cosalign.store.storage import Storage

PAIR_ID_DIGITS = 32
SHORTEST_PREFIX = 6
_MANIFEST = re.compile(r"steps/pairing/([0-9a-f]+)/manifest\.json")
_FOUR = ("prompt_id", "config_id", "chosen_id", "rejected_id")


@dataclass(frozen=True)
class FoundPair:
    """One row of a pairs table; errors in tenths."""

    pair_id: str
    prompt_id: str
    config_id: str
    chosen_id: str
    rejected_id: str
    chosen_error: int
    rejected_error: int

    def response(self, role: str) -> str:
        """Id of the ``chosen`` or the ``rejected`` response."""
        return self.chosen_id if role == "chosen" else self.rejected_id

    def error(self, role: str) -> int:
        """Its error."""
        return self.chosen_error if role == "chosen" else self.rejected_error


@dataclass(frozen=True)
class MadeRun:
    """A finished pairing, and the steps before it."""

    storage: Storage
    fingerprint: str
    manifest: StepManifest

    @cached_property
    def card(self) -> dict[str, Any]:
        """Its data card."""
        path = self.manifest.files.get("data_card_figures")
        if path is None:
            raise DataError(
                f"pairing {self.fingerprint[:12]} has no data card, so nothing is known of what it "
                "was made from; run it again with this version"
            )
        card: dict[str, Any] = json.loads(self.storage.read_bytes(path))
        return card

    @property
    def settings(self) -> dict[str, Any]:
        """The card's settings: models, generators, judge, weights."""
        settings: dict[str, Any] = self.card["settings"]
        return settings

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy that its masks speak in."""
        return Taxonomy.model_validate_json(json.dumps(self.card["taxonomy"]["file"]))

    @property
    def pairing(self) -> PairingGroup:
        """By what the errors were made."""
        return PairingGroup.model_validate_json(json.dumps(self.settings["pairing"]))

    @property
    def extends(self) -> str | None:
        """SHA-256 of the pairs that an increment took over; ``None`` for a full run."""
        lineage = read_lineage(self.storage, self.manifest.folder)
        return None if lineage is None else lineage.of_step("increment", "previous")

    @property
    def steps(self) -> dict[str, str]:
        """Fingerprints of this step and those before it."""
        return {**self.card["steps"], "pairing": self.fingerprint}

    def generator(self, name: str) -> GeneratorSettings | None:
        """A generator's settings; ``None`` where the run config named none so."""
        for settings in self.settings["generators"]:
            if settings["name"] == name:
                return GeneratorSettings.model_validate_json(json.dumps(settings))
        return None

    def row(self, table: str, column: str, value: str) -> dict[str, Any]:
        """The one row of a table with an id.

        Raises:
            DataError: There is none.
        """
        row = self._first(table, {column: value})
        if row is None:
            raise DataError(
                f"{column} {value} is not in the {table} table of pairing {self.fingerprint[:12]}; "
                "an earlier step's result was deleted or replaced: run again"
            )
        return row

    def draw(self, prompt_id: str, config_id: str) -> dict[str, Any] | None:
        """How the config came to the prompt."""
        wanted = {"prompt_id": prompt_id, "config_id": config_id}
        return self._first("draws", wanted) or self._first("freeform_draws", wanted)

    def follows(self, response_id: str, config_id: str) -> dict[str, Any] | None:
        """The judgement whether a response follows a free-form config."""
        return self._first("follows", {"response_id": response_id, "config_id": config_id})

    def _first(self, table: str, wanted: dict[str, str]) -> dict[str, Any] | None:
        for manifest in self._manifests.values():
            if table in manifest.tables:
                return first_row(self.storage, manifest.tables[table], wanted)
        return None

    @cached_property
    def _manifests(self) -> dict[str, StepManifest]:
        return {
            step: _manifest(self.storage, f"steps/{step}/{fingerprint}/manifest.json")
            for step, fingerprint in self.card["steps"].items()
        }


def made_runs(storage: Storage, fingerprint: str | None = None) -> list[MadeRun]:
    """The finished pairings of a storage root.

    Args:
        storage: The root.
        fingerprint: Only the one whose fingerprint begins so.

    Raises:
        DataError: There is none.
    """
    found = [
        (match[1], stat.path)
        for stat in storage.list("steps/pairing")
        if (match := _MANIFEST.fullmatch(stat.path)) and match[1].startswith(fingerprint or "")
    ]
    if not found:
        which = f"no pairing {fingerprint}" if fingerprint else "no pairs"
        raise DataError(
            f"{storage.uri} holds {which}; name the storage of a finished run with --root"
        )
    return [MadeRun(storage, name, _manifest(storage, path)) for name, path in found]


def find_pair(runs: list[MadeRun], wanted: str) -> tuple[FoundPair, MadeRun]:
    """The pair with an id, or with the only id that begins so.

    Raises:
        DataError: It is no id, no pair has it, or several have.
    """
    prefix = wanted.strip().lower()
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},{PAIR_ID_DIGITS}}}", prefix):
        raise DataError(
            f"{wanted!r} is no pair id: these are {PAIR_ID_DIGITS} hex digits, or the first "
            f"{SHORTEST_PREFIX} or more; `cosalign trace --list` shows some"
        )
    hits = [
        (pair, run) for run in runs for pair in pairs_of(run) if pair.pair_id.startswith(prefix)
    ]
    if not hits:
        raise DataError(
            f"no pair {prefix} in {len(runs)} pairing(s); is --root the storage of its run?"
        )
    ids = sorted({pair.pair_id for pair, _ in hits})
    if len(ids) > 1:
        raise DataError(f"{prefix} begins {len(ids)} pair ids: {', '.join(ids[:5])}; give more")
    hits = _made(hits)
    if len(hits) > 1:
        names = ", ".join(run.fingerprint[:12] for _, run in hits)
        raise DataError(f"pair {ids[0]} is in several pairings: {names}; choose with --step")
    return hits[0]


def _made(hits: list[tuple[FoundPair, MadeRun]]) -> list[tuple[FoundPair, MadeRun]]:
    """Without increments that only took a pair over from a run that holds it too."""
    tables = {run.manifest.tables["pairs"].sha256 for _, run in hits}
    return [(pair, run) for pair, run in hits if run.extends not in tables]


def pairs_of(run: MadeRun, prompt_id: str | None = None) -> Iterator[FoundPair]:
    """The pairs of a pairing, or those of one prompt, in the table's order."""
    with streamed(run.storage, run.manifest.tables["pairs"]) as batches:
        for batch in batches([*_FOUR, "chosen_error", "rejected_error"]):
            rows = batch
            if prompt_id is not None:
                rows = batch.filter(pc.equal(batch["prompt_id"], prompt_id))
            yield from map(_found, rows.to_pylist())


def _found(row: dict[str, Any]) -> FoundPair:
    prompt, config, chosen, rejected = (str(row[name]) for name in _FOUR)
    return FoundPair(
        pair_id=pair_id_of(prompt, config, chosen, rejected),
        prompt_id=prompt,
        config_id=config,
        chosen_id=chosen,
        rejected_id=rejected,
        chosen_error=row["chosen_error"],
        rejected_error=row["rejected_error"],
    )


def _manifest(storage: Storage, path: str) -> StepManifest:
    if storage.stat(path) is None:
        raise DataError(f"{storage.uri_of(path)}: deleted since the pairs were made; run again")
    return parse_manifest(storage.read_bytes(path), storage.uri_of(path))
