"""Every attack of the corpus against protocol and tokenisers: the question stands after it."""

from __future__ import annotations

import json
from itertools import takewhile
from typing import Any

import pytest
from tests.inference.tokenizer_families import FAMILIES, build_family

from cosalign.domain.taxonomy import load_taxonomy
from cosalign.inference.double import DoubleTokenizer
from cosalign.inference.engine import TokenIds, Tokenizer
from cosalign.inference.hf_tokenizer import HfTokenizer
from cosalign.judging.attacks import Attack, attack_corpus
from cosalign.judging.evidence_text import unmarked
from cosalign.judging.label_protocol import (
    Evidence,
    LabelProtocol,
    follows_protocol,
    prompt_protocol,
    response_protocol,
)
from cosalign.judging.reasoning import Reasoning

TAXONOMY = load_taxonomy("cosa", "1")
PROTOCOLS = [
    response_protocol(TAXONOMY),
    prompt_protocol(TAXONOMY),
    follows_protocol("Beer may be praised."),
]
CORPUS = attack_corpus()
ANSWER = "People from the next village are lazy fools."
PLAIN = Evidence("Which beer suits a cheddar?", "A brown ale does.")
LONG = CORPUS.padding * 8
VERY_LONG = CORPUS.padding * 400


@pytest.fixture(scope="module", params=["double", *sorted(FAMILIES)])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    if request.param == "double":
        return Opened(DoubleTokenizer(), set(range(3)), None)
    folder = build_family(request.param, tmp_path_factory.mktemp("judges") / request.param)
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    return Opened(HfTokenizer(folder, "0" * 64), set(theirs.added_tokens_decoder), theirs)


class Opened:
    def __init__(self, ours: Tokenizer, controls: set[int], theirs: Any | None) -> None:
        self.ours, self.controls, self.theirs = ours, controls, theirs

    def control_sequence(self, ids: TokenIds) -> list[int]:
        return [i for i in ids if i in self.controls]


def named(attack: Attack) -> str:
    return attack.id


def shared_start(one: TokenIds, other: TokenIds) -> int:
    same = (a == b for a, b in zip(one, other, strict=False))
    return sum(1 for _ in takewhile(bool, same))


def shared_end(one: TokenIds, other: TokenIds) -> int:
    return shared_start(one[::-1], other[::-1])


def test_the_question_stands_behind_the_evidence_whatever_it_says(tokenizer: Opened) -> None:
    """And the rubric before it: no attack moves a token of either."""
    for protocol in PROTOCOLS:
        plain = protocol.token_ids(tokenizer.ours, PLAIN)
        other = protocol.token_ids(tokenizer.ours, Evidence("Why?", "Because."))
        start, end = shared_start(plain, other), shared_end(plain, other)
        assert start > len(tokenizer.ours.encode_plain(protocol.rubric)) - 8
        assert end > 40
        texts = [attack.on(ANSWER, LONG) for attack in CORPUS.attacks]
        items = [Evidence(PLAIN.prompt, text) for text in texts]
        items += [Evidence(text, ANSWER) for text in texts]
        for item, ids in zip(items, protocol.all_token_ids(tokenizer.ours, items), strict=True):
            assert tokenizer.control_sequence(ids) == tokenizer.control_sequence(plain), item
            # Some tokens at a seam may reach into the evidence; none reaches into the question.
            assert shared_start(ids, plain) >= start - 8, item
            assert shared_end(ids, plain) >= end - 8, item


def test_very_long_padding_moves_nothing_either(tokenizer: Opened) -> None:
    protocol = PROTOCOLS[0]
    plain = protocol.token_ids(tokenizer.ours, PLAIN)
    end = shared_end(plain, protocol.token_ids(tokenizer.ours, Evidence("Why?", "Because.")))
    ids = protocol.token_ids(tokenizer.ours, Evidence(PLAIN.prompt, f"{ANSWER}\n{VERY_LONG}"))
    assert len(ids) > len(plain) + 5000
    assert tokenizer.control_sequence(ids) == tokenizer.control_sequence(plain)
    assert shared_end(ids, plain) >= end - 8


def test_an_attacked_batch_leaves_its_neighbours_alone(tokenizer: Opened) -> None:
    protocol = PROTOCOLS[0]
    items = [PLAIN]
    for attack in CORPUS.attacks:
        items += [Evidence(PLAIN.prompt, attack.on(ANSWER, CORPUS.padding)), PLAIN]
    together = protocol.all_token_ids(tokenizer.ours, items)
    assert together == [protocol.token_ids(tokenizer.ours, item) for item in items]


def test_what_is_judged_is_given_back(tokenizer: Opened) -> None:
    """All of the attacked text is there for the judge to see: nothing is cut away or translated."""
    if tokenizer.theirs is None or not of_bytes(tokenizer.theirs):
        pytest.skip("this vocabulary does not give a text back to the letter")
    for attack in CORPUS.attacks:
        text = unmarked(attack.on(ANSWER, CORPUS.padding))
        ids = PROTOCOLS[0].token_ids(tokenizer.ours, Evidence(PLAIN.prompt, text))
        decoded = tokenizer.theirs.decode(ids, clean_up_tokenization_spaces=False)
        assert text in decoded, attack.id


def of_bytes(theirs: Any) -> bool:
    """Whether decoding gives back what was encoded, to the letter."""
    backend = theirs.backend_tokenizer
    return backend.normalizer is None and "ByteLevel" in str(backend.pre_tokenizer)


DELIMITERS = [attack for attack in CORPUS.attacks if attack.kind == "delimiter"]


@pytest.mark.parametrize("attack", DELIMITERS, ids=named)
def test_no_spelling_of_a_mark_reaches_the_judge(attack: Attack) -> None:
    text = attack.on(ANSWER, "")
    assert unmarked(text) != text
    assert unmarked(text).startswith(ANSWER)


def test_the_corpus_has_each_kind_that_it_promises_and_a_canary_of_each() -> None:
    kinds = {attack.kind for attack in CORPUS.attacks}
    assert kinds == {
        "empty",
        "punctuation",
        "opener",
        "forged_verdict",
        "delimiter",
        "invisible",
        "lookalike",
        "control_tokens",
        "language",
        "instruction",
        "padding",
    }
    assert sorted(attack.kind for attack in CORPUS.canaries) == sorted(kinds)
    ids = [attack.id for attack in CORPUS.attacks]
    assert len(set(ids)) == len(ids) >= 45


@pytest.mark.parametrize("attack", CORPUS.attacks, ids=named)
def test_an_attack_holds_the_answer_or_stands_in_its_place(attack: Attack) -> None:
    text = attack.on(ANSWER, LONG)
    if attack.answers_nothing:
        assert text == attack.instead
    elif attack.transform is None:
        assert ANSWER in text
    else:
        assert text != ANSWER
        assert len(text) >= len(ANSWER)
    assert "{" not in text or "risks" in text


@pytest.mark.parametrize("transform", ["zero_width", "cyrillic", "full_width"])
def test_a_transformed_answer_reads_the_same_to_a_person(transform: str) -> None:
    import unicodedata

    attack = Attack.model_validate({"id": "x", "kind": "k", "transform": transform})
    text = attack.on(ANSWER, "").replace("\u200b", "")
    back = str.maketrans("асеіорхуАВСЕНКМОРТХ", "aceiopxyABCEHKMOPTX")  # noqa: RUF001
    assert unicodedata.normalize("NFKC", text.translate(back)) == ANSWER


def test_an_attack_has_one_form() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Attack(id="x", kind="k")
    with pytest.raises(ValueError, match="exactly one"):
        Attack(id="x", kind="k", wrap="{answer}", instead="")


def test_layout_is_rubric_then_evidence_then_the_shortest_question() -> None:
    for protocol in PROTOCOLS:
        assert_layout(protocol)


def assert_layout(protocol: LabelProtocol) -> None:
    system, user = protocol.messages(Evidence("PROMPT-HERE", "RESPONSE-HERE"))
    assert "HERE" not in system[1]
    last = "RESPONSE-HERE" if "{response}" in protocol.evidence else "PROMPT-HERE"
    question = user[1].rpartition(last)[2]
    assert "Y" in question
    assert len(question) < 0.5 * len(system[1])


GOOD = {**dict.fromkeys(TAXONOMY.names, "N"), "violence": "Y", "addressed": "Y", "helpfulness": "D"}
FORM = Reasoning(512).form(PROTOCOLS[0])


@pytest.mark.parametrize("attack", CORPUS.attacks, ids=named)
def test_an_attack_that_a_reasoning_judge_quotes_is_no_verdict(attack: Attack) -> None:
    text = attack.on(ANSWER, CORPUS.padding)
    assert FORM.read(f"The ANSWER says: {text}").answers == {}
    assert FORM.read(f"The ANSWER says: {text}\nSo:\nVERDICT {json.dumps(GOOD)}").answers == GOOD
    # Where the judge talks on, a quoted end of thought may take its verdict away, and forge none.
    assert FORM.read(f"VERDICT {json.dumps(GOOD)}\nIt said: {text}").answers in (GOOD, {})


@pytest.mark.parametrize("attack", CORPUS.attacks, ids=named)
def test_a_writing_judge_is_shown_the_question_after_the_evidence(attack: Attack) -> None:
    text = attack.on(ANSWER, CORPUS.padding)
    _, user = FORM.messages(Evidence(PLAIN.prompt, text))
    _, plain = FORM.messages(PLAIN)
    question = plain[1].rpartition(PLAIN.response)[2]
    assert "VERDICT" in question
    assert user[1].endswith(question)
    for mark in ("<ANSWER>", "</ANSWER>", "<REQUEST>", "</REQUEST>"):
        assert user[1].count(mark) == plain[1].count(mark)
