"""Training of an increment: DPO alone, from the promoted model, on new pairs and replayed ones.

The SFT model of the extended run stands, and is the reference of all pairs, so that references of
old pairs stay what was paid for. DPO goes on from the promoted model: it holds what all pairs so
far taught, of which a replay of a few would give back only a part. ``start: sft`` begins at the
reference instead, for a promoted model that is to be left behind.

Steps follow from the pairs (``increment.epochs``): a full run's step limit would pass over a
hundred pairs a hundred times, and its warm-up would not end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cosalign.domain.fingerprint import Json
from cosalign.domain.schemas import DPO_RECORDS, REFERENCED_PAIRS, with_metadata
from cosalign.inference.model_manifest import IncrementEntry, ModelManifest
from cosalign.inference.models import ModelFolder, resolve_model, split_pin
from cosalign.runtime.run_record import RunRecord, previous_run
from cosalign.store.tables import read_table, write_table
from cosalign.training.double import double_stage
from cosalign.training.increment_pairs import (
    EncodeDpo,
    IncrementPairs,
    increment_pairs,
    with_reached,
)
from cosalign.training.records import Records, Sources, join_records
from cosalign.training.release import Origin
from cosalign.training.stage import Stage

if TYPE_CHECKING:
    from cosalign.domain.run_config import DpoSettings, IncrementGroup, TrainingGroup
    from cosalign.runtime.step import ManifestDraft, StepContext

WARM_UP_SHARE = 0.1
"""Of an increment's steps, at most: enough for the optimizer's averages to form."""


@dataclass(frozen=True)
class IncrementPlan:
    """What an increment trains.

    Attributes:
        record: The run that is extended.
        group: The increment.
        pairs: The pairs, by where they come from.
        records: The same with texts.
        training: The training settings that hold for it.
    """

    record: RunRecord
    group: IncrementGroup
    pairs: IncrementPairs
    records: Records
    training: TrainingGroup

    @property
    def sft_uri(self) -> str:
        """The extended run's SFT model."""
        return self.record.manifests["training"].models["sft"]

    @property
    def start_uri(self) -> str:
        """The model that DPO goes on from."""
        return self.group.model if self.group.model is not None else self.sft_uri


def increment_identity(context: StepContext) -> dict[str, Json]:
    """What an increment's training depends on beside a full run's; empty for a full run."""
    record, group = previous_run(context), context.config.increment
    if record is None or group is None:
        return {}
    tables = context.inputs["synthesis"].tables
    return {
        "increment": {
            "previous": record.manifests["training"].fingerprint,
            "draws": [tables["draws"].sha256, tables["new_draws"].sha256],
            "configs": sorted(group.configs),
            "start": [group.start, split_pin(group.model)[1] if group.model else None],
            "replay": [group.replay_share, group.seed],
            "epochs": group.epochs,
        }
    }


def plan_increment(
    context: StepContext,
    record: RunRecord,
    group: IncrementGroup,
    draft: ManifestDraft,
    encode: EncodeDpo | None,
) -> IncrementPlan:
    """Chooses pairs, joins texts, and writes the tables of records.

    Args:
        context: The training step's.
        record: The run that is extended.
        group: The increment.
        draft: Gets tables and counts.
        encode: Encodes DPO records; ``None`` on a double.
    """
    chosen = increment_pairs(context, record, group, encode)
    tables = context.inputs["synthesis"].tables
    sources = Sources(
        prompts=read_table(context.storage, tables["prompts"]),
        configs=read_table(context.storage, tables["configs"]),
        responses=read_table(context.storage, tables["responses"]),
        pairs=chosen.pairs,
    )
    full = context.config.training
    records = join_records(sources, full.seed, full.sft_target)
    training = full.model_copy(update={"dpo": _settings(full.dpo, group, records.dpo.num_rows)})
    before = record.manifests["training"]
    # What demonstrations are made from, and what the SFT model learnt.
    draft.tables |= {name: before.tables[name] for name in ("sft_records", "sft_dev")}
    draft.counts |= {name: n for name, n in before.counts.items() if name.startswith("sft_")}
    draft.metrics |= {name: n for name, n in before.metrics.items() if name.startswith("sft_")}
    draft.models["sft"] = before.models["sft"]
    draft.counts |= {
        "increment_pairs_new": chosen.new,
        "increment_pairs_replayed": chosen.replayed,
        "increment_replay_strata": chosen.strata,
    }
    _write(context, draft, "dpo_records", records.dpo, DPO_RECORDS)
    _write(context, draft, "dpo_dev", records.dpo_dev, DPO_RECORDS)
    paid = with_reached(chosen.referenced, [records.dpo, records.dpo_dev], training, encode)
    _write(context, draft, "referenced_pairs", paid, REFERENCED_PAIRS)
    return IncrementPlan(record, group, chosen, records, training)


def _settings(dpo: DpoSettings, group: IncrementGroup, pairs: int) -> DpoSettings:
    steps = ceil(pairs * group.epochs / dpo.batch_size)
    return dpo.model_copy(
        update={
            "epochs": group.epochs,
            "max_steps": None,
            "warmup_steps": min(dpo.warmup_steps, ceil(WARM_UP_SHARE * steps)),
        }
    )


def stand_in(context: StepContext, plan: IncrementPlan, draft: ManifestDraft) -> str:
    """The address of the stand-in for an increment's model, where the base is a double."""
    cache = Path(context.config.storage.cache).expanduser()
    start = resolve_model(plan.start_uri, cache)
    recipe: Json = [plan.training.dpo.identity(), plan.sft_uri]
    return double_stage("dpo", start, draft.tables["dpo_records"].sha256, recipe)


def increment_stage(context: StepContext, plan: IncrementPlan, rows: Any, dev: Any) -> Stage:
    """The DPO stage, from the start model, held against the SFT model.

    Raises:
        ModelError: One of the models is gone, or another one.
    """
    cache = Path(context.config.storage.cache).expanduser()
    reference = resolve_model(plan.sft_uri, cache)
    stage = Stage("dpo", reference, rows, plan.training, context.storage, cache, dev=dev)
    start: ModelFolder = resolve_model(plan.start_uri, cache)
    if start.digest == reference.digest:
        return stage
    return replace(stage, start=start, reference=reference)


def origin(context: StepContext, plan: IncrementPlan) -> Origin:
    """What the released model says about where it comes from."""
    path = plan.record.manifests["training"].files["model_manifest"]
    before = ModelManifest.model_validate_json(context.storage.read_bytes(path))
    entry = IncrementEntry(
        previous=plan.record.manifests["training"].fingerprint,
        start=split_pin(plan.group.model)[1] if plan.group.model else before.reference,
        configs=tuple(sorted(plan.group.configs)),
        new_pairs=plan.pairs.new,
        replayed_pairs=plan.pairs.replayed,
    )
    return Origin(before, plan.pairs.covered, entry)


def sft_curve(context: StepContext, record: RunRecord) -> list[dict[str, float]]:
    """The SFT model's curve, as the run that trained it told it."""
    path = record.manifests["training"].files["curve"]
    curves: dict[str, list[dict[str, float]]] = json.loads(context.storage.read_bytes(path))
    return curves["sft"]


def _write(
    context: StepContext, draft: ManifestDraft, name: str, table: pa.Table, schema: pa.Schema
) -> None:
    path = f"{context.folder}/{name}.parquet"
    tagged = with_metadata(schema, context.taxonomy.digest)
    draft.tables[name] = write_table(context.storage, path, table, tagged)
