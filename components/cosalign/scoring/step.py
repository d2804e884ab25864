"""The scoring step: the verdicts table of all candidate responses, and which policies they follow.

No categorical config is an input here (law 1): a run with others over the same responses finds this
step's result already made. Policies in prose have no arithmetic; they alone come in, as the table
``freeform_draws``.

An increment judges what is new (``judged_before.py``): new responses, and the responses of prompts
that meet a new policy in prose, under that policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.fingerprint import Json
from cosalign.domain.schemas import FOLLOWS, VERDICTS, with_metadata
from cosalign.inference.engine_host import EngineHost
from cosalign.judging.calibration import scoring_identity
from cosalign.judging.canaries import canary_identity, judge_canaries, refuse_fooled_judge
from cosalign.judging.follows_verdicts import judge_follows
from cosalign.judging.judge_quality import quality_metrics
from cosalign.judging.label_protocol import follows_protocol, response_protocol
from cosalign.judging.open_judge import (
    escalation_identity,
    judging_identity,
    open_escalation,
    open_judge,
)
from cosalign.judging.response_verdicts import judge_responses
from cosalign.runtime.run_record import previous_run
from cosalign.runtime.shares import Share
from cosalign.runtime.step import ManifestDraft, StepContext
from cosalign.scoring.gold_labels import JUDGE, agreement, with_gold_labels
from cosalign.scoring.judged_before import JudgedBefore, increment_inputs
from cosalign.store.tables import read_table, write_table


class ScoringStep:
    """Judges every candidate response once, and once more under each free-form config drawn."""

    name = "scoring"
    inputs: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {"synthesis": ("prompts", "responses", "freeform_draws", "gold_labels")}
    )

    def identity(self, context: StepContext) -> Json:
        """The judge, the questions, the thresholds, the calibration and the canaries."""
        return {
            "judge": judging_identity(context.config),
            "second_judge": escalation_identity(context.config),
            "protocol": response_protocol(context.taxonomy).digest,
            "follows": follows_protocol("").digest,
            "scoring": scoring_identity(context.config),
            # The bound decides whether there is a result at all.
            "canaries": [canary_identity(context.config), context.config.judging.canary_bound],
            # Not a row's identity, yet it decides which rows fail for being too long.
            "max_model_len": context.config.models.engine.max_model_len,
            **_increment_identity(context),
        }

    def pay(self, context: StepContext, share: Share) -> Mapping[str, int]:
        """Has the first judge judge the responses to a share of the prompts.

        The second judge is asked by the step itself: which verdicts are the most uncertain is known
        when all are there.
        """
        config, taxonomy = context.config, context.taxonomy
        asked = _read(context).only(share)
        if not asked.responses.num_rows and not asked.under_policies.num_rows:
            return {}
        with EngineHost(config.models.engine) as host:
            judge = open_judge(config, taxonomy, context.storage, host)
            follows = judge_follows(
                judge, asked.freeform_draws, asked.under_policies, asked.texts, config.scoring
            )
            judged = judge_responses(judge, taxonomy, asked.responses, asked.texts, config.scoring)
        return {"verdicts_made": judged.made, "follows_made": follows.made}

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        """Judges what is not judged yet, and writes both tables sorted by response id."""
        tables = context.inputs["synthesis"].tables
        asked = _read(context)
        responses, texts = asked.responses, asked.texts
        with EngineHost(context.config.models.engine) as host:
            judge = open_judge(context.config, context.taxonomy, context.storage, host)
            second = open_escalation(context.config, context.taxonomy, context.storage, host)
            # First: a judge that is fooled should cost no more than its canaries.
            canaries = judge_canaries(judge, context.taxonomy, context.config)
            refuse_fooled_judge(canaries, context.config.judging.canary_bound)
            # The first judge's work comes first: the second one may need an engine of its own.
            follows = judge_follows(
                judge, asked.freeform_draws, asked.under_policies, texts, context.config.scoring
            )
            judged = judge_responses(
                judge,
                context.taxonomy,
                responses,
                texts,
                context.config.scoring,
                escalation=second,
            )
            protocol = response_protocol(context.taxonomy)
            quality = judge.quality(protocol, context.config.scoring)
            draft.counts["engine_starts"] = host.starts
        labels = _of_responses(read_table(context.storage, tables["gold_labels"]), responses)
        own = with_gold_labels(judged.table, labels, context.taxonomy)
        verdicts = _joined(asked.before.verdicts, own, ["response_id"])
        told = _joined(asked.before.follows, follows.table, ["response_id", "config_id"])
        written = [("verdicts", verdicts, VERDICTS), ("follows", told, FOLLOWS)]
        if judged.first is not None:
            first = _joined(asked.before.first, judged.first, ["response_id"])
            written.append(("first_verdicts", first, VERDICTS))
        for name, table, schema in written:
            path = f"{context.folder}/{name}.parquet"
            full = with_metadata(schema, context.taxonomy.digest)
            draft.tables[name] = write_table(context.storage, path, table, full)
        _count(context, verdicts, draft)
        _count_follows(told, draft)
        draft.metrics.update(agreement(judged.table, labels, context.taxonomy))
        draft.metrics.update(quality_metrics(quality))
        draft.counts.update(judged.counts)
        draft.metrics.update(judged.metrics)
        if canaries is not None:
            draft.metrics.update(canaries.metrics())
            draft.counts.update(canaries.counts())
        draft.counts["verdicts_made"] = judged.made
        draft.counts["follows_made"] = follows.made


@dataclass(frozen=True)
class _Asked:
    """What is to be judged.

    Attributes:
        responses: Those that nobody judged yet.
        freeform_draws: Which policies in prose the responses of which prompts are held against.
        under_policies: The responses that this may be: all, judged before or not.
        texts: The prompts' texts by id.
        before: What stands already.
    """

    responses: pa.Table
    freeform_draws: pa.Table
    under_policies: pa.Table
    texts: dict[str, str]
    before: JudgedBefore

    def only(self, share: Share) -> _Asked:
        """The part of it that is about a share of the prompts."""
        return replace(
            self,
            responses=_of_share(self.responses, share),
            freeform_draws=_of_share(self.freeform_draws, share),
            under_policies=_of_share(self.under_policies, share),
        )


def _read(context: StepContext) -> _Asked:
    tables = context.inputs["synthesis"].tables
    responses = read_table(context.storage, tables["responses"]).sort_by("response_id")
    prompts = read_table(context.storage, tables["prompts"])
    columns = (prompts.column(name).to_pylist() for name in ("prompt_id", "text"))
    new = "freeform_draws" if context.config.increment is None else "new_freeform_draws"
    draws = read_table(context.storage, tables[new])
    met = pc.is_in(responses["prompt_id"], value_set=draws["prompt_id"].combine_chunks())
    before = JudgedBefore.of(context)
    return _Asked(
        responses=before.others(responses),
        freeform_draws=draws,
        under_policies=responses.filter(met),
        texts=dict(zip(*columns, strict=True)),
        before=before,
    )


def _joined(before: pa.Table, own: pa.Table, order: list[str]) -> pa.Table:
    """Both, sorted; a full run's table as it was made."""
    if not before.num_rows:
        return own
    return pa.concat_tables([before, own]).sort_by([(name, "ascending") for name in order])


def _of_responses(labels: pa.Table, responses: pa.Table) -> pa.Table:
    own = responses["response_id"].combine_chunks()
    return labels.filter(pc.is_in(labels["response_id"], value_set=own))


def _increment_identity(context: StepContext) -> dict[str, Json]:
    record = previous_run(context)
    tables = context.inputs["synthesis"].tables
    return increment_inputs(record, {name: ref.sha256 for name, ref in tables.items()})


def _of_share(table: pa.Table, share: Share) -> pa.Table:
    own = [share.has(prompt_id) for prompt_id in table.column("prompt_id").to_pylist()]
    return table.filter(pa.array(own, pa.bool_()))


def _count_follows(follows: pa.Table, draft: ManifestDraft) -> None:
    unknown = follows.column("follows").null_count
    draft.counts["follows"] = follows.num_rows
    draft.counts["follows_unknown"] = unknown
    if follows.num_rows:
        draft.metrics["follows_coverage"] = 1 - unknown / follows.num_rows


def _count(context: StepContext, verdicts: pa.Table, draft: ManifestDraft) -> None:
    whole = pc.equal(verdicts.column("known_mask"), context.taxonomy.full_mask)
    known = pc.sum(pc.and_(whole, pc.is_valid(verdicts.column("addressed")))).as_py() or 0
    total = verdicts.num_rows
    draft.counts["verdicts"] = total
    draft.counts["verdicts_gold"] = pc.sum(pc.equal(verdicts.column("judge"), JUDGE)).as_py() or 0
    draft.counts["verdicts_unknown"] = total - known
    draft.metrics["verdict_coverage"] = known / total if total else None
