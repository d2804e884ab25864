"""Manifests of models that were never trained: as the training step would write them."""

from __future__ import annotations

from cosalign.inference.model_manifest import (
    MANIFEST_FILE,
    ModelManifest,
    ModelRef,
    PolicyEntry,
    SourceEntry,
    StageEntry,
    TableEntry,
    TaxonomyEntry,
    file_entries,
    manifest_bytes,
)
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage

STAGE = StageEntry(
    model="1" * 64,
    start="2" * 64,
    recipe={"learning_rate": 5e-7, "optimizer": "rmsprop", "lora": None},
    rows=16,
    too_long=1,
    steps=4,
    first={"loss": 0.75, "grad_norm": 2.0, "step": 1.0},
    last={"loss": 0.25, "grad_norm": 1.0, "step": 4.0},
    weights_changed=0.5,
    hardware={"device": "NVIDIA A100-SXM4-80GB", "devices": 4, "processes": 4, "cores": 48},
    versions={"torch": "2.13.0"},
    code={"version": "0.1.0", "revision": None, "image": None},
)
POLICIES = (
    PolicyEntry(
        digest="3" * 64, kind="freeform", regions=("no", "se"), allowed=None, renderings=1, pairs=9
    ),
    PolicyEntry(
        digest="4" * 64,
        kind="categorical",
        regions=(),
        allowed=("violence",),
        renderings=3,
        pairs=5,
    ),
)


def manifest_of(model: ModelFolder) -> ModelManifest:
    """A manifest without files."""
    return ModelManifest(
        digest=model.digest,
        tokenizer_digest=model.tokenizer_digest,
        architecture="LlamaForCausalLM",
        template_argument="safety_config",
        files={},
        base=ModelRef(uri="acme/base", digest="5" * 64),
        reference="1" * 64,
        tables={"pairs": TableEntry(rows=14, sha256="6" * 64)},
        configs=POLICIES,
        configs_digest="7" * 64,
        taxonomy=TaxonomyEntry(name="cosa", version="1", digest="8" * 64),
        sources=(
            SourceEntry(name="acme/questions", licence="own", prompts=12),
            SourceEntry(name="old.csv", licence=None, prompts=4),
        ),
        languages=("en",),
        use="research",
        funnel={"synthesis.prompts_read": 20, "pairing.pairs": 14},
        stages={"sft": STAGE, "dpo": STAGE},
        recipe_digest="9" * 64,
        step="0" * 64,
    )


def release(storage: Storage, model: ModelFolder) -> ModelManifest:
    """Writes the manifest of a model whose files lie at a storage's root."""
    files = file_entries(storage, "", {})
    manifest = manifest_of(model).model_copy(update={"files": files})
    storage.write_bytes(MANIFEST_FILE, manifest_bytes(manifest))
    return manifest
