"""The synthesis step: prompts, configs, draws and candidate responses, as tables.

Of an increment (``increment_tables.py``) prompts and all that is there are the extended run's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from cosalign.domain.fingerprint import Json
from cosalign.domain.schemas import with_metadata
from cosalign.inference.engine_host import EngineHost
from cosalign.judging.canaries import judge_canaries, refuse_fooled_judge
from cosalign.judging.judge_preflight import check_judge_input
from cosalign.judging.open_judge import open_judge
from cosalign.runtime.preflight import check_user_input
from cosalign.runtime.shares import Share
from cosalign.runtime.step import ManifestDraft, StepContext
from cosalign.store.tables import write_table
from cosalign.synthesis.candidate_tables import (
    candidate_identity,
    candidate_tables,
    pay_for_policies,
)
from cosalign.synthesis.increment_checks import Extension, extension
from cosalign.synthesis.increment_tables import (
    increment_identity,
    increment_tables,
    pay_increment,
)
from cosalign.synthesis.labelled_prompts import (
    Tables,
    labelled_prompts,
    prompt_identity,
    record_labels,
    token_counter,
    training_pool,
)

TABLES = 2
"""Raised with any change of which tables there are, so that no older result stands in for them."""


class SynthesisStep:
    """Reads and labels prompts, draws configs and generates candidate responses."""

    name = "synthesis"
    inputs: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def identity(self, context: StepContext) -> Json:
        """Prompt files by content, models by digest, and the settings that reach a table."""
        config, taxonomy = context.config, context.taxonomy
        # Here and not in execute: also a run that finds this step done must not train for nothing.
        check_user_input(config, taxonomy)
        check_judge_input(config, taxonomy)
        if (ext := extension(context)) is not None:
            return {"tables": TABLES, "increment": increment_identity(context, ext)}
        pool = training_pool(config, taxonomy)
        return {
            "tables": TABLES,
            **prompt_identity(context),
            **candidate_identity(config, taxonomy, pool),
        }

    def prepare(self, context: StepContext) -> Mapping[str, int]:
        """Pays for what all shares need: canaries, labels, policies in prose.

        Raises:
            ModelError: The judge is fooled by the canaries; no more is paid for then.
        """
        config = context.config
        with EngineHost(config.models.engine) as host:
            judge = open_judge(config, context.taxonomy, context.storage, host)
            canaries = judge_canaries(judge, context.taxonomy, config)
            refuse_fooled_judge(canaries, config.judging.canary_bound)
            made = {"canaries_made": canaries.made if canaries else 0}
            if config.increment is not None:
                return made
            labelled = labelled_prompts(context, judge)
            pool = training_pool(config, context.taxonomy)
            policies = pay_for_policies(context, host, labelled.drawn_for, pool)
        return {
            **made,
            "labels_made": labelled.labels.made,
            "drafts_made": policies["drafts_made"],
        }

    def pay(self, context: StepContext, share: Share) -> Mapping[str, int]:
        """Generates the candidate responses of a share of the prompts."""
        config, counts = context.config, Counter[str]()
        settings = config.models.engine
        with EngineHost(settings) as host, EngineHost(settings, pays=False) as reading:
            if (ext := extension(context)) is not None:
                return pay_increment(context, ext, host, share)
            judge = open_judge(config, context.taxonomy, context.storage, reading)
            drawn_for = labelled_prompts(context, judge).drawn_for
            own = [prompt for prompt in drawn_for if share.has(prompt.prompt_id)]
            if own:
                pool = training_pool(config, context.taxonomy)
                count = token_counter(config)
                candidate_tables(context, host, own, pool, count, counts, policies=reading)
        return {"responses_made": counts["responses_made"]}

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        """Labels, draws and generates what the ledgers do not hold, and writes the tables."""
        config, taxonomy = context.config, context.taxonomy
        pool = training_pool(config, taxonomy)
        # Where shares have paid there is nothing left to make, and maybe no GPU to make it on.
        with EngineHost(config.models.engine, pays=not context.order.identities) as host:
            if (ext := extension(context)) is not None:
                _execute_increment(context, ext, host, draft)
                return
            judge = open_judge(config, taxonomy, context.storage, host)
            labelled = labelled_prompts(context, judge)
            counts = labelled.counts()
            made = candidate_tables(
                context, host, labelled.drawn_for, pool, token_counter(config), counts
            )
            counts["engine_starts"] = host.starts
        record_labels(context, judge, labelled, draft)
        draft.metrics.update(made.metrics)
        write_tables(context, {**labelled.tables(), **made.tables}, draft)
        draft.counts.update(counts)


def _execute_increment(
    context: StepContext, ext: Extension, host: EngineHost, draft: ManifestDraft
) -> None:
    made = increment_tables(context, ext, host)
    draft.tables.update(made.carried)
    write_tables(context, made.tables, draft)
    draft.counts.update(made.counts)
    draft.counts["engine_starts"] = host.starts
    draft.metrics.update(made.metrics)


def write_tables(context: StepContext, tables: Tables, draft: ManifestDraft) -> None:
    """Writes tables into the step's folder, the taxonomy's digest with each."""
    for name, (table, schema) in tables.items():
        path = f"{context.folder}/{name}.parquet"
        full = with_metadata(schema, context.taxonomy.digest)
        draft.tables[name] = write_table(context.storage, path, table, full)
