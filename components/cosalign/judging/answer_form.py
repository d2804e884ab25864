"""How a judge that writes is asked, and what of its text counts as an answer.

A text can hold anything: several verdicts, one that the judged text forged and the judge quoted, or
none. So each form says where the verdict that counts stands, and whatever is not on the menu there
is unknown, with a reason that a machine can count (law 4):

======================  ================================================================
``no_answer``           the engine gave nothing, and no reason of its own
``truncated``           the length limit came first, so that the last verdict is not known
``no_verdict``          the text holds none
``not_json``            what stands in its place cannot be read
``contradiction``       it says two things at once
``missing``             it leaves this question out
``off_menu``            it answers this question with none of the allowed answers
``undecided``           the judge says itself that it cannot decide
``unmapped``            the judge's own categories cannot say it
======================  ================================================================

All but the last two are failures, and asked again by the next run that does this work; they do not
make a finished step run again, as failures that pass do (``runtime/transient_failures.py``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cosalign.inference.engine import Messages
from cosalign.judging.label_protocol import Evidence, LabelProtocol

NO_ANSWER = "no_answer"
TRUNCATED = "truncated"
NO_VERDICT = "no_verdict"
NOT_JSON = "not_json"
CONTRADICTION = "contradiction"
MISSING = "missing"
OFF_MENU = "off_menu"
UNDECIDED = "undecided"
UNMAPPED = "unmapped"

FINAL = frozenset({UNDECIDED, UNMAPPED})
"""Reasons that asking again would not mend."""


@dataclass(frozen=True)
class Reading:
    """What a text says.

    Attributes:
        answers: By question, its answer.
        reasons: By question, why it has none.
        failure: Why nothing could be read, where that is so.
    """

    answers: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    failure: str | None = None

    def reason(self, question: str) -> str | None:
        """Why a question has no answer; ``None`` where it has one."""
        if question in self.answers:
            return None
        return self.failure or self.reasons.get(question, MISSING)


class AnswerForm(Protocol):
    """One protocol's questions as a judge that writes is asked them."""

    @property
    def digest(self) -> str:
        """Identity of all that the reading of an answer depends on, 64 hex digits."""
        ...

    @property
    def max_tokens(self) -> int:
        """Length limit of the answer."""
        ...

    def messages(self, evidence: Evidence) -> Messages:
        """The request."""
        ...

    def read(self, text: str) -> Reading:
        """What a finished text says."""
        ...


class AnswerForms(Protocol):
    """A way of asking: makes the form of any protocol's questions."""

    @property
    def name(self) -> str:
        """As the run config calls it: ``reasoning`` or ``guard:NAME``."""
        ...

    @property
    def digest(self) -> str:
        """Identity of the way of asking, 64 hex digits."""
        ...

    def form(self, protocol: LabelProtocol) -> AnswerForm | None:
        """The form of a protocol's questions; ``None`` where it cannot be asked this way."""
        ...


def json_objects(text: str) -> Iterator[dict[str, Any] | None]:
    """The JSON objects of a text in their order, none from inside another.

    What begins like an object and cannot be read, or holds a key twice, is ``None``.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    position = text.find("{")
    while position >= 0:
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            value, end = None, position + 1
        yield value
        position = text.find("{", end)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError
    return dict(pairs)
