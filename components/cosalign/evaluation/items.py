"""What is evaluated: (config, prompt) items from the regions' configs and from a benchmark.

The regions' configs are asked about on the run's own held-out prompts, the benchmark on its own.
Both may name the same allowed set; they stay two configs here, since their prompts and the makers
of their labels differ, while their answers and verdicts are shared through the ledgers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.config_rendering import (
    RenderedConfig,
    render_categorical,
    render_safety_config,
)
from cosalign.domain.errors import DataError, SafetyConfigError
from cosalign.domain.prompt_types import FREEFORM, prompt_type
from cosalign.domain.run_config import EvaluationGroup
from cosalign.domain.safety_config import SafetyConfig, parse_safety_config
from cosalign.domain.taxonomy import Taxonomy
from cosalign.evaluation.balanced_choice import choose_balanced
from cosalign.evaluation.benchmark import BenchmarkRow, read_benchmark
from cosalign.evaluation.item_table import BENCHMARK, CONTROL
from cosalign.store.storage import list_uris, read_uri

UNPLACED = -1
"""The config number of an item that stands in no evaluation yet."""


@dataclass(frozen=True)
class EvaluatedConfig:
    """A config that items are asked under.

    Attributes:
        names: The names it goes by: one a file, where several regions demand the same.
        regions: The regions that demand it; empty for a benchmark's.
        suite: What its items belong to: ``control``, or ``benchmark:NAME``.
        rendered: As the model reads it (rendering 0).
    """

    names: tuple[str, ...]
    regions: tuple[str, ...]
    suite: str
    rendered: RenderedConfig

    @property
    def label(self) -> str:
        """Its names in one string, unique in a run."""
        return ", ".join(self.names)


@dataclass(frozen=True)
class Item:
    """One prompt under one config.

    Attributes:
        config: Its number.
        prompt_id: The prompt.
        text: Its text.
        prompt_type: What it is under the config.
        split: A benchmark's seen or unseen.
        risk_mask: The prompt's categories.
        known_mask: Which of them are known; none where nobody labelled it.
        turn: What the user says, where it is more than the prompt; the judge sees the prompt.
        rule: What s means; see ``suite_rules``.
        claimed_mask: What an attack claims to be allowed.
    """

    config: int
    prompt_id: str
    text: str
    prompt_type: str
    split: str | None = None
    risk_mask: int = 0
    known_mask: int = 0
    turn: str | None = None
    rule: str = "config"
    claimed_mask: int = 0


@dataclass(frozen=True)
class SuitePart:
    """One config of a suite, and its items, whose config has no number yet."""

    config: EvaluatedConfig
    items: list[Item]


@dataclass(frozen=True)
class EvaluationItems:
    """All items; ``item.config`` is an index into ``configs``."""

    configs: list[EvaluatedConfig]
    items: list[Item]
    counts: Counter[str]

    @cached_property
    def prompt_texts(self) -> dict[str, str]:
        """Text by prompt id."""
        return {item.prompt_id: item.text for item in self.items}

    def config_of(self, item: Item) -> EvaluatedConfig:
        """The config that an item is asked under."""
        return self.configs[item.config]


def read_region_configs(files: Sequence[str], taxonomy: Taxonomy) -> list[EvaluatedConfig]:
    """:func:`region_configs` of :func:`parse_region_configs`."""
    return region_configs(parse_region_configs(files, taxonomy), taxonomy)


def region_configs(configs: Iterable[SafetyConfig], taxonomy: Taxonomy) -> list[EvaluatedConfig]:
    """The regions' configs as they are evaluated; those that demand the same are one."""
    by_digest: dict[str, list[SafetyConfig]] = {}
    for config in configs:
        by_digest.setdefault(config.digest, []).append(config)
    found = [_region_config(same, taxonomy) for same in by_digest.values()]
    return sorted(found, key=lambda config: config.names)


def parse_region_configs(files: Sequence[str], taxonomy: Taxonomy) -> list[SafetyConfig]:
    """Reads the regions' configs as they were written.

    Args:
        files: Files, or folders of ``*.yaml``, local, ``file://`` or ``gs://``.
        taxonomy: The run's taxonomy, which the configs must speak in.

    Raises:
        SafetyConfigError: A file is wrong, or one name stands for two demands.
        DataError: An address holds no config.
    """
    known = {f"{taxonomy.name} {taxonomy.version}": taxonomy}
    found: list[SafetyConfig] = []
    digest_of: dict[str, str] = {}
    for uri in _config_uris(files):
        config = parse_safety_config(read_uri(uri).decode("utf-8", "replace"), uri, known)
        if digest_of.setdefault(config.name, config.digest) != config.digest:
            raise SafetyConfigError(
                f"{uri}: metadata.name {config.name!r} is taken by another config; rename one, so "
                "that a report can tell them apart"
            )
        found.append(config)
    return found


def evaluation_items(
    regions: list[EvaluatedConfig],
    benchmark: bytes | None,
    prompts: pa.Table,
    settings: EvaluationGroup,
    taxonomy: Taxonomy,
    parts: Sequence[SuitePart] = (),
) -> EvaluationItems:
    """Chooses the items.

    Args:
        regions: See :func:`read_region_configs`.
        benchmark: Content of ``settings.benchmark``.
        prompts: The prompts table.
        settings: How many a config, and the seed.
        taxonomy: The run's taxonomy.
        parts: Those of suites.

    Raises:
        DataError: There is nothing to evaluate, or the benchmark is wrong.
    """
    result = EvaluationItems(list(regions), [], Counter())
    held_out = _held_out(prompts)
    result.counts["held_out_prompts"] = len(held_out)
    for number, config in enumerate(regions):
        candidates = _held_out_items(number, config.rendered, held_out, taxonomy)
        result.items.extend(choose_balanced(candidates, settings.prompts_per_config, settings.seed))
    if benchmark is not None:
        _add_benchmark(result, benchmark, prompts, settings, taxonomy)
    for part in parts:
        number = len(result.configs)
        result.configs.append(part.config)
        result.items.extend(replace(item, config=number) for item in part.items)
    if not result.items:
        raise _nothing(regions, settings, len(held_out))
    _one_text_a_prompt(result)
    _count(result)
    return result


def _config_uris(files: Sequence[str]) -> list[str]:
    uris: list[str] = []
    for file in files:
        found = [file] if file.endswith((".yml", ".json")) else list_uris(file, ".yaml")
        if not found:
            raise DataError(f"{file}: holds no *.yaml file; correct configs.files")
        uris += found
    return list(dict.fromkeys(uris))


def _region_config(same: list[SafetyConfig], taxonomy: Taxonomy) -> EvaluatedConfig:
    return EvaluatedConfig(
        names=tuple(sorted({config.name for config in same})),
        regions=tuple(sorted({config.region for config in same})),
        suite=CONTROL,
        rendered=render_safety_config(same[0], taxonomy),
    )


def _held_out(prompts: pa.Table) -> list[dict[str, object]]:
    columns = ["prompt_id", "text", "risk_mask", "known_mask", "split"]
    rows: list[dict[str, object]] = prompts.select(columns).to_pylist()
    return [row for row in rows if row["split"] == "held_out"]


def _held_out_items(
    number: int, config: RenderedConfig, rows: list[dict[str, object]], taxonomy: Taxonomy
) -> list[Item]:
    """Held-out prompts with their type; one whose labels are not all known has no type."""
    items = []
    for row in rows:
        kind = FREEFORM
        if config.allowed_mask is not None:
            if row["known_mask"] != taxonomy.full_mask:
                continue
            kind = prompt_type(int(str(row["risk_mask"])), config.allowed_mask)
        risks, known = (int(str(row[name])) for name in ("risk_mask", "known_mask"))
        items.append(
            Item(number, str(row["prompt_id"]), str(row["text"]), kind, None, risks, known)
        )
    return items


def _add_benchmark(
    result: EvaluationItems,
    data: bytes,
    prompts: pa.Table,
    settings: EvaluationGroup,
    taxonomy: Taxonomy,
) -> None:
    source = settings.benchmark or "benchmark"
    benchmark = read_benchmark(data, source, taxonomy)
    suite = BENCHMARK + PurePosixPath(source).stem
    result.counts.update(benchmark.counts)
    trained = set(prompts.filter(pc.field("split") == "train")["prompt_id"].to_pylist())
    by_config: dict[int, list[BenchmarkRow]] = {}
    for row in benchmark.rows:
        by_config.setdefault(row.allowed_mask, []).append(row)
    for allowed in sorted(by_config):
        number = len(result.configs)
        result.configs.append(_benchmark_config(allowed, suite, taxonomy))
        chosen = choose_balanced(
            by_config[allowed], settings.benchmark_rows_per_config, settings.seed
        )
        result.items.extend(
            Item(
                number,
                row.prompt_id,
                row.text,
                row.prompt_type,
                row.split,
                row.risk_mask,
                taxonomy.full_mask,
            )
            for row in chosen
        )
        result.counts["benchmark_items_in_training"] += sum(r.prompt_id in trained for r in chosen)


def _benchmark_config(allowed: int, suite: str, taxonomy: Taxonomy) -> EvaluatedConfig:
    name = "+".join(taxonomy.names_of(allowed)) or "none"
    rendered = render_categorical(taxonomy, allowed, 0)
    return EvaluatedConfig((f"benchmark:{name}",), (), suite, rendered)


def _nothing(regions: list[EvaluatedConfig], settings: EvaluationGroup, held_out: int) -> DataError:
    if not regions:
        return DataError(
            "there is nothing to evaluate: no region's config and no benchmark; set configs.files "
            "or evaluation.benchmark"
        )
    return DataError(
        f"there is nothing to evaluate: {len(regions)} configs, {held_out} held-out prompts, "
        f"evaluation.prompts_per_config {settings.prompts_per_config}; raise "
        "prompts.held_out_share or evaluation.prompts_per_config, or set evaluation.benchmark"
    )


def _one_text_a_prompt(result: EvaluationItems) -> None:
    """Prompts that differ in case or white space are one prompt; the first spelling is asked."""
    first: dict[str, str] = {}
    for i, item in enumerate(result.items):
        text = first.setdefault(item.prompt_id, item.text)
        if text != item.text:
            result.items[i] = replace(item, text=text)


def _count(result: EvaluationItems) -> None:
    result.counts["configs"] = len(result.configs)
    result.counts["items"] = len(result.items)
    for item in result.items:
        result.counts[f"items_{result.config_of(item).suite.partition(':')[0]}"] += 1
        result.counts[f"items_{item.prompt_type}"] += 1
