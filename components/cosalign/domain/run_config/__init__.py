"""The one run config: every setting of a run, grouped, typed, with the paper's values beside it.

Defaults suit a small machine; ``profiles/paper.yaml`` holds the paper's values. Each step takes
part of this file into its fingerprint, and no more, so that changing a setting redoes only what
depends on it. This module imports no torch, so that ``--help`` stays fast.
"""

from __future__ import annotations

from typing import Any

from cosalign.domain.run_config.engine import EngineGroup, ModelsGroup
from cosalign.domain.run_config.evaluation import EvaluationGroup
from cosalign.domain.run_config.gate import GateGroup
from cosalign.domain.run_config.increment import IncrementGroup
from cosalign.domain.run_config.judging import JudgingGroup, ScoringGroup, SecondJudge
from cosalign.domain.run_config.pairing import PairingGroup
from cosalign.domain.run_config.prices import PricesGroup
from cosalign.domain.run_config.prompts import (
    NearDuplicateSettings,
    PromptsGroup,
    PromptSource,
    Use,
)
from cosalign.domain.run_config.synthesis import (
    MODES,
    GeneratorSettings,
    Mode,
    RewriteSettings,
    SynthesisGroup,
)
from cosalign.domain.run_config.training import DpoSettings, TrainerSettings, TrainingGroup
from cosalign.domain.safety_config import IsoDate
from cosalign.domain.validation import StrictModel

__all__ = [
    "MODES",
    "ConfigsGroup",
    "DpoSettings",
    "EngineGroup",
    "EvaluationGroup",
    "GateGroup",
    "GeneratorSettings",
    "IncrementGroup",
    "JudgingGroup",
    "Mode",
    "ModelsGroup",
    "NearDuplicateSettings",
    "PairingGroup",
    "PricesGroup",
    "PromptSource",
    "PromptsGroup",
    "RewriteSettings",
    "RunConfig",
    "ScoringGroup",
    "SecondJudge",
    "StorageGroup",
    "SynthesisGroup",
    "TaxonomyGroup",
    "TrainerSettings",
    "TrainingGroup",
    "Use",
]


class StorageGroup(StrictModel):
    """Where results live.

    Attributes:
        root: A folder, ``file://`` or ``gs://`` address; ledgers, steps, models and runs lie in it.
        cache: A local folder for models fetched from ``gs://``.
    """

    root: str = "cosalign-out"
    cache: str = "~/.cache/cosalign"


class TaxonomyGroup(StrictModel):
    """Which taxonomy the run speaks in, and the files it may be found in beside the shipped."""

    name: str = "cosa"
    version: str = "1"
    files: tuple[str, ...] = ()


class ConfigsGroup(StrictModel):
    """The regions' safety configs.

    Attributes:
        files: Files, or folders of ``*.yaml``, local or ``gs://``.
        as_of: The date on which a config has to be in force to be trained on; today (UTC) where it
            is not given.
    """

    files: tuple[str, ...] = ()
    as_of: IsoDate | None = None


class RunConfig(StrictModel):
    """A whole run; a full one where ``increment`` is null."""

    storage: StorageGroup = StorageGroup()
    models: ModelsGroup = ModelsGroup()
    taxonomy: TaxonomyGroup = TaxonomyGroup()
    prompts: PromptsGroup = PromptsGroup()
    configs: ConfigsGroup = ConfigsGroup()
    synthesis: SynthesisGroup = SynthesisGroup()
    judging: JudgingGroup = JudgingGroup()
    scoring: ScoringGroup = ScoringGroup()
    pairing: PairingGroup = PairingGroup()
    training: TrainingGroup = TrainingGroup()
    evaluation: EvaluationGroup = EvaluationGroup()
    gate: GateGroup = GateGroup()
    prices: PricesGroup = PricesGroup()
    increment: IncrementGroup | None = None

    def plain(self) -> dict[str, Any]:
        """The config as plain JSON, every default filled in."""
        return self.model_dump(mode="json")
