"""The run's prompts with labels and splits: what everything else in synthesis begins with.

Apart from the step, because three kinds of task need it: the step, its shares, and the evaluation
of a model that was not trained here. Only whoever may pay has the judge asked; the others read what
it said in the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.domain.run_config import RunConfig
from cosalign.domain.schemas import PROMPT_LABELS, PROMPTS
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.judging.judge import Judge
from cosalign.judging.judge_preflight import check_unseen
from cosalign.judging.judge_quality import quality_metrics
from cosalign.judging.label_protocol import prompt_protocol
from cosalign.judging.open_judge import judging_identity
from cosalign.runtime.step import ManifestDraft, StepContext
from cosalign.store.erasures import erased_prompts
from cosalign.synthesis.candidates import LabelledPrompt
from cosalign.synthesis.contamination import evaluation_collections, read_evaluation_sets
from cosalign.synthesis.label_review import review_file
from cosalign.synthesis.labelling import (
    PromptLabels,
    given_labels,
    label_coverage,
    label_prompts,
    label_table,
)
from cosalign.synthesis.prompt_collections import open_collections
from cosalign.synthesis.prompt_source import PromptSelection, select_prompts
from cosalign.synthesis.splits import DRAWN_FOR, Splits, assign_splits

Tables = dict[str, tuple[pa.Table, pa.Schema]]


@dataclass(frozen=True)
class LabelledPrompts:
    """Selected prompts, their labels, and the split of each."""

    selection: PromptSelection
    labels: PromptLabels
    splits: Splits

    @property
    def drawn_for(self) -> list[LabelledPrompt]:
        """The prompts that configs are drawn for."""
        columns = (self.selection.prompts, self.labels.risk_mask, self.splits.names)
        return [
            LabelledPrompt(prompt.prompt_id, prompt.text, int(mask))
            for prompt, mask, split in zip(*columns, strict=True)
            if split in DRAWN_FOR
        ]

    def counts(self) -> Counter[str]:
        """The funnel from what was read to splits, and what this attempt paid for labels."""
        counts = Counter(self.selection.counts)
        counts.update(self.splits.counts)
        counts.update({f"split_{name}": n for name, n in Counter(self.splits.names).items()})
        counts["labels_made"] = self.labels.made
        return counts

    def tables(self) -> Tables:
        """``prompts``, and ``prompt_labels`` where a judge labelled them."""
        tables: Tables = {"prompts": (self._prompt_table(), PROMPTS)}
        if self.labels.judged is not None:
            table = label_table(self.selection.prompts, self.labels, self.labels.judged)
            tables["prompt_labels"] = (table, PROMPT_LABELS)
        return tables

    def _prompt_table(self) -> pa.Table:
        own = self.selection.table.select(["prompt_id", "text", "language", "source", "licence"])
        found = {
            "risk_mask": pa.array(self.labels.risk_mask, pa.uint32()),
            "known_mask": pa.array(self.labels.known_mask, pa.uint32()),
            "split": pa.array(self.splits.names),
        }
        for name, column in found.items():
            own = own.append_column(name, column)
        return own


def labelled_prompts(context: StepContext, judge: Judge) -> LabelledPrompts:
    """Selects, labels and splits a run's prompts.

    Args:
        context: The step's.
        judge: Who labels, where the prompts' files do not.

    Raises:
        DataError: No prompt is left, or a file is wrong.
        UserError: The judge would be asked about its own examples.
    """
    config, taxonomy = context.config, context.taxonomy
    cache = run_cache(config)
    selection = select_prompts(
        open_collections(config.prompts, cache),
        read_evaluation_sets(evaluation_collections(config, cache)),
        config.prompts,
        token_counter(config),
        erased_prompts(context.storage),
    )
    check_unseen(config, taxonomy, {prompt.prompt_id for prompt in selection.prompts})
    labels = _labels(context, judge, selection)
    pool = training_pool(config, taxonomy)
    splits = assign_splits(
        selection.prompts, labels, taxonomy.full_mask, pool, config.prompts
    )  # fmt: skip
    return LabelledPrompts(selection, labels, splits)


def prompt_identity(context: StepContext) -> dict[str, Json]:
    """What prompts, labels and splits depend on."""
    config = context.config
    cache = run_cache(config)
    apart = {"files", "held_out_files", "sources", "use"}
    given = config.prompts.labels_field is not None
    erased = sorted(erased_prompts(context.storage))
    return {
        # Left out where there are none, so that results from before the first erasure stand.
        **({"erased": fingerprint("erased", erased)} if erased else {}),
        "sources": [c.identity() for c in open_collections(config.prompts, cache)],
        "held_out": [c.identity() for c in evaluation_collections(config, cache)],
        "prompts": config.prompts.model_dump(mode="json", exclude=apart),
        "judge": None if given else judging_identity(config),
        "review": None if given else [config.judging.review_prompts, config.judging.review_texts],
        "base_tokenizer": base_model(config).tokenizer_digest,
        "protocol": prompt_protocol(context.taxonomy).digest,
        "scoring": config.scoring.model_dump(mode="json", exclude={"thresholds", "calibration"}),
        # Not a row's identity, yet it decides which rows fail for being too long.
        "max_model_len": config.models.engine.max_model_len,
    }


def record_labels(
    context: StepContext, judge: Judge, labelled: LabelledPrompts, draft: ManifestDraft
) -> None:
    """Puts down how sure the labels are, and lists the closest calls for people."""
    judged, config = labelled.labels.judged, context.config
    if judged is None:
        return
    quality = judge.quality(prompt_protocol(context.taxonomy), config.scoring)
    draft.metrics.update(quality_metrics(quality))
    draft.metrics.update(label_coverage(labelled.labels, context.taxonomy))
    reasons = {f"labels_unknown_{reason}": n for reason, n in sorted(judged.reasons.items())}
    draft.counts.update(reasons)
    if config.judging.review_prompts:
        path = f"{context.folder}/prompt_review.jsonl"
        prompts = labelled.selection.prompts
        data = review_file(prompts, labelled.labels, judged, context.taxonomy, config)
        context.storage.write_bytes(path, data)
        draft.files["prompt_review"] = path


def training_pool(config: RunConfig, taxonomy: Taxonomy) -> int:
    """The mask of categories that prompts and configs are drawn from; never the catch-all."""
    risks = config.synthesis.training_risks
    pool = taxonomy.full_mask if risks is None else taxonomy.mask_of(risks)
    return pool & taxonomy.allowable_mask


def base_model(config: RunConfig) -> ModelFolder:
    """The model that is trained, whose tokens texts are counted in."""
    return resolve_model(config.models.base, run_cache(config))


def token_counter(config: RunConfig) -> Callable[[str], int]:
    """Counts the tokens of a text as the base model does."""
    tokenizer = load_tokenizer(base_model(config))
    return lambda text: len(tokenizer.encode_plain(text))


def run_cache(config: RunConfig) -> Path:
    """The local folder for what is fetched."""
    return Path(config.storage.cache).expanduser()


def _labels(context: StepContext, judge: Judge, selection: PromptSelection) -> PromptLabels:
    """The labels that the files give, where they are asked for them; else the judge's."""
    config, prompts = context.config, selection.prompts
    if config.prompts.labels_field is not None:
        return given_labels(context.taxonomy, prompts)
    return label_prompts(judge, context.taxonomy, prompts, config.scoring)
