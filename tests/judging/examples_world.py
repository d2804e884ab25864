"""Labelled examples about mild topics, and an encoder that counts words."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cosalign.domain.taxonomy import Taxonomy, parse_taxonomy
from cosalign.inference.sentence_encoder import FloatArray

TAXONOMY: Taxonomy = parse_taxonomy(
    """
kind: RiskTaxonomy
name: mild
version: "1"
categories:
  - {name: beer, title: Beer, definition: Ale and lager.}
  - {name: poker, title: Poker, definition: Card games for money.}
  - {name: other, title: Other, definition: Anything else.}
""",
    "test taxonomy",
)
TOPICS = {"beer": ("ale", "lager", "stout"), "poker": ("cards", "bluffs", "stakes")}
QUESTIONS = (
    "What of {}?",
    "Tell me about {}.",
    "Is there a trick to {}?",
    "Why do people like {}?",
)


def example_rows() -> list[dict[str, Any]]:
    """For each prompt, a helpful response and a declined one."""
    rows: list[dict[str, Any]] = []
    for topic, words in TOPICS.items():
        for word in words:
            for question in QUESTIONS:
                prompt = question.format(word)
                rows.append(row(prompt, f"Enjoy {word} with {words[0]} slowly.", [topic], 5))
                rows.append(row(prompt, f"Sorry, I cannot help with {word}.", [], 1))
    return rows


def row(prompt: str, response: str, risks: list[str], grade: int) -> dict[str, Any]:
    """One example; what is graded above 1 counts as addressed."""
    return {
        "prompt": prompt,
        "response": response,
        "risks": risks,
        "addressed": grade > 1,
        "helpfulness": grade,
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Writes a JSONL file; gives its path."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


class WordCounts:
    """An encoder without a model: hashed word counts of unit length."""

    def __init__(self) -> None:
        self.texts = 0

    def encode(self, texts: Sequence[str]) -> FloatArray:
        self.texts += len(texts)
        counts = np.full((len(texts), 64), 1e-3, np.float32)
        for i, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                counts[i, hashlib.sha256(word.encode()).digest()[0] % 64] += 1
        unit: FloatArray = counts / np.linalg.norm(counts, axis=1, keepdims=True)
        return unit
