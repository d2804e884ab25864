"""What leaves training: the model with a card for people and a manifest for machines.

Both are written once both stages are stored, from what is stored: the stages' own records, the
tables, the earlier steps' counts. They lie in the model's folder, where whoever serves the model
finds them, and in the step's, which is their record: two runs over other tables could train the
same model, and the folder then tells of the last of them.

Neither holds a prompt, a response or a config's text.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cosalign.domain.fingerprint import fingerprint
from cosalign.inference.model_manifest import (
    MANIFEST_FILE,
    IncrementEntry,
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
from cosalign.inference.models import model_architecture
from cosalign.inference.safety_template import ARGUMENT, TEMPLATE_FILE, own_template
from cosalign.store.tables import read_table
from cosalign.training.stage import MANIFEST, StageResult

if TYPE_CHECKING:
    from cosalign.domain.taxonomy import Taxonomy
    from cosalign.inference.models import ModelFolder
    from cosalign.runtime.step import ManifestDraft, StepContext
    from cosalign.store.storage import Storage
    from cosalign.training.encode import Rows
    from cosalign.training.records import Records

CARD_FILE = "README.md"
FUNNEL = {
    "synthesis": ("prompts_read", "prompts_kept", "split_train", "split_dev", "split_held_out"),
    "pairing": ("draws", "draws_without_pair", "pairs"),
}
"""Counts of earlier steps that are part of the story; a step that lacks one leaves it out."""


@dataclass(frozen=True)
class TrainedStage:
    """A stage's result and the rows it came from."""

    result: StageResult
    rows: Rows


@dataclass(frozen=True)
class Origin:
    """What an increment's model goes back to.

    Attributes:
        before: The manifest of the model that the extended run released.
        covered: All pairs of train prompts that are in use, trained on now or before.
        entry: What the new manifest says of it.
    """

    before: ModelManifest
    covered: pa.Table
    entry: IncrementEntry


def release_model(
    context: StepContext,
    base: ModelFolder,
    records: Records,
    stages: dict[str, TrainedStage],
    draft: ManifestDraft,
    origin: Origin | None = None,
) -> None:
    """Writes card and manifest of the last stage's model, and names them in the draft.

    Args:
        context: The training step's.
        base: The model that was aligned.
        records: What the stages were trained on.
        stages: The stages in their order.
        draft: Its tables have to be complete.
        origin: Of an increment.
    """
    from cosalign.training.model_card import model_card

    storage, folder = context.storage, list(stages.values())[-1].result.model
    manifest = _manifest(context, base, records, stages, draft, origin)
    card = model_card(manifest).encode()
    _write(storage, f"{folder}/{CARD_FILE}", card)
    known = _stored_record(storage, folder)["files"]
    manifest = manifest.model_copy(update={"files": file_entries(storage, folder, known)})
    _write(storage, f"{folder}/{MANIFEST_FILE}", manifest_bytes(manifest))
    for name, file, data in (
        ("model_card", CARD_FILE, card),
        ("model_manifest", MANIFEST_FILE, manifest_bytes(manifest)),
    ):
        draft.files[name] = f"{context.folder}/{file}"
        storage.write_bytes(draft.files[name], data)


def _write(storage: Storage, path: str, data: bytes) -> None:
    """Only what is not there yet: a new generation would have machines fetch the weights anew."""
    if storage.stat(path) is None or storage.read_bytes(path) != data:
        storage.write_bytes(path, data)


def _manifest(
    context: StepContext,
    base: ModelFolder,
    records: Records,
    stages: dict[str, TrainedStage],
    draft: ManifestDraft,
    origin: Origin | None,
) -> ModelManifest:
    storage, last = context.storage, list(stages.values())[-1].result
    synthesis, pairing = context.inputs["synthesis"], context.inputs["pairing"]
    prompts = read_table(storage, synthesis.tables["prompts"])
    configs = read_table(storage, synthesis.tables["configs"])
    covered = records.dpo if origin is None else origin.covered
    entries = {} if origin is None else {"sft": origin.before.stages["sft"]}
    entries |= {name: _stage_entry(storage, stage) for name, stage in stages.items()}
    policies = _policies(configs, covered, context.taxonomy)
    taken = {name: synthesis.tables[name] for name in ("prompts", "configs", "responses")}
    tables = {**taken, "pairs": pairing.tables["pairs"], **draft.tables}
    trained = _trained_prompts(prompts, covered)
    taxonomy = context.taxonomy
    return ModelManifest(
        digest=last.digest,
        tokenizer_digest=base.tokenizer_digest,
        architecture=model_architecture(base.path),
        template_argument=ARGUMENT if _takes_argument(storage, last.model) else None,
        files={},
        base=ModelRef(uri=base.uri, digest=base.digest),
        reference=entries["dpo"].start if origin is None else origin.before.reference,
        tables={n: TableEntry(rows=r.rows, sha256=r.sha256) for n, r in sorted(tables.items())},
        configs=policies,
        configs_digest=fingerprint("configs", sorted(policy.digest for policy in policies)),
        taxonomy=TaxonomyEntry(
            name=taxonomy.name, version=taxonomy.version, digest=taxonomy.digest
        ),
        sources=_sources(trained),
        languages=tuple(sorted(filter(None, set(trained["language"].to_pylist())))),
        use=context.config.prompts.use,
        funnel=_funnel(context),
        stages=entries,
        recipe_digest=fingerprint("recipe", {n: entry.recipe for n, entry in entries.items()}),
        step=context.folder.rpartition("/")[2],
        increment=None if origin is None else origin.entry,
    )


def _stored_record(storage: Storage, folder: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(storage.read_bytes(f"{folder}/{MANIFEST}"))
    return record


def _takes_argument(storage: Storage, folder: str) -> bool:
    path = f"{folder}/{TEMPLATE_FILE}"
    if storage.stat(path) is None:
        return False
    return own_template(storage.read_bytes(path).decode("utf-8", "surrogateescape")) is not None


def _stage_entry(storage: Storage, stage: TrainedStage) -> StageEntry:
    result = stage.result
    record = _stored_record(storage, result.model)
    return StageEntry(
        model=result.digest,
        start=record["start"],
        recipe=record["recipe"],
        rows=stage.rows.table.num_rows,
        too_long=stage.rows.too_long,
        steps=result.steps,
        first=_figures(result.curve[:1]),
        last=_figures(result.curve[-1:]),
        weights_changed=result.changed,
        hardware=record["hardware"],
        versions=record["versions"],
        code=record["code"],
    )


def _figures(entries: list[dict[str, float]]) -> dict[str, float]:
    return {name: value for entry in entries for name, value in sorted(entry.items())}


def _policies(configs: pa.Table, covered: pa.Table, taxonomy: Taxonomy) -> tuple[PolicyEntry, ...]:
    """Configs that have pairs; regional ones first, then by digest."""
    pairs = Counter(covered["config_id"].to_pylist())
    found: dict[str, list[dict[str, Any]]] = {}
    columns = ["config_id", "digest", "kind", "allowed_mask", "region"]
    for row in configs.select(columns).to_pylist():
        if row["config_id"] in pairs:
            found.setdefault(row["digest"], []).append(row)
    entries = []
    for digest, rows in found.items():
        mask = rows[0]["allowed_mask"]
        entries.append(
            PolicyEntry(
                digest=digest,
                kind=rows[0]["kind"],
                regions=tuple(sorted({row["region"] for row in rows if row["region"]})),
                allowed=None if mask is None else tuple(taxonomy.names_of(mask)),
                renderings=len(rows),
                pairs=sum(pairs[row["config_id"]] for row in rows),
            )
        )
    return tuple(sorted(entries, key=lambda entry: (not entry.regions, entry.digest)))


def _trained_prompts(prompts: pa.Table, covered: pa.Table) -> pa.Table:
    wanted = sorted(set(covered["prompt_id"].to_pylist()))
    import pyarrow.compute as pc

    chosen = pc.is_in(prompts["prompt_id"], value_set=pa.array(wanted, pa.string()))
    return prompts.filter(chosen).select(["source", "licence", "language"])


def _sources(prompts: pa.Table) -> tuple[SourceEntry, ...]:
    grouped = prompts.group_by(["source", "licence"]).aggregate([([], "count_all")])
    found = [
        SourceEntry(name=row["source"], licence=row["licence"], prompts=row["count_all"])
        for row in grouped.to_pylist()
    ]
    return tuple(sorted(found, key=lambda entry: (-entry.prompts, entry.name, entry.licence or "")))


def _funnel(context: StepContext) -> dict[str, int]:
    return {
        f"{step}.{name}": context.inputs[step].counts[name]
        for step, names in FUNNEL.items()
        for name in names
        if name in context.inputs[step].counts
    }
