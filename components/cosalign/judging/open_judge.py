"""One place that decides who judges, so that no step asks what kind of judge it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosalign.domain.fingerprint import Json, content_sha256
from cosalign.domain.run_config import RunConfig, ScoringGroup
from cosalign.domain.run_config.judging import GUARD, LABELS, REASONING
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.taxonomy_mapping import earlier_versions
from cosalign.inference.architectures import ENCODERS
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.sentence_encoder import SentenceEncoder
from cosalign.judging.answer_form import AnswerForms
from cosalign.judging.carried_verdicts import carrying_judge
from cosalign.judging.classifier_judge import ClassifierJudge, classifier_identity
from cosalign.judging.engine_judge import EngineJudge, engine_judge_identity
from cosalign.judging.escalation import Escalation
from cosalign.judging.guard_forms import open_guard
from cosalign.judging.judge import Judge, JudgeIdentity, ModelJudge
from cosalign.judging.judge_quality import QuestionQuality, measure
from cosalign.judging.label_protocol import LabelProtocol
from cosalign.judging.labelled_examples import LabelledExample, LabelledExamples, read_examples
from cosalign.judging.reasoning import Reasoning
from cosalign.judging.written_judge import WrittenJudge, written_judge_identity
from cosalign.runtime.safety_config_files import run_taxonomy, taxonomy_text
from cosalign.store.storage import Storage, read_uri


def judge_identity(config: RunConfig) -> JudgeIdentity:
    """Who judges a run; loads no model."""
    examples = config.judging.examples
    if examples is None:
        return _model_judge_identity(config, judge_model(config), config.judging.mode)
    return classifier_identity(_embedder(config), content_sha256(read_uri(examples)), examples)


def judging_identity(config: RunConfig) -> Json:
    """What a step's result depends on by being judged: the judge, and how it is measured."""
    judge = judge_identity(config)
    if config.judging.examples is None:
        taxonomy = _taxonomy(config)
        mappings = earlier_versions(taxonomy, config.taxonomy.files, taxonomy_text)
        return [judge.digest, judge.tokenizer_digest, *(mapping.digest for mapping in mappings)]
    return [judge.digest, config.judging.folds, config.judging.seed]


def escalation_identity(config: RunConfig) -> Json:
    """What verdicts on responses depend on by being escalated; ``None`` where they are not."""
    second = second_judge_identity(config)
    if second is None:
        return None
    bounds = [*config.judging.uncertain_band, config.judging.max_escalated_share]
    return [second.digest, second.tokenizer_digest, *bounds]


def second_judge_identity(config: RunConfig) -> JudgeIdentity | None:
    """Who judges again what the first judge is unsure of, if anybody does."""
    second = config.judging.second
    if second is None:
        return None
    return _model_judge_identity(config, _second_model(config), second.mode)


def open_escalation(
    config: RunConfig, taxonomy: Taxonomy, storage: Storage, host: EngineHost
) -> Escalation | None:
    """The run's second judge, and when it is asked; arguments as for :func:`open_judge`."""
    second = config.judging.second
    if second is None:
        return None
    return Escalation(
        judge=_model_judge(config, taxonomy, storage, host, _second_model(config), second.mode),
        band=config.judging.uncertain_band,
        max_share=config.judging.max_escalated_share,
    )


def open_judge(config: RunConfig, taxonomy: Taxonomy, storage: Storage, host: EngineHost) -> Judge:
    """The run's judge; nothing is loaded or started before it has to answer.

    Args:
        config: The run config.
        taxonomy: Its taxonomy.
        storage: The storage root, whose ledger holds verdicts.
        host: Where an engine runs, if the judge is a model.

    Raises:
        DataError: The examples are wrong.
        ModelError: The judge's model is refused.
    """
    examples = run_examples(config, taxonomy)
    if examples is None:
        return open_model_judge(config, taxonomy, storage, host)
    return ClassifierJudge(
        identity=judge_identity(config),
        storage=storage,
        examples=examples,
        settings=config.judging,
        open_encoder=lambda: SentenceEncoder(_embedder(config).path),
        flush_rows=config.models.engine.flush_rows,
    )


def open_model_judge(
    config: RunConfig, taxonomy: Taxonomy, storage: Storage, host: EngineHost
) -> ModelJudge:
    """The run's judge where it is a model; arguments as for :func:`open_judge`."""
    model = judge_model(config)
    return _model_judge(config, taxonomy, storage, host, model, config.judging.mode)


def open_judge_of(
    config: RunConfig,
    taxonomy: Taxonomy,
    storage: Storage,
    host: EngineHost,
    model: ModelFolder,
    mode: str,
) -> ModelJudge:
    """A judge that is any model, asked in any mode; arguments as for :func:`open_judge`."""
    return _model_judge(config, taxonomy, storage, host, model, mode)


def answer_forms(mode: str, config: RunConfig, taxonomy: Taxonomy) -> AnswerForms | None:
    """How a judge of some mode is asked; ``None`` where it answers in labels.

    Raises:
        ConfigError: There is no such guard.
    """
    if mode == LABELS:
        return None
    if mode == REASONING:
        return Reasoning(config.judging.reasoning_tokens)
    return open_guard(mode.removeprefix(GUARD), taxonomy)


def judge_model(config: RunConfig) -> ModelFolder:
    """The model that judges where there are no examples, and zero-shot beside them."""
    return resolve_model(config.models.judge_uri, Path(config.storage.cache).expanduser())


def run_examples(config: RunConfig, taxonomy: Taxonomy) -> LabelledExamples | None:
    """The labelled examples of a run, if it has any."""
    uri = config.judging.examples
    return None if uri is None else read_examples(uri, taxonomy)


def measure_on_examples(
    judge: Judge,
    protocol: LabelProtocol,
    examples: Sequence[LabelledExample],
    settings: ScoringGroup,
) -> tuple[QuestionQuality, ...]:
    """Has a judge that never saw them judge examples, and says how right it is."""
    rows = judge.judge(protocol, [row.evidence for row in examples], "judge_examples").rows
    right = [[row.answer(question) for question in protocol.questions] for row in examples]
    return measure(rows, protocol, np.array(right, np.int64), settings)


def _second_model(config: RunConfig) -> ModelFolder:
    second = config.judging.second
    uri = second.model if second is not None and second.model else config.models.judge_uri
    return resolve_model(uri, Path(config.storage.cache).expanduser())


def _model_judge(
    config: RunConfig,
    taxonomy: Taxonomy,
    storage: Storage,
    host: EngineHost,
    model: ModelFolder,
    mode: str,
) -> ModelJudge:
    forms = answer_forms(mode, config, taxonomy)
    judge: ModelJudge = EngineJudge(host, storage, model)
    if forms is not None:
        judge = WrittenJudge(host, storage, model, forms)
    mappings = earlier_versions(taxonomy, config.taxonomy.files, taxonomy_text)
    return carrying_judge(judge, storage, mappings, config.scoring)


def _taxonomy(config: RunConfig) -> Taxonomy:
    return run_taxonomy(config.taxonomy)


def _model_judge_identity(config: RunConfig, model: ModelFolder, mode: str) -> JudgeIdentity:
    forms = answer_forms(mode, config, _taxonomy(config))
    return written_judge_identity(model, forms) if forms else engine_judge_identity(model)


def _embedder(config: RunConfig) -> ModelFolder:
    cache = Path(config.storage.cache).expanduser()
    return resolve_model(config.judging.embedder, cache, ENCODERS)
