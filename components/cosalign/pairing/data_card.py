"""The data card: what a run's preference set is made of, as JSON and as a page.

Counts come from the manifests of the steps before, all else from their tables. It holds ids, names
and figures, no texts and no times, so that the same run gives the same bytes and anybody may read
it. Unknown is a figure too (law 4): it is shown for each label, beside what is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cosalign.domain.contrast import CONTRASTS
from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import RunConfig
from cosalign.pairing.card_figures import (
    PAIR_COLUMNS,
    PairContext,
    PairTally,
    generator_figures,
    length_figures,
    source_figures,
    verdict_figures,
)
from cosalign.pairing.table_stream import Batches, streamed
from cosalign.runtime.step import StepContext, StepManifest
from cosalign.store.tables import TableRef, read_table

CONTAMINATION = re.compile("contaminat|evaluation_prompts")
CARD_INPUTS = {
    "synthesis": ("prompts", "configs", "responses"),
    "scoring": ("verdicts",),
}
"""The tables that a card is made from, beside the pairs."""

CONFIGS_SHOWN = 25
"""Configs that the page lists; the JSON has all."""

CONTRAST_TITLES = {
    "fewer_risks": "fewer risks",
    "helpful_over_refusal": "helpful over refusal",
    "refusal_over_violation": "refusal over violation",
}
FUNNEL = {
    "Prompts": (
        ("synthesis", "prompts_read", "read"),
        ("synthesis", "prompts_left_out", "left out by where"),
        ("synthesis", "prompts_empty", "empty"),
        ("synthesis", "prompts_duplicate", "duplicates"),
        ("synthesis", "prompts_contaminated", "in an evaluation set"),
        ("synthesis", "prompts_near_contaminated", "nearly in one"),
        ("synthesis", "prompts_too_short", "too short"),
        ("synthesis", "prompts_too_long", "too long"),
        ("synthesis", "prompts_near_duplicate", "near-duplicates"),
        ("synthesis", "prompts_over_limit", "over the limit"),
        ("synthesis", "prompts_kept", "kept"),
        ("synthesis", "split_unlabelled", "of unknown label"),
        ("synthesis", "prompts_outside_pool", "outside the pool"),
        ("synthesis", "prompts_in_rare_label_set", "of a rare label set"),
        ("synthesis", "prompts_over_label_set_cap", "over a label set's cap"),
        ("synthesis", "split_train", "to train on"),
        ("synthesis", "split_dev", "for choosing checkpoints"),
        ("synthesis", "split_held_out", "held out"),
    ),
    "Responses": (
        ("scoring", "verdicts", "judged"),
        ("scoring", "verdicts_unknown", "of these unknown"),
    ),
    "Pairs": (
        ("pairing", "draws", "prompt and config"),
        ("pairing", "draws_without_pair", "of these without a pair"),
        ("pairing", "pairs", "pairs"),
    ),
}
"""Step, count and what the page calls it; parts have scales of their own."""
SHOWN_AT_ZERO = frozenset({"prompts_read", "prompts_kept", "prompts_contaminated", "split_train",
                           "split_held_out", "verdicts_unknown", "pairs"})  # fmt: skip
"""Counts whose being nothing is worth a line; other reasons to leave out show when they applied."""


@dataclass(frozen=True)
class CardFiles:
    """Where a card was written, as paths in storage."""

    page: str
    figures: str


def card_identity(context: StepContext) -> Json:
    """What a card depends on beside tables: the earlier steps' counts, and settings it shows."""
    counts = {name: _lasting(manifest.counts) for name, manifest in context.inputs.items()}
    return {"counts": counts, "settings": _settings(context.config)}


def write_data_card(context: StepContext, pairs: TableRef, counts: Mapping[str, int]) -> CardFiles:
    """Makes the card of a run and writes it beside the pairs.

    Args:
        context: The pairing step's, whose inputs hold the tables of :data:`CARD_INPUTS`.
        pairs: The pairs table.
        counts: The pairing's own counts.
    """
    from cosalign.runtime.pages import page_template

    card = data_card(context, pairs, counts)
    page = page_template("cosalign.pairing", "data_card.html.j2").render(
        card=card,
        contrasts=CONTRASTS,
        titles=CONTRAST_TITLES,
        funnel=_funnel(card["counts"]),
        configs_shown=CONFIGS_SHOWN,
    )
    files = CardFiles(f"{context.folder}/data_card.html", f"{context.folder}/data_card.json")
    text = json.dumps(card, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    context.storage.write_bytes(files.figures, f"{text}\n".encode())
    context.storage.write_bytes(files.page, page.encode())
    return files


def data_card(context: StepContext, pairs: TableRef, counts: Mapping[str, int]) -> dict[str, Any]:
    """The card as plain JSON; ``docs/design/data-card.md`` says what each figure is."""
    storage, taxonomy = context.storage, context.taxonomy
    synthesis, scoring = (context.inputs[name] for name in ("synthesis", "scoring"))
    prompts = read_table(storage, synthesis.tables["prompts"])
    configs = read_table(storage, synthesis.tables["configs"])
    with ExitStack() as stack:

        def opened(ref: TableRef) -> Batches:
            return stack.enter_context(streamed(storage, ref))

        verdicts = verdict_figures(opened(scoring.tables["verdicts"]), taxonomy)
        pair_context = PairContext(
            configs=configs,
            prompts=prompts.select(["prompt_id", "risk_mask"]).sort_by("prompt_id"),
            taxonomy=taxonomy,
            weights=context.config.pairing.weights,
            most_risks=verdicts["most_risks"],
        )
        tally = PairTally(pair_context, pairs.rows)
        for batch in opened(pairs)(PAIR_COLUMNS):
            tally.add(batch)
        responses = opened(synthesis.tables["responses"])
        return {
            "taxonomy": {
                "name": taxonomy.name,
                "version": taxonomy.version,
                "digest": taxonomy.digest,
                "file": taxonomy.model_dump(mode="json", exclude={"supersedes"}),
            },
            "steps": {name: manifest.fingerprint for name, manifest in context.inputs.items()},
            "counts": {
                **{name: _lasting(manifest.counts) for name, manifest in context.inputs.items()},
                "pairing": _lasting(counts),
            },
            "contamination": _contamination(synthesis),
            "sources": source_figures(prompts),
            "generators": generator_figures(responses),
            "settings": _settings(context.config),
            "verdicts": verdicts,
            "pairs": _pairs(tally, pair_context),
            "by_config": _by_config(tally, configs, context),
            "by_category": tally.by_category(),
            "lengths": length_figures(tally.sample(), responses),
        }


def _funnel(counts: Mapping[str, Mapping[str, int]]) -> dict[str, list[tuple[str, int, float]]]:
    """By part: label, count, and width in percent; what does not apply is left out."""
    found = {}
    for part, entries in FUNNEL.items():
        known = [
            (label, counts[step][name])
            for step, name, label in entries
            if name in counts.get(step, {}) and (counts[step][name] or name in SHOWN_AT_ZERO)
        ]
        most = max((count for _, count in known), default=0)
        if most:
            found[part] = [(label, n, round(100 * n / most, 3)) for label, n in known]
    return found


def _pairs(tally: PairTally, context: PairContext) -> dict[str, Any]:
    refusals = tally.chosen_refusals if context.readable else None
    return {
        "pairs": tally.pairs,
        "contrasts": tally.contrasts(),
        "chosen_refusals": refusals,
        "examples": tally.examples,
    }


def _by_config(tally: PairTally, configs: pa.Table, context: StepContext) -> list[dict[str, Any]]:
    """One entry a policy, whatever its renderings; that with the most pairs first."""
    entries: dict[str, dict[str, Any]] = {}
    columns = configs.select(["digest", "kind", "allowed_mask", "region"])
    for row in columns.group_by(columns.column_names).aggregate([([], "count_all")]).to_pylist():
        mask = row["allowed_mask"]
        entry = entries.setdefault(
            row["digest"],
            {
                "digest": row["digest"],
                "kind": row["kind"],
                "allowed": None if mask is None else list(context.taxonomy.names_of(mask)),
                "regions": [],
                "renderings": 0,
            },
        )
        entry["renderings"] += row["count_all"]
        entry["regions"] = sorted({*entry["regions"], *([row["region"]] if row["region"] else [])})
    counted = [{**entries[digest], **figures} for digest, figures in tally.by_config().items()]
    return sorted(counted, key=lambda entry: (-entry["pairs"], entry["digest"]))


def _contamination(synthesis: StepManifest) -> dict[str, int]:
    return {name: n for name, n in sorted(synthesis.counts.items()) if CONTAMINATION.search(name)}


def _settings(config: RunConfig) -> dict[str, Any]:
    """What wrote, judged and weighed the responses; a trace shows it for each."""
    return {
        "base": config.models.base,
        "judge": config.judging.examples or config.models.judge_uri,
        "generators": [g.model_dump(mode="json") for g in config.synthesis.generators],
        "scoring": config.scoring.model_dump(mode="json", exclude={"prompt_thresholds"}),
        "pairing": config.pairing.model_dump(mode="json"),
    }


def _lasting(counts: Mapping[str, int]) -> dict[str, int]:
    """Without what only says how much one attempt paid for."""
    return {
        name: count
        for name, count in sorted(counts.items())
        if name != "engine_starts" and not name.endswith("_made")
    }
