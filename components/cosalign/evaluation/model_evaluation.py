"""The evaluation of any model: it stands where the models that a run trains would stand.

So every system, table and figure of the evaluation step means what it always means, and ``dpo`` in
a run config's ``evaluation.systems`` is the model that was named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from cosalign.domain.errors import ConfigError
from cosalign.domain.fingerprint import Json
from cosalign.evaluation.step import EvaluationStep
from cosalign.evaluation.systems import TRAINED
from cosalign.inference.models import resolve_model
from cosalign.runtime.shares import Share
from cosalign.runtime.step import ManifestDraft, StepContext, StepManifest


class ModelEvaluationStep(EvaluationStep):
    """Measures how well one named model follows the regions' configs and a benchmark's."""

    inputs: Mapping[str, tuple[str, ...]] = MappingProxyType({"synthesis": ("prompts", "draws")})

    def identity(self, context: StepContext) -> Json:
        """What an evaluation depends on; and the model by content, its address may be reused."""
        cache = Path(context.config.storage.cache).expanduser()
        model = resolve_model(_model_uri(context), cache)
        evaluation = super().identity(_with_model(context))
        return {"evaluation": evaluation, "model": [model.digest, model.tokenizer_digest]}

    def pay(self, context: StepContext, share: Share) -> Mapping[str, int]:
        """See :meth:`EvaluationStep.pay`."""
        return super().pay(_with_model(context), share)

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        """See :meth:`EvaluationStep.execute`."""
        super().execute(_with_model(context), draft)


def _with_model(context: StepContext) -> StepContext:
    models = dict.fromkeys(TRAINED, _model_uri(context))
    trained = StepManifest(
        step="training", fingerprint="", storage=context.storage.uri, models=models
    )
    return replace(context, inputs={**context.inputs, "training": trained})


def _model_uri(context: StepContext) -> str:
    if context.order.model_uri is None:
        raise ConfigError("name the model to evaluate: the input 'model_uri' is missing")
    return context.order.model_uri
