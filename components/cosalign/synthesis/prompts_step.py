"""The prompts step: labelled and split prompts alone, for evaluating a model trained elsewhere.

It needs no generators, and finds its labels in the ledger wherever a run has judged them before.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cosalign.domain.fingerprint import Json
from cosalign.domain.schemas import DRAWS
from cosalign.inference.engine_host import EngineHost
from cosalign.judging.canaries import judge_canaries, refuse_fooled_judge
from cosalign.judging.judge_preflight import check_judge_input
from cosalign.judging.open_judge import open_judge
from cosalign.runtime.preflight import check_user_input
from cosalign.runtime.step import ManifestDraft, StepContext
from cosalign.synthesis.labelled_prompts import labelled_prompts, prompt_identity, record_labels
from cosalign.synthesis.step import write_tables


class PromptsStep:
    """Reads, labels and splits prompts."""

    name = "prompts"
    inputs: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def identity(self, context: StepContext) -> Json:
        """Prompt files by content, the judge, and the settings that reach the table."""
        check_user_input(context.config, context.taxonomy)
        check_judge_input(context.config, context.taxonomy)
        return prompt_identity(context)

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        """Labels what the ledger does not hold, and writes the table.

        Raises:
            ModelError: The judge is fooled by the canaries; no more is paid for then.
        """
        config = context.config
        with EngineHost(config.models.engine) as host:
            judge = open_judge(config, context.taxonomy, context.storage, host)
            canaries = judge_canaries(judge, context.taxonomy, config)
            refuse_fooled_judge(canaries, config.judging.canary_bound)
            labelled = labelled_prompts(context, judge)
            draft.counts["engine_starts"] = host.starts
        record_labels(context, judge, labelled, draft)
        # Nothing is drawn for, so nothing was trained under any config here.
        tables = {**labelled.tables(), "draws": (DRAWS.empty_table(), DRAWS)}
        write_tables(context, tables, draft)
        draft.counts.update(labelled.counts())
        if canaries is not None:
            draft.metrics.update(canaries.metrics())
            draft.counts.update(canaries.counts())
