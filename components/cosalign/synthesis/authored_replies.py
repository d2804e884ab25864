"""Candidate responses that people wrote, in place of a generator's.

Where no model at hand writes both what a config allows and a good way to decline, a shipped file of
replies does: the pairing then has something to choose between. They cost nothing, so they stand in
no ledger; they take part in everything else under their generator's name.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import prompt_id_of, row_id
from cosalign.domain.run_config import GeneratorSettings
from cosalign.domain.schemas import RESPONSES
from cosalign.store.storage import read_uri
from cosalign.synthesis.candidates import LabelledPrompt


def authored_candidates(
    prompts: list[LabelledPrompt],
    settings: GeneratorSettings,
    token_count: Callable[[str], int],
    counts: Counter[str],
) -> pa.Table:
    """The responses table's rows of an authored generator: every reply to a prompt drawn for.

    Args:
        prompts: The prompts.
        settings: The generator; ``replies`` is set.
        token_count: Length of a text in the base model's tokens.
        counts: Counts replies used and unused, and prompts without one.

    Raises:
        DataError: The file is malformed, or holds no reply to any of the prompts.
    """
    replies = _read(settings.replies or "")
    rows: list[dict[str, Any]] = []
    for prompt in prompts:
        own = replies.get(prompt.prompt_id, [])
        counts["prompts_without_authored_reply"] += not own
        rows += [
            _row(prompt, text, draw, settings.name, token_count) for draw, text in enumerate(own)
        ]
    if not rows:
        raise DataError(
            f"{settings.replies}: holds no reply to any of the {len(prompts)} prompts of the run; "
            "its prompts must be those of prompts.files, word for word"
        )
    counts["authored_replies_used"] += len(rows)
    counts["authored_replies_unused"] += sum(map(len, replies.values())) - len(rows)
    return pa.Table.from_pylist(rows, schema=RESPONSES)


def _row(
    prompt: LabelledPrompt,
    text: str,
    draw: int,
    generator: str,
    token_count: Callable[[str], int],
) -> dict[str, Any]:
    return {
        "response_id": row_id("authored response", [generator, prompt.prompt_id, text]),
        "prompt_id": prompt.prompt_id,
        "generator": generator,
        "config_id": None,
        "draw": draw,
        "text": text,
        "finish_reason": "stop",
        "tokens": token_count(text),
    }


def _read(file: str) -> dict[str, list[str]]:
    """Distinct replies by prompt id, in the file's order."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    # Not splitlines(): a JSON string may hold U+2028, which is no end of a line in JSONL.
    for number, line in enumerate(read_uri(file).decode("utf-8", "replace").split("\n"), 1):
        if line.strip():
            prompt, response = _parsed(line, f"{file}, line {number}")
            found[prompt_id_of(prompt)][response] = None
    return {prompt_id: list(texts) for prompt_id, texts in found.items()}


def _parsed(line: str, where: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError:
        raise DataError(f"{where}: not JSON; each line must be one JSON object") from None
    fields = row if isinstance(row, dict) else {}
    prompt, response = fields.get("prompt"), fields.get("response")
    if not (isinstance(prompt, str) and isinstance(response, str) and prompt and response.strip()):
        raise DataError(f"{where}: give 'prompt' and 'response', both texts that are not empty")
    return prompt, response
