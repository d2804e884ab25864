"""The training step: joined records, SFT, DPO, and what they measured, as a manifest.

The step itself decides nothing about learning: it joins, encodes, runs two stages that know by
themselves whether they are done, and writes down counts. Everything heavy is imported by the
stages, so a run with nothing to do starts no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cosalign.domain.fingerprint import Json
from cosalign.domain.schemas import DPO_RECORDS, SFT_RECORDS, with_metadata
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.runtime.run_record import previous_run
from cosalign.training.double import double_stage
from cosalign.training.stage import HISTORY, Stage, StageResult, run_stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyarrow import Table

    from cosalign.domain.run_config import IncrementGroup, TrainerSettings, TrainingGroup
    from cosalign.runtime.run_record import RunRecord
    from cosalign.runtime.step import ManifestDraft, StepContext
    from cosalign.training.encode import ChatEncoder, Rows

    EncodeRows = Callable[[Table, ChatEncoder, int], Rows]
    from cosalign.training.records import Records

Curves = dict[str, list[dict[str, float]]]

TABLES = 4
"""Raised with any change of which tables and files there are, so that no older result stands in for
them."""


class TrainingStep:
    """Trains the base model by SFT and DPO on the paired responses."""

    name = "training"
    inputs: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {"synthesis": ("prompts", "configs", "responses"), "pairing": ("pairs",)}
    )

    def identity(self, context: StepContext) -> Json:
        """Settings that change what is learnt, and the base model."""
        base = _base(context)
        return {
            "tables": TABLES,
            "training": context.config.training.identity(),
            "base": base.digest,
            "tokenizer": base.tokenizer_digest,
            # The card says it.
            "use": context.config.prompts.use,
            **_increment_identity(context),
        }

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        """Writes records, trains both stages, and fills in the draft."""
        base, record, group = _base(context), previous_run(context), context.config.increment
        if record is not None and group is not None:
            curves = _extended(context, base, record, group, draft)
        else:
            records = _joined(context, draft)
            curves = (
                _stand_ins(context, base, draft)
                if base.is_double
                else _trained(context, base, records, draft)
            )
        path = f"{context.folder}/training_curve.json"
        context.storage.write_bytes(path, json.dumps(curves, sort_keys=True).encode())
        draft.files["curve"] = path


def _increment_identity(context: StepContext) -> dict[str, Json]:
    if context.config.increment is None:
        return {}
    from cosalign.training.increment import increment_identity

    return increment_identity(context)


def _cache(context: StepContext) -> Path:
    return Path(context.config.storage.cache).expanduser()


def _base(context: StepContext) -> ModelFolder:
    return resolve_model(context.config.models.base, _cache(context))


def _joined(context: StepContext, draft: ManifestDraft) -> Records:
    from cosalign.store.tables import read_table, write_table
    from cosalign.training.records import Sources, join_records

    synthesis, pairing = context.inputs["synthesis"].tables, context.inputs["pairing"].tables
    refs = (synthesis["prompts"], synthesis["configs"], synthesis["responses"], pairing["pairs"])
    sources = Sources(*(read_table(context.storage, ref) for ref in refs))
    group = context.config.training
    records = join_records(sources, group.seed, group.sft_target)
    for name, table, schema in (
        ("sft_records", records.sft, SFT_RECORDS),
        ("dpo_records", records.dpo, DPO_RECORDS),
        ("sft_dev", records.sft_dev, SFT_RECORDS),
        ("dpo_dev", records.dpo_dev, DPO_RECORDS),
    ):
        path = f"{context.folder}/{name}.parquet"
        tagged = with_metadata(schema, context.taxonomy.digest)
        draft.tables[name] = write_table(context.storage, path, table, tagged)
    return records


def _stand_ins(context: StepContext, base: ModelFolder, draft: ManifestDraft) -> Curves:
    group = context.config.training
    start = base
    for name, settings in (("sft", group.sft), ("dpo", group.dpo)):
        ref = draft.tables[f"{name}_records"]
        draft.models[name] = double_stage(name, start, ref.sha256, settings.identity())
        draft.counts |= {f"{name}_rows": ref.rows, f"{name}_too_long": 0, f"{name}_steps": 0}
        draft.metrics |= {f"{name}_last_loss": None, f"{name}_weights_changed": None}
        start = resolve_model(draft.models[name], _cache(context))
    draft.metrics["first_dpo_loss"] = None
    _write_curves(context, draft, [])
    return {"sft": [], "dpo": []}


def _trained(
    context: StepContext, base: ModelFolder, records: Records, draft: ManifestDraft
) -> Curves:
    from cosalign.inference.hf_tokenizer import load_tokenizer
    from cosalign.training.encode import ChatEncoder, encode_dpo, encode_sft, end_of_turn
    from cosalign.training.release import TrainedStage, release_model

    group, storage = context.config.training, context.storage
    tokenizer = load_tokenizer(base)
    encoder = ChatEncoder(tokenizer, end_of_turn(tokenizer), records.cut)
    # Both are encoded first: a DPO that cannot run must say so before SFT takes its hours.
    sft_rows = encode_sft(records.sft, encoder, group.sft.max_length)
    dpo_rows = encode_dpo(records.dpo, encoder, group.dpo.max_length)
    sft_dev, dpo_dev = _encoded_dev(records, encoder, group)
    sft_stage = Stage("sft", base, sft_rows, group, storage, _cache(context), dev=sft_dev)
    dpo_stage = replace(sft_stage, name="dpo", rows=dpo_rows, dev=dpo_dev)
    # Asked for here, so that a best model without a development split is refused before all.
    _ = sft_stage.measured, dpo_stage.measured
    sft = run_stage(sft_stage)
    start = resolve_model(storage.uri_of(sft.model), _cache(context))
    dpo_stage = replace(dpo_stage, start=start)
    dpo = run_stage(dpo_stage)
    for name, rows, result in (("sft", sft_rows, sft), ("dpo", dpo_rows, dpo)):
        _report(name, rows, result, context, draft)
    draft.metrics["first_dpo_loss"] = dpo.curve[0]["loss"] if dpo.curve else None
    stages = {"sft": TrainedStage(sft, sft_rows), "dpo": TrainedStage(dpo, dpo_rows)}
    release_model(context, base, records, stages, draft)
    _write_curves(context, draft, [(sft_stage, sft), (dpo_stage, dpo)])
    return {"sft": sft.curve, "dpo": dpo.curve}


def _extended(
    context: StepContext,
    base: ModelFolder,
    record: RunRecord,
    group: IncrementGroup,
    draft: ManifestDraft,
) -> Curves:
    """An increment: DPO alone, from the promoted model."""
    from cosalign.training.increment import plan_increment, sft_curve, stand_in

    before = sft_curve(context, record)
    if base.is_double:
        plan = plan_increment(context, record, group, draft, None)
        draft.models["dpo"] = stand_in(context, plan, draft)
        draft.counts |= {"dpo_rows": plan.records.dpo.num_rows, "dpo_too_long": 0, "dpo_steps": 0}
        draft.metrics |= {"dpo_last_loss": None, "dpo_weights_changed": None}
        draft.metrics["first_dpo_loss"] = None
        _write_curves(context, draft, [])
        return {"sft": before, "dpo": []}
    return {"sft": before, "dpo": _extended_model(context, base, record, group, draft)}


def _extended_model(
    context: StepContext,
    base: ModelFolder,
    record: RunRecord,
    group: IncrementGroup,
    draft: ManifestDraft,
) -> list[dict[str, float]]:
    from cosalign.inference.hf_tokenizer import load_tokenizer
    from cosalign.store.tables import read_table
    from cosalign.training.encode import ChatEncoder, encode_dpo, end_of_turn
    from cosalign.training.increment import increment_stage, origin, plan_increment
    from cosalign.training.records import cut_responses
    from cosalign.training.release import TrainedStage, release_model

    tokenizer = load_tokenizer(base)
    responses = read_table(context.storage, context.inputs["synthesis"].tables["responses"])
    encoder = ChatEncoder(tokenizer, end_of_turn(tokenizer), cut_responses(responses))

    def encode(table: Table, max_length: int) -> Rows:
        return encode_dpo(table, encoder, max_length)

    plan = plan_increment(context, record, group, draft, encode)
    rows = encode(plan.records.dpo, plan.training.dpo.max_length)
    _, dev = _encoded_dev(plan.records, encoder, plan.training)
    stage = increment_stage(context, plan, rows, dev)
    result = run_stage(stage)
    _report("dpo", rows, result, context, draft)
    draft.metrics["first_dpo_loss"] = result.curve[0]["loss"] if result.curve else None
    stages = {"dpo": TrainedStage(result, rows)}
    release_model(context, base, plan.records, stages, draft, origin(context, plan))
    _write_curves(context, draft, [(stage, result)])
    return result.curve


def _write_curves(
    context: StepContext, draft: ManifestDraft, results: list[tuple[Stage, StageResult]]
) -> None:
    """Writes the page of both stages' histories, and says where these lie."""
    from cosalign.training.curves_page import render_curves, stage_curves
    from cosalign.training.stage_history import read_history

    shown = []
    for stage, result in results:
        path = f"{stage.folder}/{HISTORY}"
        history = read_history(context.storage, path)
        shown.append(stage_curves(stage.name, history, result.kept_step))
        draft.files[f"{stage.name}_history"] = path
    path = f"{context.folder}/training_curves.html"
    context.storage.write_bytes(path, render_curves(shown).encode())
    draft.files["training_curves"] = path


def _encoded_dev(
    records: Records, encoder: ChatEncoder, group: TrainingGroup
) -> tuple[Rows | None, Rows | None]:
    """The development split's rows; none where a stage does not measure them, or has none."""
    from cosalign.training.encode import encode_dpo, encode_sft

    def encoded(settings: TrainerSettings, table: Table, encode: EncodeRows) -> Rows | None:
        wanted = settings.eval_steps is not None and table.num_rows
        return encode(table, encoder, settings.max_length) if wanted else None

    sft = encoded(group.sft, records.sft_dev, encode_sft)
    return sft, encoded(group.dpo, records.dpo_dev, encode_dpo)


def _report(
    name: str, rows: Rows, result: StageResult, context: StepContext, draft: ManifestDraft
) -> None:
    draft.models[name] = context.storage.uri_of(result.model)
    if result.best is not None:
        draft.models[f"{name}_best"] = context.storage.uri_of(result.best)
    draft.counts |= {
        f"{name}_rows": rows.table.num_rows,
        f"{name}_too_long": rows.too_long,
        f"{name}_steps": result.steps,
        f"{name}_epoch_tokens": rows.tokens,
        f"{name}_kept_step": result.kept_step,
        f"{name}_skipped_batches": result.skipped,
    }
    for model in ("best", "last"):
        measured = result.dev.get(model, {})
        draft.metrics[f"{name}_dev_loss_{model}"] = measured.get("loss")
        if name == "dpo":
            accuracy = measured.get("rewards/accuracies")
            draft.metrics[f"dpo_dev_accuracy_{model}"] = accuracy
    draft.metrics[f"{name}_last_loss"] = result.curve[-1]["loss"] if result.curve else None
    draft.metrics[f"{name}_weights_changed"] = result.changed
