"""One place that decides who judges, so that no step asks what kind of judge it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosalign.domain.fingerprint import Json, content_sha256
from cosalign.domain.run_config import RunConfig, ScoringGroup
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ENCODERS, ModelFolder, resolve_model
from cosalign.inference.sentence_encoder import SentenceEncoder
from cosalign.judging.classifier_judge import ClassifierJudge, classifier_identity
from cosalign.judging.engine_judge import EngineJudge, engine_judge_identity
from cosalign.judging.judge import Judge, JudgeIdentity
from cosalign.judging.judge_quality import QuestionQuality, measure
from cosalign.judging.label_protocol import LabelProtocol
from cosalign.judging.labelled_examples import LabelledExample, LabelledExamples, read_examples
from cosalign.store.storage import Storage, read_uri


def judge_identity(config: RunConfig) -> JudgeIdentity:
    """Who judges a run; loads no model."""
    examples = config.judging.examples
    if examples is None:
        return engine_judge_identity(judge_model(config))
    return classifier_identity(_embedder(config), content_sha256(read_uri(examples)), examples)


def judging_identity(config: RunConfig) -> Json:
    """What a step's result depends on by being judged: the judge, and how it is measured."""
    judge = judge_identity(config)
    if config.judging.examples is None:
        return [judge.digest, judge.tokenizer_digest]
    return [judge.digest, config.judging.folds, config.judging.seed]


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
        return EngineJudge(host, storage, judge_model(config))
    return ClassifierJudge(
        identity=judge_identity(config),
        storage=storage,
        examples=examples,
        settings=config.judging,
        open_encoder=lambda: SentenceEncoder(_embedder(config).path),
        flush_rows=config.models.engine.flush_rows,
    )


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


def _embedder(config: RunConfig) -> ModelFolder:
    cache = Path(config.storage.cache).expanduser()
    return resolve_model(config.judging.embedder, cache, ENCODERS)
