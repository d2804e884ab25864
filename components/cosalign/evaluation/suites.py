"""All suites of a run beside its regions' own items, and what they depend on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cosalign.domain.fingerprint import Json, content_sha256
from cosalign.domain.run_config import RunConfig
from cosalign.domain.run_config.suites import SuiteSource
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.evaluation.acceptance import acceptance_identity, acceptance_parts
from cosalign.evaluation.benchmark_files import benchmark_parts
from cosalign.evaluation.config_attacks import attack_parts, read_attacks
from cosalign.evaluation.items import UNPLACED, EvaluatedConfig, Item, SuitePart
from cosalign.evaluation.refusal_suites import refusal_part
from cosalign.store.storage import read_uri


def open_suites(
    config: RunConfig,
    taxonomy: Taxonomy,
    configs: Sequence[SafetyConfig],
    regions: Sequence[EvaluatedConfig],
    prompts: pa.Table,
) -> list[SuitePart]:
    """The suites of a run, in the order in which they are listed.

    Args:
        config: The run config.
        taxonomy: Its taxonomy.
        configs: The regions' configs as written.
        regions: The same as they are evaluated.
        prompts: The prompts table.

    Raises:
        DataError: A suite's rows are not as they should be.
    """
    group = config.evaluation
    parts: list[SuitePart] = []
    for benchmark in group.benchmarks:
        parts += benchmark_parts(benchmark, taxonomy, group.seed)
    if group.acceptance:
        parts += acceptance_parts(configs, taxonomy)
    parts += [refusal_part(suite, taxonomy, group.seed) for suite in group.refusals]
    if group.attacks is not None:
        held_out = _labelled_held_out(prompts, taxonomy)
        parts += attack_parts(regions, held_out, group.attacks, taxonomy, group.seed)
    return parts


def suites_identity(config: RunConfig, configs: Sequence[SafetyConfig]) -> Json:
    """What suites ask: files by content, datasets of the hub by what names them."""
    group = config.evaluation
    return {
        "acceptance": acceptance_identity(configs) if group.acceptance else None,
        "sources": [_source(suite) for suite in (*group.benchmarks, *group.refusals)],
        "attacks": None
        if group.attacks is None
        else [attack.model_dump(mode="json") for attack in read_attacks(group.attacks)],
    }


def _source(suite: SuiteSource) -> Json:
    settings = suite.model_dump(mode="json", exclude={"file", "mirror"})
    return [settings, None if suite.file is None else content_sha256(read_uri(suite.file))]


def _labelled_held_out(prompts: pa.Table, taxonomy: Taxonomy) -> list[Item]:
    columns = ["prompt_id", "text", "risk_mask", "known_mask", "split"]
    return [
        Item(
            UNPLACED, row["prompt_id"], row["text"], "allowed", None, row["risk_mask"],
            row["known_mask"],
        )
        for row in prompts.select(columns).to_pylist()
        if row["split"] == "held_out" and row["known_mask"] == taxonomy.full_mask
    ]  # fmt: skip
