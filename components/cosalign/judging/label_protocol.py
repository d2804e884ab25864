"""The label protocol: which questions one request answers, in which words and which order.

All criteria of a text are answered in one request, as one token each in a fixed order, behind a
static rubric whose prefix is shared by every request. Questions, their order and their wording
change what the answers mean, so the protocol's digest is part of every verdict's key.

The criteria are data (``criteria/*.yaml``); this module fills in the taxonomy and makes prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from cosalign.domain.errors import ModelError
from cosalign.domain.fingerprint import fingerprint, seed_of
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.engine import TokenIds, Tokenizer
from cosalign.judging.criteria_file import (
    YES_NO,
    CriteriaFile,
    QuestionSettings,
    read_criteria,
)
from cosalign.judging.evidence_text import unmarked

__all__ = [
    "YES_NO",
    "Evidence",
    "LabelProtocol",
    "QuestionSettings",
    "config_change_protocol",
    "config_protocol",
    "follows_protocol",
    "prompt_protocol",
    "response_protocol",
    "shuffled_order",
    "single_protocol",
    "taxonomy_protocol",
]


@dataclass(frozen=True)
class Evidence:
    """What is judged: a prompt, with a response or alone."""

    prompt: str
    response: str = ""


@dataclass(frozen=True)
class LabelProtocol:
    """Criteria filled in for one taxonomy (and one policy text, for ``follows``).

    Attributes:
        id: Which criteria file.
        version: Its version.
        rubric: The static text, the longest shared prefix of all requests.
        evidence: Template of the changing text.
        answer_prefix: What the judge's answer begins with, so that the next token is a label.
        questions: In the order in which they are answered.
        categories: Those of them that are the taxonomy's categories, in bit order.
        frame: The evidence without the words that ask for an answer, for judges that write.
    """

    id: str
    version: str
    rubric: str
    evidence: str
    answer_prefix: str
    questions: tuple[QuestionSettings, ...]
    categories: tuple[str, ...]
    frame: str = ""

    @property
    def risks(self) -> int:
        """How many categories are asked for."""
        return len(self.categories)

    @cached_property
    def digest(self) -> str:
        """Identity of the protocol, 64 hex digits."""
        return fingerprint(
            "label-protocol",
            {
                "id": self.id,
                "version": self.version,
                "rubric": self.rubric,
                "evidence": self.evidence,
                "answer_prefix": self.answer_prefix,
                "questions": [[q.id, list(q.answers)] for q in self.questions],
            },
        )

    def index(self, question: str) -> int | None:
        """The position of a question, or ``None`` where the protocol does not ask it."""
        ids = [q.id for q in self.questions]
        return ids.index(question) if question in ids else None

    def messages(self, evidence: Evidence) -> tuple[tuple[str, str], ...]:
        """The request as (role, content): the rubric, then what is judged and the question."""
        return (("system", self.rubric), ("user", _filled(self.evidence, evidence)))

    def framed(self, evidence: Evidence) -> str:
        """What is judged between its marks, without a question."""
        return _filled(self.frame, evidence)

    def token_ids(self, tokenizer: Tokenizer, evidence: Evidence) -> TokenIds:
        """The request's prompt as token ids, ending with the answer prefix."""
        return self.all_token_ids(tokenizer, [evidence])[0]

    def all_token_ids(self, tokenizer: Tokenizer, items: Sequence[Evidence]) -> list[TokenIds]:
        """:meth:`token_ids` of each item, at a fraction of the cost: the rubric is read once."""
        prefix = tokenizer.encode_trusted(self.answer_prefix)
        chats = tokenizer.encode_chats([self.messages(item) for item in items])
        return [(*chat, *prefix) for chat in chats]

    def alphabets(self, tokenizer: Tokenizer) -> tuple[TokenIds, ...]:
        """For each question, the token of each answer.

        Raises:
            ModelError: An answer is not one token in this model's vocabulary.
        """
        one = {a: _one_token(tokenizer, a) for q in self.questions for a in q.answers}
        return tuple(tuple(one[a] for a in q.answers) for q in self.questions)


def response_protocol(taxonomy: Taxonomy, order: Sequence[str] | None = None) -> LabelProtocol:
    """Risks of a response, whether it addresses the prompt, and its helpfulness.

    Args:
        taxonomy: Whose categories are asked for.
        order: Question ids in another order than bits, ``addressed``, ``helpfulness``: another
            protocol with a digest of its own, which shows how far a label leans on those before it.

    Raises:
        ValueError: The order is no permutation of the questions.
    """
    return taxonomy_protocol("response", taxonomy, order)


def prompt_protocol(taxonomy: Taxonomy, order: Sequence[str] | None = None) -> LabelProtocol:
    """Risks that a harmful answer to a prompt would hold; see :func:`response_protocol`."""
    return taxonomy_protocol("prompt", taxonomy, order)


def taxonomy_protocol(
    name: str, taxonomy: Taxonomy, order: Sequence[str] | None = None
) -> LabelProtocol:
    """The protocol ``response``, ``prompt``, ``config`` or ``config_change``, by name.

    See :func:`response_protocol`.
    """
    criteria = read_criteria(name)
    questions = {question.id: question for question in criteria.questions_on(taxonomy)}
    if order is None:
        order = tuple(questions)
    elif sorted(order) != sorted(questions):
        raise ValueError(f"an order has to hold each of {', '.join(questions)} once")
    return _protocol(criteria, [questions[question] for question in order], taxonomy)


def single_protocol(name: str, taxonomy: Taxonomy, question: str) -> LabelProtocol:
    """One question of :func:`taxonomy_protocol`, answered by one token.

    A category asked alone is described by its own words only, so that its answers hold under any
    taxonomy that has it; the catch-all is told what the others are.

    Raises:
        LookupError: The protocol has no such question.
    """
    criteria = read_criteria(name)
    found = [known for known in criteria.questions_on(taxonomy) if known.id == question]
    if not found:
        raise LookupError(f"protocol {name} asks no question {question!r}")
    return _protocol(criteria, found, taxonomy)


def config_protocol(taxonomy: Taxonomy) -> LabelProtocol:
    """Which categories a policy permits; the policy stands where a prompt stands elsewhere."""
    return taxonomy_protocol("config", taxonomy)


def config_change_protocol(taxonomy: Taxonomy) -> LabelProtocol:
    """In which categories a new policy permits more than an old one.

    The old policy stands where a prompt stands elsewhere, the new one where a response does.
    """
    return taxonomy_protocol("config_change", taxonomy)


def follows_protocol(policy: str) -> LabelProtocol:
    """Whether a response follows a free-form config; the policy's text is part of the rubric."""
    criteria = read_criteria("follows")
    questions = [criterion.question for criterion in criteria.questions]
    return _protocol(criteria, questions, None, policy)


def shuffled_order(protocol: LabelProtocol, seed: int) -> tuple[str, ...]:
    """A seeded order of a protocol's questions.

    The catch-all stays behind the other categories, of which its definition speaks as "above".
    """
    ids = [question.id for question in protocol.questions]
    order = sorted(ids, key=lambda name: seed_of("question-order", [seed, name]))
    if not protocol.categories:
        return tuple(order)
    last = protocol.categories[-1]
    order.remove(last)
    place = max((order.index(name) + 1 for name in protocol.categories[:-1]), default=0)
    return (*order[:place], last, *order[place:])


def _protocol(
    criteria: CriteriaFile,
    questions: Iterable[QuestionSettings],
    taxonomy: Taxonomy | None,
    policy: str | None = None,
) -> LabelProtocol:
    asked = tuple(questions)
    names = {question.id for question in asked}
    rubric = criteria.rubric_for(asked, taxonomy)
    return LabelProtocol(
        id=criteria.id,
        version=criteria.version,
        rubric=rubric if policy is None else rubric.replace("{policy}", unmarked(policy)),
        evidence=f"{criteria.frame}\n{criteria.instruction_for(asked)}",
        answer_prefix=criteria.answer_prefix,
        questions=asked,
        categories=tuple(n for n in taxonomy.names if n in names) if taxonomy else (),
        frame=criteria.frame,
    )


def _filled(template: str, evidence: Evidence) -> str:
    return template.format(prompt=unmarked(evidence.prompt), response=unmarked(evidence.response))


def _one_token(tokenizer: Tokenizer, answer: str) -> int:
    # With a leading space first: that is how a word follows the answer prefix in most vocabularies.
    for form in (f" {answer}", answer):
        ids = tokenizer.encode_trusted(form)
        if len(ids) == 1:
            return ids[0]
    raise ModelError(
        f"the judge's tokenizer has no single token for the label {answer!r}; choose another judge"
    )
