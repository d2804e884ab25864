"""``model-manifest.json``: what a trained model is and what it was made of, by digest.

It lies in the model's folder, beside the card that says the same to people. Whoever promotes,
serves or audits the model reads it from storage, before any weights are fetched: the serving side
learns whether the template takes a safety config, the gate which configs were trained, and
``cosalign model verify`` whether each file is still the one that was released.

The manifest vouches for the files, not for itself: pin the model's digest (``…@sha256:DIGEST``) or
keep the manifest's own SHA-256 where the two must be told apart from a forgery.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from cosalign.domain.errors import DataError, ModelError
from cosalign.domain.fingerprint import content_sha256
from cosalign.domain.run_config.engine import SERVED_SCHEME
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml
from cosalign.inference.model_digest import MODEL_FILES, digests_of
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.safety_template import TEMPLATE_FILE, TOKENIZER_CONFIG, counted_sha256
from cosalign.store.storage import Storage, open_storage

MANIFEST_FILE = "model-manifest.json"
_SHOWN = 8


class FileEntry(StrictModel):
    """A file of the model: its SHA-256 and its size in bytes."""

    sha256: str
    size: int


class ModelRef(StrictModel):
    """Another model: the address it was named by, and its digest."""

    uri: str
    digest: str


class TableEntry(StrictModel):
    """A table that the model was made from: rows, and SHA-256 of its file."""

    rows: int
    sha256: str


class PolicyEntry(StrictModel):
    """A safety config that was trained, whatever its renderings; no text of it.

    Attributes:
        digest: Identity of the allowed set or policy.
        kind: categorical or freeform.
        regions: Regions whose config it is; none for one that was drawn for training.
        allowed: Names of allowed categories; null for a free-form policy.
        renderings: How many system prompts said it.
        pairs: Preference pairs under it.
    """

    digest: str
    kind: str
    regions: tuple[str, ...]
    allowed: tuple[str, ...] | None
    renderings: int
    pairs: int


class SourceEntry(StrictModel):
    """A collection of prompts, as far as it was trained on; null where a thing is not known."""

    name: str
    licence: str | None
    prompts: int


class TaxonomyEntry(StrictModel):
    """The taxonomy that configs speak in."""

    name: str
    version: str
    digest: str


class StageEntry(StrictModel):
    """One stage, as it was trained.

    Attributes:
        model: Digest of what it left.
        start: Digest of what it started from; a full run's DPO has it as reference too.
        recipe: Its settings.
        rows: Rows trained on.
        too_long: Rows set aside because they were too long.
        steps: Optimizer steps.
        first: Figures of the first step: loss, gradient norm, margins and so on.
        last: Those of the last.
        weights_changed: Share of the weights that differ from the start's in bf16.
        hardware: Machine and processes.
        versions: Of the libraries.
        code: Version, revision and image of the code.
    """

    model: str
    start: str
    recipe: dict[str, Any]
    rows: int
    too_long: int
    steps: int
    first: dict[str, float]
    last: dict[str, float]
    weights_changed: float
    hardware: dict[str, Any]
    versions: dict[str, str]
    code: dict[str, str | None]


class IncrementEntry(StrictModel):
    """How a model goes on from another run's.

    Attributes:
        previous: Fingerprint of the training step that was extended.
        start: Digest of the model that DPO went on from.
        configs: Digests of the configs that were new.
        new_pairs: Pairs under them.
        replayed_pairs: Old pairs that were trained on again.
    """

    previous: str
    start: str
    configs: tuple[str, ...]
    new_pairs: int
    replayed_pairs: int


class ModelManifest(StrictModel):
    """A released model.

    Attributes:
        form: Version of this document's form.
        digest: The model's identity, as ``cosalign model inspect`` prints it.
        tokenizer_digest: Identity of vocabulary and chat template.
        architecture: As its ``config.json`` names it.
        template_argument: Name of the chat template's argument for the safety config; null where
            the template takes none.
        files: All files of the folder but this one, by name.
        base: The model that was aligned.
        reference: Digest of the model whose log-probabilities DPO was held against.
        tables: Tables it was made from, by name.
        configs: Configs that it was trained on; an increment's, those of the runs before too.
        configs_digest: Identity of that set of configs.
        taxonomy: The taxonomy.
        sources: Where its prompts come from.
        languages: Languages of its prompts, as far as they are known.
        use: What the run's results may be used for, as its user declared.
        funnel: Counts of the steps before: ``step.count``.
        stages: The stages, by name; an increment's SFT stage is that of the run it goes back to.
        recipe_digest: Identity of all stages' settings.
        step: Fingerprint of the training step that released it.
        increment: What an increment went on from; null for a full run.
    """

    form: Literal["cosalign-model/1"] = "cosalign-model/1"
    digest: str
    tokenizer_digest: str
    architecture: str
    template_argument: str | None
    files: dict[str, FileEntry]
    base: ModelRef
    reference: str
    tables: dict[str, TableEntry]
    configs: tuple[PolicyEntry, ...]
    configs_digest: str
    taxonomy: TaxonomyEntry
    sources: tuple[SourceEntry, ...]
    languages: tuple[str, ...]
    use: str
    funnel: dict[str, int]
    stages: dict[str, StageEntry]
    recipe_digest: str
    step: str
    increment: IncrementEntry | None = None


def manifest_bytes(manifest: ModelManifest) -> bytes:
    """The document as it is stored."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False)
    return f"{text}\n".encode()


def read_model_manifest(storage: Storage, folder: str = "") -> ModelManifest:
    """The manifest of a model in storage.

    Args:
        storage: Where the model lies.
        folder: Its folder there.

    Raises:
        ModelError: There is none, or it is none.
    """
    path = f"{folder}/{MANIFEST_FILE}".lstrip("/")
    if storage.stat(path) is None:
        raise ModelError(
            f"{storage.uri_of(path)}: no such file; only models that the training step released "
            "have a manifest. 'cosalign model inspect' looks at any model"
        )
    source = storage.uri_of(path)
    raw = parse_yaml(storage.read_bytes(path).decode("utf-8", "replace"), source, ModelError)
    return validated(ModelManifest, raw, source, ModelError)


def verify_model(storage: Storage, manifest: ModelManifest) -> None:
    """Holds every file of a model's folder against its manifest, reading them as a stream.

    Args:
        storage: The model's folder.
        manifest: Its manifest.

    Raises:
        ModelError: A file is missing, altered or not named, or the digest is another one.
    """
    found = {item.path: item.size for item in storage.list("")}
    found.pop(MANIFEST_FILE, None)
    problems = [f"{name} is missing" for name in sorted(manifest.files.keys() - found.keys())]
    problems += [f"{name} is not named" for name in sorted(found.keys() - manifest.files.keys())]
    hashes = {}
    for name in sorted(manifest.files.keys() & found.keys()):
        hashes[name] = _stored_sha256(storage, name)
        if (hashes[name], found[name]) != (manifest.files[name].sha256, manifest.files[name].size):
            problems.append(f"{name} was altered")
    if not problems and _digests(storage, hashes) != (manifest.digest, manifest.tokenizer_digest):
        problems.append("the digests are not those of the files")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ModelError(
            f"{storage.uri}: {'; '.join(problems[:_SHOWN])}{more}. This is not the model that was "
            "released; fetch it again, or train it again"
        )


def released_tokenizer(address: str, digest: str, cache: Path) -> ModelFolder | None:
    """The tokenizer of a released model, without its weights, as the model's digest vouches for it.

    The digest is computed from the hashes in the manifest, and the tokenizer that was fetched is
    held against those: so nothing has to be believed but the digest.

    Args:
        address: Where the model lies.
        digest: The model's digest.
        cache: Where files are kept that were fetched.

    Returns:
        Its folder, which holds the tokenizer; ``None`` where the model has no manifest.

    Raises:
        ModelError: The manifest or a file does not fit the digest.
    """
    storage = open_storage(address)
    if storage.stat(MANIFEST_FILE) is None:
        return None
    manifest = read_model_manifest(storage)
    hashes = {name: entry.sha256 for name, entry in manifest.files.items()}
    model, tokenizer = _digests(storage, hashes)
    if model != digest:
        raise ModelError(
            f"{storage.uri}: its manifest is of model {model}, and not of {digest}; promote what "
            "lies there"
        )
    found = resolve_model(f"{SERVED_SCHEME}{digest}?tokenizer={address}", cache)
    if found.tokenizer_digest != tokenizer:
        raise ModelError(f"{storage.uri}: a file of its tokenizer was altered; fetch it again")
    return replace(found, digest=digest)


def _digests(storage: Storage, hashes: dict[str, str]) -> tuple[str, str]:
    counted = {n: h for n, h in hashes.items() if n in MODEL_FILES or n.endswith(".safetensors")}
    if TEMPLATE_FILE in counted:
        config = storage.read_bytes(TOKENIZER_CONFIG) if TOKENIZER_CONFIG in hashes else b""
        own = counted_sha256(storage.read_bytes(TEMPLATE_FILE), config)
        del counted[TEMPLATE_FILE]
        counted |= {TEMPLATE_FILE: own} if own else {}
    return digests_of(counted)


def _stored_sha256(storage: Storage, path: str) -> str:
    with storage.open(path) as stream:
        return _stream_sha256(stream)


def _stream_sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 22):
        digest.update(block)
    return digest.hexdigest()


def file_entries(storage: Storage, folder: str, known: dict[str, str]) -> dict[str, FileEntry]:
    """The files of a model's folder; those whose SHA-256 is not known are small, and read.

    Raises:
        DataError: The folder holds no model.
    """
    entries = {}
    for item in storage.list(folder):
        name = item.path.removeprefix(f"{folder}/")
        if name != MANIFEST_FILE:
            sha256 = known.get(name) or content_sha256(storage.read_bytes(item.path))
            entries[name] = FileEntry(sha256=sha256, size=item.size)
    if not entries:
        raise DataError(f"{storage.uri_of(folder)} holds no model; run training again")
    return entries
