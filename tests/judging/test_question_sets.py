"""Which questions a protocol asks: all in an order, or one alone; and what each choice changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.run_config import EngineGroup, ScoringGroup
from cosalign.domain.schemas import VERDICT_LEDGER
from cosalign.domain.taxonomy import Category, Taxonomy, load_taxonomy
from cosalign.inference.double import DoubleTokenizer
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import resolve_model
from cosalign.judging.engine_judge import EngineJudge
from cosalign.judging.label_protocol import (
    Evidence,
    LabelProtocol,
    config_protocol,
    follows_protocol,
    prompt_protocol,
    response_protocol,
    shuffled_order,
    single_protocol,
    taxonomy_protocol,
)
from cosalign.judging.verdict import binary_labels, risk_labels
from cosalign.store.storage import open_storage

TAXONOMY = load_taxonomy("cosa", "1")
RESPONSE, PROMPT = response_protocol(TAXONOMY), prompt_protocol(TAXONOMY)
CONFIG = config_protocol(TAXONOMY)
QUESTIONS = [question.id for question in RESPONSE.questions]
SINGLE = {name: single_protocol("response", TAXONOMY, name) for name in QUESTIONS}
BEER = Category(name="beer", title="Beer", definition="Content that praises beer.")


def with_beer() -> Taxonomy:
    *named, last = TAXONOMY.categories
    return TAXONOMY.model_copy(update={"version": "2", "categories": (*named, BEER, last)})


def test_the_published_wordings_stand() -> None:
    # A changed word is a new version in the criteria file: verdicts given to the old words must not
    # pass for verdicts on the new. Raise the version there, then the digest here.
    digests = {
        protocol.id: (protocol.version, protocol.digest[:16])
        for protocol in (RESPONSE, PROMPT, CONFIG, follows_protocol("Beer is fine."))
    }
    assert digests == {
        "response": ("2", "8acd08c74be3f61c"),
        "prompt": ("1", "1e8bcfe9f61050b7"),
        "config": ("1", "7393c93c9891316c"),
        "follows": ("1", "b1bbc0b37b540507"),
    }


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_single_question_is_one_token_of_its_own_protocol(question: str) -> None:
    single = SINGLE[question]
    assert [q.id for q in single.questions] == [question]
    assert len(single.alphabets(DoubleTokenizer())) == 1
    assert single.categories == ((question,) if question in TAXONOMY.names else ())
    assert "{" not in single.rubric + single.evidence.format(prompt="P", response="R")
    assert "1. " in single.rubric
    assert "2. " not in single.rubric


def test_every_set_of_questions_has_a_digest_of_its_own() -> None:
    protocols: list[LabelProtocol] = [RESPONSE, PROMPT, *SINGLE.values()]
    protocols += [single_protocol("prompt", TAXONOMY, name) for name in TAXONOMY.names]
    protocols.append(response_protocol(TAXONOMY, QUESTIONS[::-1]))
    assert len({protocol.digest for protocol in protocols}) == len(protocols)


def test_a_category_asked_alone_is_the_same_question_under_any_taxonomy_that_has_it() -> None:
    grown = with_beer()
    for name in TAXONOMY.names[:-1]:
        assert single_protocol("response", grown, name).digest == SINGLE[name].digest
    # The catch-all is what no other category covers, so that one more category changes it.
    last = TAXONOMY.names[-1]
    assert single_protocol("response", grown, last).digest != SINGLE[last].digest


def test_the_catch_all_asked_alone_is_told_what_is_not_its() -> None:
    rubric = SINGLE[TAXONOMY.names[-1]].rubric
    assert all(category.title in rubric for category in TAXONOMY.categories)
    assert all(c.definition not in rubric for c in TAXONOMY.categories[:-1])


@pytest.mark.parametrize("question", TAXONOMY.names)
def test_a_refusal_is_ruled_on_in_every_form(question: str) -> None:
    assert "refusal" in RESPONSE.rubric
    assert "refusal does not contain this" in SINGLE[question].rubric


def test_a_grade_is_asked_for_where_it_stands() -> None:
    assert ", then A to F" in RESPONSE.evidence
    turned = response_protocol(TAXONOMY, QUESTIONS[::-1])
    assert "but number 1, A to F" in turned.evidence
    assert "grade" in SINGLE["helpfulness"].evidence
    assert "grade" not in SINGLE["addressed"].evidence


def test_the_frame_is_the_evidence_without_its_question() -> None:
    for protocol in (RESPONSE, PROMPT, follows_protocol("Beer is fine."), *SINGLE.values()):
        assert protocol.evidence.startswith(protocol.frame)
        assert protocol.frame.endswith(">")


@pytest.mark.parametrize("order", [QUESTIONS[1:], [*QUESTIONS, QUESTIONS[0]], ["violence"], []])
def test_an_order_holds_every_question_once(order: list[str]) -> None:
    with pytest.raises(ValueError, match="has to hold each of financial_crime_theft, "):
        response_protocol(TAXONOMY, order)


def test_an_unknown_question_is_refused() -> None:
    with pytest.raises(LookupError, match="protocol prompt asks no question 'addressed'"):
        single_protocol("prompt", TAXONOMY, "addressed")


@given(st.integers(0, 2**31), st.sampled_from([RESPONSE, PROMPT]))
def test_a_shuffled_order_is_a_permutation_with_the_catch_all_behind_its_others(
    seed: int, protocol: LabelProtocol
) -> None:
    order = shuffled_order(protocol, seed)
    assert order == shuffled_order(protocol, seed)
    assert sorted(order) == sorted(question.id for question in protocol.questions)
    last = protocol.categories[-1]
    assert all(order.index(name) < order.index(last) for name in protocol.categories[:-1])


def test_shuffling_shuffles() -> None:
    orders = {shuffled_order(RESPONSE, seed) for seed in range(20)}
    assert len(orders) == 20
    assert len({order[0] for order in orders}) > 3


def test_statements_are_numbered_in_the_order_asked() -> None:
    order = shuffled_order(RESPONSE, 5)
    turned = response_protocol(TAXONOMY, order)
    for number, name in enumerate(order, 1):
        if name in TAXONOMY.names:
            title = TAXONOMY.categories[TAXONOMY.names.index(name)].title
            assert f"{number}. The ANSWER contains this: {title}." in turned.rubric


@given(st.permutations(QUESTIONS), st.lists(st.floats(0, 1), min_size=10, max_size=10))
def test_labels_read_from_any_order_are_the_same(order: list[str], shares: list[float]) -> None:
    by_name = dict(zip(QUESTIONS, shares, strict=True))
    turned = response_protocol(TAXONOMY, order)

    def ledger(protocol: LabelProtocol) -> pa.Table:
        masses = [[1 - by_name[q.id], by_name[q.id]] + [0.0] * (len(q.answers) - 2)
                  for q in protocol.questions]  # fmt: skip
        row = {"key": bytes(16), "labels": [], "probabilities": masses, "outside_mass": [],
               "failure": None, "engine": "", "dtype": "", "created": 0}  # fmt: skip
        return pa.Table.from_pylist([row], schema=VERDICT_LEDGER)

    settings = ScoringGroup()
    plain = risk_labels(ledger(RESPONSE), RESPONSE, settings)
    other = risk_labels(ledger(turned), turned, settings)
    assert plain.risk_mask.tolist() == other.risk_mask.tolist()
    np.testing.assert_array_equal(plain.probability, other.probability)
    assert (
        binary_labels(ledger(turned), turned, "addressed", settings).value.tolist()
        == binary_labels(ledger(RESPONSE), RESPONSE, "addressed", settings).value.tolist()
    )


def test_orders_and_single_questions_are_judged_and_kept_apart(tmp_path: Path) -> None:
    items = [Evidence("Which beer?", "A brown ale."), Evidence("Which dice?", "Loaded ones.")]
    model = resolve_model("double:judge", tmp_path)
    with EngineHost(EngineGroup(kind="double", max_model_len=16384)) as host:
        judge = EngineJudge(host, open_storage(str(tmp_path)), model)
        turned = response_protocol(TAXONOMY, shuffled_order(RESPONSE, 1))
        for protocol in (RESPONSE, turned, SINGLE["violence"]):
            done = judge.judge(protocol, items, "judge")
            assert done.made == len(items)
            assert judge.judge(protocol, items, "judge").made == 0
            assert {len(row) for row in done.rows.column("labels").to_pylist()} == {
                len(protocol.questions)
            }


def test_protocols_go_by_their_files_names() -> None:
    assert taxonomy_protocol("prompt", TAXONOMY) == PROMPT
    assert taxonomy_protocol("response", TAXONOMY) == RESPONSE
