"""Reads a benchmark file in the form of CoSAlign-Test: JSONL rows of config, prompt and risks.

Each row says ``allowed`` (the config), ``risks`` (the prompt's), ``prompt``, and may say ``type``
and ``split``. The type follows from the two sets, so where it is given it is checked and never
believed: a row whose type contradicts its sets was made under another taxonomy. Messages name rows
and categories, never a prompt.

Source: arXiv 2410.08968, section 6.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from cosalign.domain.errors import DataError, TaxonomyError
from cosalign.domain.fingerprint import prompt_id_of
from cosalign.domain.prompt_types import prompt_type
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.validation import StrictModel, validated


@dataclass(frozen=True)
class BenchmarkRow:
    """One checked row; ``split`` is seen, unseen or ``None`` where the file does not say."""

    allowed_mask: int
    risk_mask: int
    prompt_id: str
    text: str
    prompt_type: str
    split: str | None


@dataclass(frozen=True)
class Benchmark:
    """Rows in file order, each (config, prompt) once, and what was found beside them."""

    rows: list[BenchmarkRow]
    counts: Counter[str]


class _Row(StrictModel):
    allowed: tuple[str, ...]
    risks: tuple[str, ...]
    prompt: str = Field(min_length=1)
    type: Literal["allowed", "partial", "disallowed"] | None = None
    split: Literal["seen", "unseen"] | None = None


def read_benchmark(data: bytes, source: str, taxonomy: Taxonomy) -> Benchmark:
    """Parses a benchmark file.

    Args:
        data: JSONL, UTF-8.
        source: The file's name, for messages.
        taxonomy: Whose category names it must use.

    Raises:
        DataError: A row is not as it should be; the message names its number.
    """
    counts: Counter[str] = Counter()
    rows: dict[tuple[int, str], BenchmarkRow] = {}
    # Not splitlines(): a JSON string may hold U+2028, which is no end of a line in JSONL.
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if not line.strip():
            continue
        row = _checked(
            _parsed(line, f"{source}, row {number}"), f"{source}, row {number}", taxonomy
        )
        counts["benchmark_rows"] += 1
        if (row.allowed_mask, row.prompt_id) in rows:
            counts["benchmark_duplicates"] += 1
        rows.setdefault((row.allowed_mask, row.prompt_id), row)
    if not rows:
        raise DataError(f"{source}: holds no rows; correct evaluation.benchmark, or leave it out")
    return Benchmark(list(rows.values()), counts)


def _parsed(line: str, where: str) -> _Row:
    try:
        value: Any = json.loads(line)
    except ValueError:
        raise DataError(f"{where}: not JSON; each line must be one JSON object") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: a {type(value).__name__}; each line must be one JSON object")
    try:
        str(value.get("prompt")).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: the prompt is not valid UTF-8; save the file as UTF-8") from None
    return validated(_Row, value, where, DataError)


def _checked(row: _Row, where: str, taxonomy: Taxonomy) -> BenchmarkRow:
    allowed = _mask(row.allowed, f"{where}, allowed", taxonomy)
    risks = _mask(row.risks, f"{where}, risks", taxonomy)
    if allowed & taxonomy.catch_all:
        raise DataError(
            f"{where}, allowed: {taxonomy.names[-1]!r} is the catch-all and can never be allowed"
        )
    found = prompt_type(risks, allowed)
    if row.type not in (None, found):
        raise DataError(
            f"{where}: type {row.type!r} contradicts its sets, which make it {found!r}; "
            "correct the row, or use the taxonomy that the file was made with"
        )
    return BenchmarkRow(allowed, risks, prompt_id_of(row.prompt), row.prompt, found, row.split)


def _mask(names: tuple[str, ...], where: str, taxonomy: Taxonomy) -> int:
    try:
        return taxonomy.mask_of(names)
    except TaxonomyError as problem:
        raise DataError(f"{where}: {problem}") from None
