"""The evaluation step: answers of base and trained models, their CoSA-Scores, and the report.

Answers and judgements go through the ledgers, so a region's new config costs the answers under it
and nothing else; a free-form one costs its own question beside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cosalign.domain.errors import ConfigError
from cosalign.domain.fingerprint import Json, content_sha256, fingerprint
from cosalign.domain.run_config import RunConfig
from cosalign.domain.run_config.gate import CURRENT
from cosalign.domain.run_config.systems import SystemSettings
from cosalign.domain.schemas import (
    EVALUATED_CONFIGS,
    EVALUATION,
    FOLLOWS,
    RESPONSES,
    VERDICTS,
    with_metadata,
)
from cosalign.evaluation.answering import Answered, answer_and_judge, pay_for_answers
from cosalign.evaluation.answers import System
from cosalign.evaluation.bootstrap import Resampling
from cosalign.evaluation.gate_step import (
    find_rival,
    gate_identity,
    promote_where_told,
    rival_model,
    run_gate,
    stored_models,
)
from cosalign.evaluation.general_ability import general_configs, general_identity
from cosalign.evaluation.item_rows import ITEM_KEY, config_rows, item_rows, with_rows
from cosalign.evaluation.item_table import ItemTable, read_items
from cosalign.evaluation.items import (
    EvaluatedConfig,
    EvaluationItems,
    evaluation_items,
    parse_region_configs,
    region_configs,
)
from cosalign.evaluation.judge_card import judge_card, judge_metrics, judge_warnings
from cosalign.evaluation.measured import Measured
from cosalign.evaluation.model_size import parameter_count
from cosalign.evaluation.report import Material, render_report
from cosalign.evaluation.report_items import ShownItem, shown_items
from cosalign.evaluation.scorecard import Scorecard, flat_metrics, scorecard
from cosalign.evaluation.suites import open_suites, suites_identity
from cosalign.evaluation.systems import TRAINED, open_systems, systems_identity
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.judging.calibration import scoring_identity
from cosalign.judging.canaries import canary_identity, judge_canaries, refuse_fooled_judge
from cosalign.judging.judge import Judge, JudgeIdentity
from cosalign.judging.label_protocol import follows_protocol, response_protocol
from cosalign.judging.open_judge import (
    escalation_identity,
    judge_model,
    judging_identity,
    open_judge,
)
from cosalign.runtime.shares import Share
from cosalign.runtime.step import ManifestDraft, StepContext, StepManifest
from cosalign.store.model_pointer import Entry
from cosalign.store.storage import Storage, read_uri
from cosalign.store.tables import read_table, write_table

SOURCES = {"benchmark", "benchmarks", "refusals", "attacks", "general"}
"""Settings that name files; these are part of a result by content."""


class EvaluationStep:
    """Measures how well base and trained models follow the regions' configs and a benchmark's."""

    name = "evaluation"
    inputs: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {"synthesis": ("prompts", "draws"), "training": TRAINED}
    )

    def identity(self, context: StepContext) -> Json:
        """The configs by what they demand, the benchmark by content, models, and settings."""
        config, taxonomy = context.config, context.taxonomy
        written = parse_region_configs(config.configs.files, taxonomy)
        regions = region_configs(written, taxonomy)
        base = _model(config, config.models.base)
        benchmark = _benchmark(config)
        return {
            "evaluation": config.evaluation.model_dump(mode="json", exclude=SOURCES),
            "general": general_identity(config.evaluation.general),
            "suites": suites_identity(config, written),
            "configs": [_config_identity(region) for region in regions],
            "benchmark": None if benchmark is None else content_sha256(benchmark),
            "systems": systems_identity(config, context),
            "base": [base.digest, base.tokenizer_digest],
            "judge": judging_identity(config),
            "second_judge": escalation_identity(config),
            "zero_shot": _zero_shot_identity(config),
            "protocol": response_protocol(taxonomy).digest,
            "scoring": scoring_identity(config),
            # The bound decides whether there is a result at all.
            "canaries": [canary_identity(config), config.judging.canary_bound],
            # Not a row's identity, yet it decides which rows fail for being too long.
            "max_model_len": config.models.engine.max_model_len,
            "gate": gate_identity(context),
        }

    def pay(self, context: StepContext, share: Share) -> Mapping[str, int]:
        """Has all systems answer a share of the prompts, and the first judge judge the answers."""
        config, items = context.config, _items(context)
        items = replace(items, items=[item for item in items.items if share.has(item.prompt_id)])
        if not items.items:
            return {}
        systems = _all_systems(context, find_rival(context))
        with EngineHost(config.models.engine) as host:
            judge = open_judge(config, context.taxonomy, context.storage, host)
            return pay_for_answers(context, host, judge, systems, items)

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        """Answers and judges what is not in the ledgers yet, then writes tables and report.

        Raises:
            ModelError: The judge is fooled by the canaries; no more is paid for then.
        """
        config = context.config
        items = _items(context)
        rival = find_rival(context)
        systems = _all_systems(context, rival)
        with EngineHost(config.models.engine) as host:
            judge = open_judge(config, context.taxonomy, context.storage, host)
            canaries = judge_canaries(judge, context.taxonomy, config)
            refuse_fooled_judge(canaries, config.judging.canary_bound)
            last = _judging_model(config, judge)
            done = answer_and_judge(context, host, judge, last, systems, items)
            measured = judge_card(context, host, judge, canaries)
            draft.counts["engine_starts"] = host.starts
        answers, adherence = done.answers, done.adherence
        draft.counts["answers_made"] = answers.made
        draft.counts["verdicts_made"] = adherence.made
        draft.counts.update(adherence.counts)
        draft.counts.update(done.counts)
        draft.metrics.update(adherence.metrics)
        stored = _write_tables(context, draft, items, done)
        card = _scorecard(context, stored, items.counts)
        _name_models(card, systems, judge.identity, _judge_rules(context))
        card["judge"] = measured
        card["warnings"] += judge_warnings(measured)
        models = stored_models((system.name, system.model) for system in systems)
        run_gate(context, draft, card, models, rival)
        draft.counts.update(card["counts"])
        draft.metrics.update(flat_metrics(card))
        draft.metrics.update(judge_metrics(measured))
        shown = shown_items(items, answers, adherence, config.evaluation)
        _write_files(context, draft, card, shown)
        promote_where_told(context, draft)


def _items(context: StepContext) -> EvaluationItems:
    config, taxonomy = context.config, context.taxonomy
    prompts = read_table(context.storage, context.inputs["synthesis"].tables["prompts"])
    written = parse_region_configs(config.configs.files, taxonomy)
    regions = region_configs(written, taxonomy)
    parts = open_suites(config, taxonomy, written, regions, prompts)
    return evaluation_items(
        regions, _benchmark(config), prompts, config.evaluation, taxonomy, parts
    )


def _benchmark(config: RunConfig) -> bytes | None:
    return read_uri(config.evaluation.benchmark) if config.evaluation.benchmark else None


def _model(config: RunConfig, uri: str) -> ModelFolder:
    return resolve_model(uri, Path(config.storage.cache).expanduser())


def _zero_shot_identity(config: RunConfig) -> Json:
    rows = config.judging.zero_shot_rows if config.judging.examples is not None else 0
    return [rows, judge_model(config).digest] if rows else None


def _judging_model(config: RunConfig, judge: Judge) -> str:
    """Digest of the model that will judge, if one will, so that its engine is not started twice."""
    measured = config.judging.examples is not None and config.judging.zero_shot_rows
    return judge_model(config).digest if measured else judge.identity.model_digest


def _config_identity(config: EvaluatedConfig) -> Json:
    rendered = config.rendered
    question = None if rendered.allowed_mask is not None else follows_protocol(rendered.text).digest
    text = fingerprint("system prompt", rendered.text)
    return [list(config.names), list(config.regions), rendered.config_id, text, question]


def _all_systems(context: StepContext, rival: Entry | None) -> list[System]:
    """The run's systems, and the promoted model as one more, asked under the config as they are."""
    systems = open_systems(context.config, context.inputs["training"])
    if rival is None:
        return systems
    if CURRENT in context.config.evaluation.system_names:
        raise ConfigError(
            f"evaluation.systems: {CURRENT!r} is the name of the promoted model, which the gate "
            "adds; call the system otherwise"
        )
    settings = SystemSettings(name=CURRENT, model=rival.uri)
    return [*systems, System(settings, rival_model(context, rival))]


def _scorecard(context: StepContext, items: ItemTable, counts: Mapping[str, int]) -> Scorecard:
    group = context.config.evaluation
    resampling = Resampling(group.bootstrap, group.confidence, group.seed)
    return scorecard(Measured(items, resampling), context.taxonomy, group, counts)


def _write_tables(
    context: StepContext,
    draft: ManifestDraft,
    items: EvaluationItems,
    done: Answered,
) -> ItemTable:
    """Writes the tables, and gives the items as they were stored."""
    answers, adherence, general = done.answers, done.adherence, done.general
    draws = read_table(context.storage, context.inputs["synthesis"].tables["draws"])
    rows = with_rows(item_rows(items, answers, adherence), general, ITEM_KEY)
    configs = with_rows(config_rows(items.configs, draws), general_configs(general))
    tables = {
        "evaluation": (rows, EVALUATION),
        "evaluated_configs": (configs, EVALUATED_CONFIGS),
        "answers": (answers.table, RESPONSES),
        "verdicts": (adherence.verdicts, VERDICTS),
    }
    if adherence.first is not None:
        tables["first_verdicts"] = (adherence.first, VERDICTS)
    if adherence.follows is not None and adherence.follows.num_rows:
        tables["follows"] = (adherence.follows, FOLLOWS)
    for name, (table, schema) in tables.items():
        path = f"{context.folder}/{name}.parquet"
        tagged = with_metadata(schema, context.taxonomy.digest)
        draft.tables[name] = write_table(context.storage, path, table, tagged)
    return read_items(rows, configs, context.config.evaluation.system_names)


def _judge_rules(context: StepContext) -> str:
    """Digest of all that makes labels of a judge's answers: who reads two scores must know it."""
    config = context.config
    return fingerprint(
        "judge rules",
        {
            "judge": judging_identity(config),
            "second_judge": escalation_identity(config),
            "protocol": response_protocol(context.taxonomy).digest,
            "scoring": scoring_identity(config),
        },
    )


def _name_models(card: Scorecard, systems: list[System], judge: JudgeIdentity, rules: str) -> None:
    models = {system.name: system.model for system in systems}
    card["models"] = {n: {"uri": m.uri, "digest": m.digest} for n, m in models.items()}
    card["models"]["judge"] = {"uri": judge.uri, "digest": judge.digest, "rules": rules}
    own = [name for name, model in models.items() if model.digest == judge.model_digest]
    if own:
        card["warnings"].append(
            f"The judge is also the model behind {' and '.join(own)}: it judges its own answers, "
            "and may favour them"
        )


def _write_files(
    context: StepContext, draft: ManifestDraft, card: Scorecard, shown: list[ShownItem]
) -> None:
    page = render_report(card, _material(context, shown))
    scores = json.dumps(card, indent=2, sort_keys=True, allow_nan=False)
    for name, file, text in (
        ("report", "report.html", page),
        ("scores", "scores.json", f"{scores}\n"),
    ):
        draft.files[name] = f"{context.folder}/{file}"
        context.storage.write_bytes(draft.files[name], text.encode())


def _material(context: StepContext, shown: list[ShownItem]) -> Material:
    synthesis, training = context.inputs["synthesis"], context.inputs["training"]
    tables = {**synthesis.tables, **training.tables}
    return Material(
        synthesis=synthesis.counts,
        records={name: table.rows for name, table in tables.items()},
        curves=_curve(context.storage, context.inputs),
        items=shown,
        parameters=parameter_count(_model(context.config, context.config.models.base)),
    )


def _curve(storage: Storage, inputs: Mapping[str, StepManifest]) -> dict[str, Any]:
    path = inputs["training"].files.get("curve")
    curve: dict[str, Any] = json.loads(storage.read_bytes(path)) if path else {}
    return curve
