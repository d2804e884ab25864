"""Reads prompts and decides which are kept, counting each that is not.

Nothing is dropped without a count: the funnel (read, empty, duplicate, too short, too long, held
out by name, over the limit) is what a data card is made of. Two prompts are the same if their
normalised texts are (NFKC, case folded, white space collapsed); the first one read is kept as it
was written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import normalise_text, prompt_id_of, seed_of
from cosalign.domain.run_config import PromptsGroup
from cosalign.store.storage import read_uri

CHARACTERS_PER_TOKEN = 40
"""No tokenizer packs more characters of real text into a token; longer texts are not tokenised."""


@dataclass(frozen=True)
class Prompt:
    """One kept prompt; ``risks`` are those that its file gives, if it is asked for them."""

    prompt_id: str
    text: str
    source: str
    risks: tuple[str, ...] | None = None


@dataclass
class PromptSelection:
    """The kept prompts, sorted by id, and the funnel that led to them."""

    prompts: list[Prompt] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def select_prompts(settings: PromptsGroup, token_count: Callable[[str], int]) -> PromptSelection:
    """Reads, deduplicates and bounds the prompts of a run.

    Args:
        settings: The run config's group.
        token_count: Length of a text in the base model's tokens.

    Raises:
        DataError: A file is missing or malformed, or no prompt is left.
    """
    if not settings.files:
        raise DataError("prompts.files is empty; name at least one JSONL file of prompts")
    held_out = {row.prompt_id for row in _rows(settings.held_out_files, settings.field, None)}
    selection = PromptSelection()
    kept: dict[str, Prompt] = {}
    for prompt in _rows(settings.files, settings.field, settings.labels_field):
        reason = _reason_to_drop(prompt, kept, held_out, settings, token_count)
        selection.counts["prompts_read"] += 1
        if reason:
            selection.counts[f"prompts_{reason}"] += 1
        else:
            kept[prompt.prompt_id] = prompt
    selection.prompts = _limited(kept, settings)
    if len(selection.prompts) < len(kept):
        selection.counts["prompts_over_limit"] = len(kept) - len(selection.prompts)
    selection.counts["prompts_kept"] = len(selection.prompts)
    if not selection.prompts:
        raise DataError(f"no prompt is left of {dict(selection.counts)}; loosen the prompts group")
    return selection


def held_out_split(prompt_id: str, settings: PromptsGroup) -> bool:
    """Whether a prompt is held out for evaluation: by content, so that growth moves none."""
    draw = seed_of("held-out", [settings.seed, prompt_id]) / 2**63
    return draw < settings.held_out_share


def _reason_to_drop(
    prompt: Prompt,
    kept: dict[str, Prompt],
    held_out: set[str],
    settings: PromptsGroup,
    token_count: Callable[[str], int],
) -> str | None:
    if not normalise_text(prompt.text):
        return "empty"
    if prompt.prompt_id in kept:
        return "duplicate"
    if prompt.prompt_id in held_out:
        return "contaminated"
    if len(prompt.text) > CHARACTERS_PER_TOKEN * settings.max_tokens:
        return "too_long"
    tokens = token_count(prompt.text)
    if tokens < settings.min_tokens:
        return "too_short"
    return "too_long" if tokens > settings.max_tokens else None


def _limited(kept: dict[str, Prompt], settings: PromptsGroup) -> list[Prompt]:
    ids = sorted(kept)
    if settings.limit is not None and len(ids) > settings.limit:
        ids.sort(key=lambda i: seed_of("limit", [settings.seed, i]))
        ids = sorted(ids[: settings.limit])
    return [kept[i] for i in ids]


def _rows(files: Iterable[str], field_name: str, labels_field: str | None) -> Iterator[Prompt]:
    for file in files:
        source = file.rpartition("/")[2]
        data = read_uri(file).decode("utf-8", "surrogateescape")
        # Not splitlines(): a JSON string may hold U+2028, which is no end of a line in JSONL.
        for number, line in enumerate(data.split("\n"), 1):
            if line.strip():
                where = f"{file}, line {number}"
                row = _row(line, field_name, where)
                text = _text(row, field_name, where)
                risks = None if labels_field is None else _risks(row, labels_field, where)
                yield Prompt(prompt_id_of(text), text, source, risks)


def _row(line: str, field_name: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON; each line must be one JSON object") from None
    if not isinstance(row, dict) or field_name not in row:
        known = ", ".join(sorted(row)) if isinstance(row, dict) else type(row).__name__
        raise DataError(
            f"{where}: no field {field_name!r} (found {known}); set prompts.field to its name"
        )
    return row


def _risks(row: dict[str, Any], labels_field: str, where: str) -> tuple[str, ...]:
    risks = row.get(labels_field)
    if not isinstance(risks, list) or not all(isinstance(name, str) for name in risks):
        raise DataError(
            f"{where}: field {labels_field!r} must list the prompt's risks by name, [] for none; "
            "correct it, or leave prompts.labels_field out to have the judge label prompts"
        )
    return tuple(risks)


def _text(row: dict[str, Any], field_name: str, where: str) -> str:
    value = row[field_name]
    if not isinstance(value, str):
        raise DataError(
            f"{where}: field {field_name!r} is a {type(value).__name__}, not a string; correct it"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: field {field_name!r} is not valid UTF-8; convert the file"
        ) from None
    return value
