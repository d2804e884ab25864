"""The server engine and a real HTTP server that answers as the double and misbehaves on demand."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from email.utils import formatdate
from itertools import islice
from pathlib import Path

import pytest
from starlette.responses import Response
from tests.openai_server import Body, Fault, OpenAiServer, openai_server, raw, status

from cosalign.domain.errors import ConfigError, CosalignError, EngineUnavailable, UserError
from cosalign.domain.run_config import EngineGroup
from cosalign.domain.run_config.engine import ServerSettings
from cosalign.inference.engine import (
    Engine,
    Generation,
    GenerationRequest,
    Labelling,
    LabelRequest,
    Sampling,
)
from cosalign.inference.models import resolve_model
from cosalign.inference.open_engine import open_engine
from cosalign.inference.server_client import FAULTS
from cosalign.inference.server_engine import LABEL_ATTEMPTS

WITH_TOKENS = "served:double@1?tokenizer=double:x"
WITH_MESSAGES = "served:double@1"


@pytest.fixture
def server() -> Iterator[OpenAiServer]:
    with openai_server() as running:
        yield running


def opened(server: OpenAiServer, uri: str = WITH_TOKENS, **settings: object) -> Engine:
    given = {"base_url": server.url, "timeout_seconds": 60.0, "patience_seconds": 60.0, **settings}
    group = EngineGroup(
        kind="server", max_model_len=2048, server=ServerSettings.model_validate(given)
    )
    return open_engine(resolve_model(uri, Path()), group)


def requests(engine: Engine, count: int, temperature: float = 1.0) -> list[GenerationRequest]:
    found = []
    for i in range(count):
        messages = (("user", f"What are the odds of {i} aces?"),)
        ids = engine.tokenizer.encode_chat(messages)
        drawn = Sampling(12, temperature, 0.9)
        found.append(GenerationRequest(f"r{i}", ids, drawn, 2**63 + i, messages))
    return found


def label_requests(engine: Engine, count: int) -> list[LabelRequest]:
    yes, no, a = (engine.tokenizer.encode_trusted(text)[0] for text in (" Y", " N", " A"))
    return [
        LabelRequest(f"r{i}", engine.tokenizer.encode_plain(f"Aces: {i}"), ((yes, no), (a, no)))
        for i in range(count)
    ]


def by_id(answers: Iterator[Generation] | Iterator[Labelling]) -> dict[str, object]:
    return {answer.request_id: answer for answer in answers}


def until_it_fails(answers: Iterator[Generation]) -> tuple[list[str], CosalignError | None]:
    landed = []
    try:
        for answer in answers:
            landed.append(answer.request_id)  # noqa: PERF401
    except CosalignError as problem:
        return landed, problem
    return landed, None


def test_it_says_what_it_is(server: OpenAiServer) -> None:
    with opened(server) as engine:
        assert engine.model_digest == resolve_model(WITH_TOKENS, Path()).digest
        assert (engine.description, engine.dtype) == ("server test", "served")
        assert engine.max_model_len == 2048


@pytest.mark.parametrize("uri", [WITH_TOKENS, WITH_MESSAGES])
def test_texts_are_the_models_own(server: OpenAiServer, uri: str) -> None:
    with opened(server, uri) as engine, opened(server) as planned:
        # The double stands behind the server, so it knows what the server must have said.
        asked = [
            GenerationRequest(r.request_id, r.token_ids, r.sampling, r.seed % 2**63)
            for r in requests(planned, 40)
        ]
        expected = by_id(server.engine.generate(asked))
        assert by_id(engine.generate(requests(engine, 40))) == expected
        assert {body["model"] for body in server.asked} == {"double"}


def test_labels_and_their_probabilities_are_the_models_own(server: OpenAiServer) -> None:
    with opened(server) as engine:
        asked = label_requests(engine, 20)
        menu = tuple(sorted({token for a in asked[0].alphabets for token in a}))
        whole = [LabelRequest(r.request_id, r.token_ids, (menu, menu)) for r in asked]
        expected = {answer.request_id: answer for answer in server.engine.label(whole)}
        for answer in engine.label(asked):
            right = expected[answer.request_id]
            assert answer.answers == right.answers
            for alphabet, mass, masses in zip(
                asked[0].alphabets, answer.masses, right.masses, strict=True
            ):
                assert mass == pytest.approx([masses[menu.index(token)] for token in alphabet])
        body = server.asked[0]
        assert body["min_tokens"] == body["max_tokens"] == 2
        assert body["ignore_eos"] is True
        assert body["logprob_token_ids"] == body["allowed_token_ids"] == list(menu)


def test_a_seed_goes_with_draws_alone_and_defaults_are_said_aloud(server: OpenAiServer) -> None:
    with opened(server) as engine:
        list(engine.generate(requests(engine, 1, temperature=0.0)))
        list(engine.generate(requests(engine, 1)))
    greedy, drawn = server.asked
    assert "seed" not in greedy
    assert drawn["seed"] == 0
    assert greedy["top_k"] == 0
    assert greedy["repetition_penalty"] == 1.0


def test_the_limit_of_length_goes_by_the_servers_name(server: OpenAiServer) -> None:
    with opened(server, WITH_MESSAGES, length_field="max_completion_tokens") as engine:
        list(engine.generate(requests(engine, 1)))
    assert server.asked[0]["max_completion_tokens"] == 12
    assert "max_tokens" not in server.asked[0]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (raw("<html>busy</html>"), "garbled_answer"),
        (raw("[1]"), "garbled_answer"),
        (raw("{}"), "garbled_answer"),
        (raw("[" * 100_000), "garbled_answer"),
        (raw("no gzip", {"content-encoding": "gzip"}), "garbled_answer"),
        (raw('{"choices": []}'), "garbled_answer"),
        (raw('{"choices": [{"message": {"content": "x"}, "finish_reason": "?"}]}'),
         "garbled_answer"),
        (raw('{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}'),
         "empty_answer"),
        (raw('{"choices": [{"message": {"content": " "}, "finish_reason": "length"}]}'),
         "empty_answer"),
        (raw('{"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}'),
         "content_filter"),
        (status(400, code="context_length_exceeded"), "too_long"),
        (status(400, message="This model's maximum context length is 9."), "too_long"),
        (status(400, code="content_filter"), "content_filter"),
        (status(413), "too_long"),
    ],
)  # fmt: skip
def test_a_row_without_an_answer_has_failed_and_is_not_asked_again(
    server: OpenAiServer, fault: Fault, reason: str
) -> None:
    server.faults = [fault]
    with opened(server, WITH_MESSAGES, max_concurrency=1) as engine:
        answers = list(engine.generate(requests(engine, 3)))
    assert answers[0] == Generation("r0", "", 0, "error", reason)
    assert [answer.finish_reason != "error" for answer in answers[1:]] == [True, True]
    assert len(server.asked) == 3


def test_an_empty_completion_is_an_answer_if_a_token_was_written(server: OpenAiServer) -> None:
    ended = '{"choices": [{"text": "", "token_ids": [2], "finish_reason": "stop"}]}'
    nothing = '{"choices": [{"text": "", "token_ids": [], "finish_reason": "stop"}]}'
    server.faults = [raw(ended), raw(nothing)]
    with opened(server, max_concurrency=1) as engine:
        answers = list(engine.generate(requests(engine, 2)))
    assert answers == [
        Generation("r0", "", 1, "stop"),
        Generation("r1", "", 0, "error", "empty_answer"),
    ]


@pytest.mark.parametrize(
    "fault",
    [status(429), status(500), status(503, {"retry-after": "0.2"}), status(408), "drop", "hang"],
)
def test_what_passes_is_asked_again_and_no_good_answer_twice(
    server: OpenAiServer, fault: Fault
) -> None:
    server.faults = [None, fault, None, fault, fault]
    # Long enough for a busy machine: an answer that comes too late is one that is paid for twice.
    with opened(server, timeout_seconds=4.0 if fault == "hang" else 60.0) as engine:
        answers = list(engine.generate(requests(engine, 30)))
    assert len({answer.request_id for answer in answers}) == 30
    assert all(answer.finish_reason != "error" for answer in answers)
    assert set(server.answered.values()) == {1}
    assert len(server.asked) == 33


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_holds_all_requests_back(server: OpenAiServer, date: bool) -> None:
    # A date is cut to the second, and opening the engine takes a part of one.
    after = formatdate(time.time() + 4, usegmt=True) if date else "0.8"
    server.faults = [status(429, {"retry-after": after})]
    with opened(server, max_concurrency=1) as engine:
        started = time.monotonic()
        answers = list(engine.generate(requests(engine, 2)))
        waited = time.monotonic() - started
    assert len(answers) == 2
    assert waited >= (0.9 if date else 0.8)


def test_a_row_that_the_server_cannot_answer_does_not_hold_up_the_rest(
    server: OpenAiServer,
) -> None:
    def poison(body: Body) -> Response | None:
        return Response(status_code=500) if "7 aces" in str(body["messages"]) else None

    server.always = poison
    server.delay = 0.1
    with opened(server, WITH_MESSAGES, max_concurrency=4, patience_seconds=1.5) as engine:
        answers = by_id(engine.generate(requests(engine, 12)))
    assert answers["r7"] == Generation("r7", "", 0, "error", "server_error")
    assert sum("7 aces" in str(body["messages"]) for body in server.asked) >= FAULTS
    assert len(server.answered) == 11


def test_a_server_that_stays_away_ends_the_work_and_what_was_answered_is_handed_out(
    server: OpenAiServer,
) -> None:
    server.die_after = 9
    with opened(server, patience_seconds=1.0) as engine:
        landed, problem = until_it_fails(engine.generate(requests(engine, 200)))
    assert isinstance(problem, EngineUnavailable)
    assert "no answer for 1 s" in str(problem)
    assert problem.exit_code == 75
    assert len(landed) == len(set(landed)) == sum(server.answered.values()) == 9


def test_a_server_that_only_throttles_is_given_up_too(server: OpenAiServer) -> None:
    server.always = status(429)
    with (
        opened(server, patience_seconds=1.0) as engine,
        pytest.raises(EngineUnavailable, match=r"server_error, 429"),
    ):
        list(engine.generate(requests(engine, 3)))


def test_the_window_finds_what_the_server_bears(server: OpenAiServer) -> None:
    server.capacity, server.delay = 3, 0.3
    with opened(server, max_concurrency=64) as engine:
        answers = list(engine.generate(requests(engine, 36)))
    assert {answer.finish_reason for answer in answers} <= {"stop", "length"}
    assert set(server.answered.values()) == {1}
    # It starts with more than the server bears; a window that stayed there would go on so.
    assert 0 < server.refused < 36


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(401, code="invalid_api_key"), "refuses us .401: invalid_api_key."),
        (status(403), "refuses us .403.; set models.engine.server.api_key_env"),
        (status(404, code="model_not_found"), "no such model or path"),
        (status(400, code="bad", message="the prompt was 'SECRET WORDS'"), "refuses the request"),
        (status(400, code="SECRET WORDS"), "refuses the request"),
        (status(302), "refuses the request .302."),
        (status(429, code="insufficient_quota"), "quota is used up"),
    ],
)
def test_what_the_user_has_to_fix_ends_the_work_with_one_message(
    server: OpenAiServer, fault: Fault, message: str
) -> None:
    server.faults = [None, None, None, fault]
    with opened(server) as engine:
        landed, problem = until_it_fails(engine.generate(requests(engine, 1000)))
    assert isinstance(problem, UserError)
    assert re.search(message, str(problem))
    assert server.url in str(problem)
    assert "SECRET" not in str(problem)
    # Those on their way were paid for, so they are handed out; no new one was sent.
    assert len(landed) == sum(server.answered.values()) >= 3
    assert len(server.asked) < 1000


def test_mistakes_show_when_the_engine_is_opened(
    server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"no model 'other'; it has: double"):
        opened(server, "served:other")
    with pytest.raises(ConfigError, match="JUDGE_KEY, and that variable is not set"):
        opened(server, api_key_env="JUDGE_KEY")
    server.key = "right"
    monkeypatch.setenv("JUDGE_KEY", "wrong")
    with pytest.raises(ConfigError, match=r"check the key in \$JUDGE_KEY") as caught:
        opened(server, api_key_env="JUDGE_KEY")
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("JUDGE_KEY", "right")
    opened(server, api_key_env="JUDGE_KEY").close()
    with pytest.raises(ConfigError, match=r"set models\.engine\.server\.base_url"):
        open_engine(resolve_model(WITH_TOKENS, Path()), EngineGroup(kind="server"))
    with pytest.raises(ConfigError, match="has weights to run"):
        open_engine(resolve_model("double:x", Path()), EngineGroup(kind="server"))
    with pytest.raises(EngineUnavailable, match=r"no answer for 0\.5 s \(no_connection\)"):
        opened(server, base_url="http://127.0.0.1:9/v1", patience_seconds=0.5)


def test_a_server_without_a_list_of_models_is_asked_all_the_same(server: OpenAiServer) -> None:
    server.lists_models = False
    with opened(server) as engine:
        assert len(list(engine.generate(requests(engine, 2)))) == 2
        assert (engine.description, engine.max_model_len) == ("server", 2048)


def test_labels_are_refused_where_they_cannot_be_had(server: OpenAiServer) -> None:
    with opened(server) as planned:
        asked = label_requests(planned, 3)
    with (
        opened(server, WITH_MESSAGES) as engine,
        pytest.raises(ConfigError, match=r"judging\.mode=reasoning"),
    ):
        engine.label(asked)
    assert server.asked == []
    server.token_level = False
    with (
        opened(server, max_concurrency=1) as engine,
        pytest.raises(ConfigError, match=r"ignored the limits.*judging\.mode=reasoning"),
    ):
        list(engine.label(asked))
    assert len(server.asked) == LABEL_ATTEMPTS


@pytest.mark.parametrize("which", [0, 1])
def test_a_single_garbled_labelling_is_that_rows_failure(server: OpenAiServer, which: int) -> None:
    garbled = raw('{"choices": [{"text": "Y N", "finish_reason": "length"}]}')
    server.faults = [garbled if i == which else None for i in range(2)]
    with opened(server, max_concurrency=1) as engine:
        answers = list(engine.label(label_requests(engine, 3)))
    assert answers[which] == Labelling(f"r{which}", (), (), "garbled_answer")
    assert [len(answer.answers) for answer in answers] == [0 if i == which else 2 for i in range(3)]


def test_what_does_not_fit_is_not_sent(server: OpenAiServer) -> None:
    with opened(server) as engine:
        long = GenerationRequest("long", (5,) * 2037, Sampling(12), 0)
        fits = GenerationRequest("fits", (5,) * 2036, Sampling(12), 0)
        empty = GenerationRequest("empty", (), Sampling(12), 0)
        answers = by_id(engine.generate([long, fits, empty]))
        labelled = list(engine.label([LabelRequest("long", (5,) * 2047, ((5, 6), (5, 6)))]))
    assert answers["long"] == Generation("long", "", 0, "error", "too_long")
    assert answers["empty"] == Generation("empty", "", 0, "error", "empty_prompt")
    assert labelled == [Labelling("long", (), (), "too_long")]
    assert [len(body["prompt"]) for body in server.asked] == [2036]


def test_an_abandoned_stream_leaves_nothing_and_a_closed_engine_refuses(
    server: OpenAiServer,
) -> None:
    server.delay = 0.05
    engine = opened(server)
    assert len(list(islice(engine.generate(requests(engine, 100)), 1))) == 1
    assert len(list(engine.generate(requests(engine, 3)))) == 3
    assert len(server.asked) < 60
    engine.close()
    engine.close()
    with pytest.raises(CosalignError, match="closed"):
        engine.generate([])
