"""A finished run, found again from the address of its last manifest.

Every result names the results that it was made from (``lineage.py``), so the manifest of a run's
evaluation, or of its training, leads to all of the run's manifests, wherever and by whomever the
run was carried out. No file has to be written at a run's end for it, and none can be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cosalign.domain.errors import ConfigError, DataError
from cosalign.runtime.lineage import Lineage, read_lineage
from cosalign.runtime.step import MANIFEST_FILE, StepContext, StepManifest, parse_manifest
from cosalign.store.storage import Storage

TRAINED_BY = ("synthesis", "scoring", "pairing", "training")
"""Steps that a run which trained consists of."""


@dataclass(frozen=True)
class RunRecord:
    """The results of a run, by step.

    Attributes:
        uri: Address that the record was found from.
        manifests: The steps' manifests.
        lineages: What each was made of.
    """

    uri: str
    manifests: Mapping[str, StepManifest]
    lineages: Mapping[str, Lineage]

    def table_digests(self, step: str) -> dict[str, str]:
        """SHA-256 of a step's tables, by name: what whoever reads them depends on."""
        return {name: ref.sha256 for name, ref in sorted(self.manifests[step].tables.items())}


def read_run_record(storage: Storage, uri: str) -> RunRecord:
    """Follows a run's last manifest to all of the run's results.

    Args:
        storage: The storage root, which has to hold the run.
        uri: Address of the manifest of its evaluation or training.

    Raises:
        ConfigError: It lies elsewhere or is not there, or it is no run that trained.
        DataError: A result that it was made from is gone or altered.
    """
    if "://" not in uri:
        uri = Path(uri).absolute().as_uri()
    suffix = f"/{MANIFEST_FILE}"
    folder = uri.removeprefix(f"{storage.uri}/").removesuffix(suffix)
    if not uri.startswith(f"{storage.uri}/"):
        raise ConfigError(
            f"{uri}: not below {storage.uri}; a run is extended in the storage that holds its "
            "ledgers, so set storage.root to that"
        )
    if storage.stat(f"{folder}{suffix}") is None:
        raise ConfigError(
            f"{uri}: there is no such manifest; take the address that the run's outcome.json or "
            "summary.json gives as record, or make a full run"
        )
    manifests: dict[str, StepManifest] = {}
    lineages: dict[str, Lineage] = {}
    _follow(storage, folder, manifests, lineages)
    missing = [step for step in TRAINED_BY if step not in manifests]
    if missing:
        raise ConfigError(
            f"{uri}: came about without {', '.join(missing)}, so it is no run that trained; name "
            "the evaluation or the training of one"
        )
    return RunRecord(uri, manifests, lineages)


def previous_run(context: StepContext) -> RunRecord | None:
    """The run that a step's run extends; ``None`` in a full run."""
    increment = context.config.increment
    return None if increment is None else read_run_record(context.storage, increment.previous)


def _follow(
    storage: Storage,
    folder: str,
    manifests: dict[str, StepManifest],
    lineages: dict[str, Lineage],
) -> None:
    path = f"{folder}/{MANIFEST_FILE}"
    if storage.stat(path) is None:
        raise DataError(
            f"{storage.uri_of(path)} is gone, and what it named was used by a later step; make a "
            "full run"
        )
    manifest = parse_manifest(storage.read_bytes(path), storage.uri_of(path))
    lineage = read_lineage(storage, folder)
    if lineage is None:
        raise ConfigError(
            f"{storage.uri_of(folder)} was made by a release that wrote no lineage; start that run "
            "again with this one, which does nothing but write it, and then extend it"
        )
    if manifest.folder != folder:
        raise DataError(f"{storage.uri_of(path)}: altered, it is of {manifest.folder}")
    manifests[manifest.step], lineages[manifest.step] = manifest, lineage
    for name, source in lineage.made_from.items():
        if source.split("/")[1] not in manifests:
            _follow(storage, source, manifests, lineages)
        _require_link(storage, lineage, name, manifests[source.split("/")[1]], source)


def _require_link(
    storage: Storage, lineage: Lineage, name: str, manifest: StepManifest, source: str
) -> None:
    """Refuses inputs that are not the ones whose digests went into the fingerprint."""
    known = set(manifest.identities.values())
    if manifest.folder != source or not set(lineage.identity["inputs"][name]) <= known:
        raise DataError(
            f"{storage.uri_of(source)}: does not hold the tables that a later step of the run was "
            "made from; it was altered"
        )
