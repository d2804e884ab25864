"""How far the judge can be trusted, measured and put beside the scores that rest on it.

A judge that was fitted on labelled examples is measured by cross-validation; the model that would
judge without them is asked about some of the same examples, so that a reader sees what the examples
bought. A judge that is a model was measured when it was calibrated; with no calibration either, it
is left unmeasured and said to be so. How hard any judge is to fool, its canaries say; scoring has
paid for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosalign.inference.engine_host import EngineHost
from cosalign.judging.calibration import run_reliability
from cosalign.judging.canaries import CanaryOutcome
from cosalign.judging.engine_judge import EngineJudge
from cosalign.judging.judge import Judge
from cosalign.judging.judge_quality import QuestionQuality
from cosalign.judging.label_protocol import response_protocol
from cosalign.judging.open_judge import judge_model, measure_on_examples, run_examples
from cosalign.runtime.step import StepContext

JudgeCard = dict[str, Any]


def judge_card(
    context: StepContext, host: EngineHost, judge: Judge, canaries: CanaryOutcome | None
) -> JudgeCard:
    """Measures the run's judge, and the zero-shot one where it is asked for.

    Args:
        context: The step's.
        host: Where the zero-shot judge's engine runs.
        judge: The run's judge.
        canaries: How it did on its canaries, where it was shown any.

    Returns:
        ``examples``, ``questions`` and ``zero_shot``: counts, and by question ``rows``,
        ``accuracy``, ``commonest`` and ``auc``; all empty where there are no examples. And
        ``canaries``: the share of right labels by kind of attack; empty where there are none. And
        ``reliability``: what was measured when the run's calibration was fitted, by question.
    """
    config, protocol = context.config, response_protocol(context.taxonomy)
    examples = run_examples(config, context.taxonomy)
    card: JudgeCard = {"examples": 0, "questions": {}, "zero_shot": {}, "canaries": {}}
    card["reliability"] = run_reliability(config.scoring)
    if canaries is not None:
        card["canaries"] = dict(canaries.accuracy)
    if examples is None:
        return card
    card["examples"] = len(examples.rows)
    card["questions"] = _questions(judge.quality(protocol, config.scoring))
    if config.judging.zero_shot_rows:
        sample = examples.sample(config.judging.zero_shot_rows, config.judging.seed)
        model = EngineJudge(host, context.storage, judge_model(config))
        measured = measure_on_examples(model, protocol, sample, config.scoring)
        card["zero_shot"] = _questions(measured)
    return card


def judge_metrics(card: JudgeCard) -> dict[str, float | None]:
    """The card's figures by name, such as ``judge_accuracy/addressed``."""
    metrics: dict[str, float | None] = {
        f"canary_accuracy/{kind}": round(right, 6) for kind, right in card["canaries"].items()
    }
    for prefix, questions in (("judge", card["questions"]), ("zero_shot", card["zero_shot"])):
        for name, figures in questions.items():
            metrics[f"{prefix}_accuracy/{name}"] = figures["accuracy"]
            metrics[f"{prefix}_auc/{name}"] = figures["auc"]
    return metrics


def judge_warnings(card: JudgeCard) -> list[str]:
    """What a reader has to know of a fitted judge before believing a score."""
    if not card["examples"]:
        return []
    return [
        f"The judge is a classifier fitted on {card['examples']} labelled examples; the accuracy "
        "shown is for texts like those, and answers of another kind may be judged worse"
    ]


def _questions(measured: tuple[QuestionQuality, ...]) -> Mapping[str, dict[str, float | None]]:
    return {
        one.question: {
            "rows": one.rows,
            "accuracy": round(one.accuracy, 6),
            "commonest": round(one.commonest, 6),
            "auc": None if one.auc is None else round(one.auc, 6),
        }
        for one in measured
    }
