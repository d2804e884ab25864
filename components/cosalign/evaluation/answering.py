"""Has systems answer, has their answers judged, and settles which of them count.

One engine start a model for all systems, configs and criteria. The order serves that: a cascade's
filter is asked as soon as its system has answered, since its model's engine may still be running,
and the model that scores comes last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cosalign.evaluation.adherence import Adherence, Judged, judge_drafts, measure_adherence
from cosalign.evaluation.answers import (
    Answers,
    Asking,
    System,
    answers_of,
    generate_answers,
    joined_answers,
)
from cosalign.evaluation.final_answers import settle_answers
from cosalign.evaluation.general_ability import GeneralTasks, Row
from cosalign.evaluation.items import EvaluationItems
from cosalign.evaluation.suite_rules import apply_rules
from cosalign.evaluation.systems import filter_model, open_shots
from cosalign.inference.engine_host import EngineHost
from cosalign.judging.escalation import plain_thresholds
from cosalign.judging.judge import Judge
from cosalign.judging.open_judge import judge_identity, open_escalation, open_judge_of
from cosalign.runtime.step import StepContext


@dataclass(frozen=True)
class Answered:
    """Answers, how they adhere to their configs, and what filters did."""

    answers: Answers
    adherence: Adherence
    counts: Counter[str]
    general: list[Row] = field(default_factory=list)


def answer_and_judge(
    context: StepContext,
    host: EngineHost,
    judge: Judge,
    judge_digest: str,
    systems: list[System],
    items: EvaluationItems,
) -> Answered:
    """Answers and judges what is not in the ledgers yet.

    Args:
        context: The step's.
        host: Where engines run.
        judge: The judge that scores.
        judge_digest: The model whose engine is wanted last.
        systems: Who answers.
        items: What is asked.
    """
    config, taxonomy, storage = context.config, context.taxonomy, context.storage
    shots = open_shots(context, systems, items)
    asking = Asking(host, storage, judge_digest, config.evaluation.max_tokens, shots)
    settings = config.evaluation.general
    general = None if settings is None else GeneralTasks(settings, host, storage)
    drafts, filters, rows = _drafts(context, asking, systems, items, general)
    second = open_escalation(config, taxonomy, storage, host)
    judged = judge_drafts(judge, taxonomy, items, drafts, config.scoring, second)
    weights = config.pairing.weights
    settled = settle_answers(systems, items, drafts, judged, filters, weights, taxonomy)
    adherence = measure_adherence(settled.judged, items, settled.answers, taxonomy)
    apply_rules(adherence, settled.judged, items, settled.answers, taxonomy)
    counts = settled.counts
    counts["filter_verdicts_made"] = sum(own.made for own in filters.values())
    counts["general_rows"] = len(rows)
    return Answered(settled.answers, adherence, counts, rows)


def pay_for_answers(
    context: StepContext,
    host: EngineHost,
    judge: Judge,
    systems: list[System],
    items: EvaluationItems,
) -> dict[str, int]:
    """Answers and judges for the ledgers' sake, and gives how much was made.

    It is the part of :func:`answer_and_judge` that knows no other items than its own, so that it
    can be done share by share; whom a second judge is asked about depends on all.
    """
    config, taxonomy = context.config, context.taxonomy
    shots, last = open_shots(context, systems, items), judge.identity.model_digest
    asking = Asking(host, context.storage, last, config.evaluation.max_tokens, shots)
    drafts, filters, _ = _drafts(context, asking, systems, items, None)
    judged = judge_drafts(judge, taxonomy, items, drafts, config.scoring)
    verdicts = judged.made + sum(own.made for own in filters.values())
    return {"answers_made": drafts.made, "verdicts_made": verdicts}


def _drafts(
    context: StepContext,
    asking: Asking,
    systems: list[System],
    items: EvaluationItems,
    general: GeneralTasks | None,
) -> tuple[Answers, dict[str, Judged], list[Row]]:
    """All drafts, what each cascade's own filter says of its drafts, and general ability."""
    by_name = {system.name: system for system in systems}
    parts: list[Answers] = []
    filters: dict[str, Judged] = {}
    rows: list[Row] = []
    for part in generate_answers(asking, systems, items):
        parts.append(part)
        if general is not None:
            rows += general.rows(by_name[name] for name in part.ids)
        for name in part.ids:
            if by_name[name].settings.method == "cascade":
                filters[name] = _filter(context, asking, by_name[name], items, part)
    return joined_answers(parts), filters, rows


def _filter(
    context: StepContext, asking: Asking, system: System, items: EvaluationItems, part: Answers
) -> Judged:
    config, taxonomy = context.config, context.taxonomy
    model, mode = filter_model(config, system), system.settings.filter_mode
    judge = open_judge_of(config, taxonomy, context.storage, asking.host, model, mode)
    own = answers_of(part, system.name)
    # Thresholds and calibration were chosen for the scoring judge, and mean nothing to another.
    same = judge.identity == judge_identity(config)
    scoring = config.scoring if same else plain_thresholds(config.scoring)
    return judge_drafts(judge, taxonomy, items, own, scoring, work=f"filter_{system.name}")
