"""Builds benchmarks in the form of CoSAlign-Test for any taxonomy, from a run's held-out prompts.

The composition is a table: for each config, how many prompts of which type, or of which label set.
Prompts come from the split that the data engine held out, so none of them, nor what nearly equals
them, was trained on; a prompt with an unknown label has no type and is never taken. What the table
asks and the prompts cannot give is an error that says how much is missing, unless less will do.

Source: arXiv 2410.08968, section 6 and its appendix on CoSAlign-Test's composition.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from cosalign.domain.errors import DataError, TaxonomyError
from cosalign.domain.fingerprint import content_sha256, seed_of
from cosalign.domain.prompt_types import prompt_type
from cosalign.domain.schemas import TAXONOMY_KEY
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml

Type = Literal["allowed", "partial", "disallowed"]
Row = dict[str, Any]


class LabelSetCount(StrictModel):
    """How many prompts of one label set."""

    risks: tuple[str, ...]
    count: int = Field(ge=1)


class ConfigComposition(StrictModel):
    """One config's share.

    Attributes:
        allowed: Its allowed risks.
        split: Whether training saw it, where that is known.
        prompts: How many prompts of each type.
        label_sets: How many prompts of each label set, in place of types.
    """

    allowed: tuple[str, ...]
    split: Literal["seen", "unseen"] | None = None
    prompts: dict[Type, int] = {}
    label_sets: tuple[LabelSetCount, ...] = ()

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        if bool(self.prompts) == bool(self.label_sets):
            raise ValueError("give either prompts (by type) or label_sets, for each config")
        if any(count < 0 for count in self.prompts.values()):
            raise ValueError("a number of prompts is 0 or more")
        return self


class Composition(StrictModel):
    """A benchmark's composition; ``seed`` chooses among the prompts that fit."""

    configs: tuple[ConfigComposition, ...] = Field(min_length=1)
    seed: int = 0


@dataclass(frozen=True)
class BuiltBenchmark:
    """A benchmark.

    Attributes:
        rows: In the form of CoSAlign-Test.
        short: What was asked and is missing, as ``(config, what, missing)``.
        available: Held-out prompts whose labels are all known.
    """

    rows: list[Row]
    short: list[tuple[str, str, int]]
    available: int


def parse_composition(text: str, source: str) -> Composition:
    """Reads a composition table.

    Raises:
        DataError: It is wrong; the message names the field.
    """
    return validated(Composition, parse_yaml(text, source, DataError), source, DataError)


def build_benchmark(
    composition: Composition, prompts: pa.Table, taxonomy: Taxonomy
) -> BuiltBenchmark:
    """Chooses the prompts of each config.

    Args:
        composition: What is wanted.
        prompts: A run's prompts table.
        taxonomy: Which it must speak in.

    Raises:
        DataError: The table speaks in another taxonomy, or a config's risks are none.
    """
    _check_taxonomy(prompts, taxonomy)
    held_out = _held_out(prompts, composition.seed, taxonomy)
    rows: list[Row] = []
    short: list[tuple[str, str, int]] = []
    for number, config in enumerate(composition.configs):
        allowed = _mask(config.allowed, f"configs[{number}].allowed", taxonomy)
        if allowed & taxonomy.catch_all:
            raise DataError(f"configs[{number}].allowed: the catch-all can never be allowed")
        name = "+".join(taxonomy.names_of(allowed)) or "none"
        for what, count, fitting in _wanted(config, number, allowed, held_out, taxonomy):
            chosen = fitting[:count]
            if len(chosen) < count:
                short.append((name, what, count - len(chosen)))
            rows += [_row(config, row, allowed, taxonomy) for row in chosen]
    return BuiltBenchmark(rows, short, len(held_out))


def benchmark_bytes(rows: list[Row], *, parquet: bool) -> bytes:
    """Rows as JSONL, or as Parquet."""
    if not parquet:
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def benchmark_manifest(
    built: BuiltBenchmark, composition: Composition, data: bytes, taxonomy: Taxonomy
) -> Row:
    """What a benchmark's file is, from what, and what it lacks."""
    return {
        "sha256": content_sha256(data),
        "rows": len(built.rows),
        "taxonomy": {
            "name": taxonomy.name, "version": taxonomy.version, "digest": taxonomy.digest,
        },
        "composition": composition.model_dump(mode="json"),
        "types": dict(sorted(Counter(row["type"] for row in built.rows).items())),
        "held_out_prompts": built.available,
        "short": [list(entry) for entry in built.short],
    }  # fmt: skip


def _check_taxonomy(prompts: pa.Table, taxonomy: Taxonomy) -> None:
    stated = (prompts.schema.metadata or {}).get(TAXONOMY_KEY.encode(), b"").decode()
    if stated and stated != taxonomy.digest:
        raise DataError(
            f"the prompts table speaks in another taxonomy ({stated[:12]}) than "
            f"{taxonomy.name} {taxonomy.version} ({taxonomy.digest[:12]}); name that one"
        )


def _held_out(prompts: pa.Table, seed: int, taxonomy: Taxonomy) -> list[Row]:
    """Held-out prompts with all labels, in an order that depends on seed and prompt alone."""
    columns = ["prompt_id", "text", "risk_mask", "known_mask", "split"]
    found = [
        row
        for row in prompts.select(columns).to_pylist()
        if row["split"] == "held_out" and row["known_mask"] == taxonomy.full_mask
    ]
    return sorted(found, key=lambda row: seed_of("benchmark-prompt", [seed, row["prompt_id"]]))


def _wanted(
    config: ConfigComposition, number: int, allowed: int, held_out: list[Row], taxonomy: Taxonomy
) -> list[tuple[str, int, list[Row]]]:
    """What a config asks for, how much of it, and which prompts fit."""
    if config.prompts:
        return [
            (kind, count, [r for r in held_out if prompt_type(r["risk_mask"], allowed) == kind])
            for kind, count in config.prompts.items()
        ]
    masks = [
        _mask(entry.risks, f"configs[{number}].label_sets[{i}].risks", taxonomy)
        for i, entry in enumerate(config.label_sets)
    ]
    return [
        (
            "+".join(taxonomy.names_of(mask)) or "benign",
            entry.count,
            [row for row in held_out if row["risk_mask"] == mask],
        )
        for entry, mask in zip(config.label_sets, masks, strict=True)
    ]


def _row(config: ConfigComposition, prompt: Row, allowed: int, taxonomy: Taxonomy) -> Row:
    split = {} if config.split is None else {"split": config.split}
    return {
        **split,
        "allowed": list(taxonomy.names_of(allowed)),
        "risks": list(taxonomy.names_of(prompt["risk_mask"])),
        "type": prompt_type(prompt["risk_mask"], allowed),
        "prompt": prompt["text"],
    }


def _mask(names: tuple[str, ...], where: str, taxonomy: Taxonomy) -> int:
    try:
        return taxonomy.mask_of(names)
    except TaxonomyError as problem:
        raise DataError(f"{where}: {problem}") from None
