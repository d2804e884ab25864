"""The systems of a run: which model each is, what it is shown, and who filters it.

Nothing is generated here. What a system's answers depend on beside the run config (a served model's
declaration, the training data that demonstrations come from, a filter's model) is part of the
step's identity through :func:`systems_identity`.
"""

from __future__ import annotations

from pathlib import Path

from cosalign.domain.errors import ConfigError, DataError
from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import RunConfig
from cosalign.domain.run_config.systems import SystemSettings
from cosalign.evaluation.answers import Shots, System
from cosalign.evaluation.demonstrations import choose_shots, read_pool
from cosalign.evaluation.items import EvaluationItems
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.runtime.step import StepContext, StepManifest
from cosalign.store.tables import TableRef, read_table

TRAINED = ("sft", "dpo")
SHOWN_TABLES = (("training", "sft_records"), ("synthesis", "configs"), ("synthesis", "prompts"))
"""Step and table of what demonstrations are made from."""


def open_systems(config: RunConfig, training: StepManifest) -> list[System]:
    """The run's systems with their models.

    Raises:
        ConfigError: None is named, or one name stands for two.
        ModelError: A model is refused.
    """
    names = config.evaluation.system_names
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"evaluation.systems must name at least one system, each once; found {list(names)}"
        )
    return [
        System(settings, _model(config, _address(settings, config, training)))
        for settings in config.evaluation.systems
    ]


def filter_model(config: RunConfig, system: System) -> ModelFolder:
    """The model that filters a cascade: the one that its settings name, or the system's own."""
    named = system.settings.filter
    return system.model if named is None else _model(config, named.model or "")


def systems_identity(config: RunConfig, context: StepContext) -> Json:
    """What answers depend on beside the settings and the trained models, which are inputs."""
    systems = open_systems(config, context.inputs["training"])
    weights = config.pairing.weights
    others = [s for s in systems if s.settings.model not in ("base", *TRAINED)]
    filters = [s for s in systems if s.settings.filter is not None]
    return {
        "models": [[s.name, s.model.digest, s.model.tokenizer_digest] for s in others],
        "filters": [[s.name, filter_model(config, s).digest] for s in filters],
        "shown": [_shown_table(context, *place).sha256 for place in SHOWN_TABLES]
        if _show_any(systems)
        else None,
        "weights": [weights.alpha, weights.beta, weights.gamma] if _choose_any(systems) else None,
    }


def open_shots(context: StepContext, systems: list[System], items: EvaluationItems) -> Shots:
    """The demonstrations of the systems that show any.

    Raises:
        DataError: The training data holds too few.
    """
    if not _show_any(systems):
        return {}
    tables = [read_table(context.storage, _shown_table(context, *p)) for p in SHOWN_TABLES]
    return choose_shots(systems, items, read_pool(*tables), context.config.evaluation.seed)


def _show_any(systems: list[System]) -> bool:
    return any(system.settings.method == "demonstrations" for system in systems)


def _choose_any(systems: list[System]) -> bool:
    return any(system.settings.method == "best_of_n" for system in systems)


def _shown_table(context: StepContext, step: str, table: str) -> TableRef:
    found = context.inputs[step].tables.get(table)
    if found is None:
        raise DataError(f"the manifest of {step} names no table {table!r}; run that step again")
    return found


def _address(settings: SystemSettings, config: RunConfig, training: StepManifest) -> str:
    if settings.model == "base":
        return config.models.base
    if settings.model in TRAINED:
        return training.models[settings.model]
    return settings.model


def _model(config: RunConfig, uri: str) -> ModelFolder:
    return resolve_model(uri, Path(config.storage.cache).expanduser())
