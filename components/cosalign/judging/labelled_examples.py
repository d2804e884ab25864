"""Labelled examples: what a classifier judge learns from, and what any judge is measured on.

One JSONL row an example: a prompt, a response to it, and what a careful reader says of the response
in the label protocol's terms. Messages name rows and categories, never a text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from pydantic import Field

from cosalign.domain.errors import DataError, TaxonomyError
from cosalign.domain.fingerprint import content_sha256, prompt_id_of, seed_of
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.validation import StrictModel, validated
from cosalign.judging.label_protocol import Evidence, QuestionSettings
from cosalign.store.storage import read_uri


class LabelledExample(StrictModel):
    """One example.

    Attributes:
        prompt: The prompt.
        response: The response.
        risks: Categories that the response contains.
        addressed: Whether it gives what the prompt asks for.
        helpfulness: 0 to 5.
        prompt_risks: Categories of the prompt; where null, those of the responses that address it.
    """

    prompt: str = Field(min_length=1)
    response: str
    risks: tuple[str, ...]
    addressed: bool
    helpfulness: int = Field(ge=0, le=5)
    prompt_risks: tuple[str, ...] | None = None

    @cached_property
    def prompt_id(self) -> str:
        """The prompt's identity."""
        return prompt_id_of(self.prompt)

    @property
    def evidence(self) -> Evidence:
        """The example as a judge sees it."""
        return Evidence(self.prompt, self.response)

    def answer(self, question: QuestionSettings) -> int:
        """The right answer to a question about the response, as an index into its answers."""
        if question.id == "addressed":
            return int(self.addressed)
        if question.id == "helpfulness":
            return self.helpfulness
        return int(question.id in self.risks)


@dataclass(frozen=True)
class LabelledExamples:
    """A file of examples; ``digest`` is the SHA-256 of its content."""

    rows: tuple[LabelledExample, ...]
    digest: str

    @cached_property
    def prompt_ids(self) -> frozenset[str]:
        """Identities of all prompts in it."""
        return frozenset(row.prompt_id for row in self.rows)

    @cached_property
    def prompt_labels(self) -> dict[str, tuple[str, frozenset[str]]]:
        """By prompt id, a prompt and its risks; a prompt with none known is left out."""
        found: dict[str, tuple[str, frozenset[str]]] = {}
        for row in self.rows:
            risks = row.prompt_risks if row.prompt_risks is not None else row.risks
            if row.prompt_risks is not None or row.addressed:
                text, known = found.get(row.prompt_id, (row.prompt, frozenset()))
                found[row.prompt_id] = (text, known | set(risks))
        return found

    def sample(self, count: int, seed: int) -> tuple[LabelledExample, ...]:
        """At most ``count`` rows, by seeded hash of their content."""
        ordered = sorted(
            self.rows, key=lambda row: seed_of("example", [seed, row.prompt, row.response])
        )
        return tuple(ordered[:count])

    def refuse_overlap(self, prompt_ids: set[str]) -> None:
        """Refuses a run that would judge prompts which its judge was fitted on.

        Raises:
            DataError: A prompt is among the examples.
        """
        both = sorted(self.prompt_ids & prompt_ids)
        if both:
            raise DataError(
                f"{len(both)} prompts of the run stand in judging.examples too (the first is "
                f"{both[0]}), so the judge would be asked what it was told; take them out of one"
            )


def read_examples(uri: str, taxonomy: Taxonomy) -> LabelledExamples:
    """Reads a file of examples.

    Args:
        uri: JSONL, local or ``gs://``.
        taxonomy: Whose category names it must use.

    Raises:
        DataError: A row is not as it should be; the message names its number.
    """
    data = read_uri(uri)
    rows = []
    # Not splitlines(): a JSON string may hold U+2028, which is no end of a line in JSONL.
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        if line.strip():
            rows.append(_row(line, f"{uri}, row {number}", taxonomy))
    if not rows:
        raise DataError(f"{uri}: holds no rows; correct judging.examples")
    return LabelledExamples(tuple(rows), content_sha256(data))


def _row(line: str, where: str, taxonomy: Taxonomy) -> LabelledExample:
    try:
        value = json.loads(line)
    except ValueError:
        raise DataError(f"{where}: not JSON; each line must be one JSON object") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: a {type(value).__name__}; each line must be one JSON object")
    row = validated(LabelledExample, value, where, DataError)
    try:
        taxonomy.mask_of((*row.risks, *(row.prompt_risks or ())))
    except TaxonomyError as problem:
        raise DataError(f"{where}: {problem}") from None
    return row
