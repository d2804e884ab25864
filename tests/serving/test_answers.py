"""From the upstream's bytes to the caller's, however they are cut, and whatever is wrong."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.world import Running, World, eventually

from cosalign.serving.answers import AnswerForm, StreamTranslator, whole_answer
from cosalign.serving.leak_guard import LeakGuard
from cosalign.serving.refusals import Refusal

POLICY = "Speak freely of beer and of the history of pubs; decline to speak of gambling odds."
FORM = AnswerForm("1", "cosalign", "fp", 5, 1)
FORM_OF_TWO = AnswerForm("1", "cosalign", "fp", 5, 2)


def guard() -> LeakGuard:
    return LeakGuard(POLICY, 48)


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def piece(text: str, index: int = 0, reason: str | None = None, form: str = "plain") -> bytes:
    said: Any = {"delta": {"content": text}} if form == "chat" else {"text": text}
    if form != "vllm":
        return event({"choices": [{"index": index, **said, "finish_reason": reason}]})
    # To the letter as vLLM 0.32 writes it: compact, and letters as they are.
    ended = {"logprobs": None, "finish_reason": reason, "stop_reason": None, "token_ids": None}
    head = {"id": "cmpl-1f", "object": "text_completion", "created": 1, "model": "0" * 64}
    body = {**head, "choices": [{"index": index, **said, **ended}]}
    compact = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return b"data: " + compact.encode() + b"\n\n"


def upstream(pieces: list[str], form: str = "plain") -> bytes:
    body = b"".join(piece(text, form=form) for text in pieces)
    usage = event({"choices": [], "usage": {"prompt_tokens": 987654321, "completion_tokens": 3}})
    return body + piece("", reason="stop", form=form) + usage + b"data: [DONE]\n\n"


def said(written: bytes, index: int = 0) -> tuple[str, str | None]:
    """The text of a choice, and why it ended."""
    assert written.endswith(b"data: [DONE]\n\n")
    text, reason = "", None
    for line in written.split(b"\n\n")[:-2]:
        for choice in json.loads(line.removeprefix(b"data: "))["choices"]:
            if choice["index"] == index:
                assert reason is None
                text += choice["delta"].get("content") or ""
                reason = choice["finish_reason"]
    return text, reason


@given(
    pieces=st.lists(st.text(max_size=12), max_size=12),
    cuts=st.lists(st.integers(0, 4000), max_size=20),
    form=st.sampled_from(["plain", "chat", "vllm"]),
    crlf=st.booleans(),
)
def test_a_stream_says_the_same_however_it_is_cut(
    pieces: list[str], cuts: list[int], form: str, crlf: bool
) -> None:
    data = upstream(pieces, form)
    if crlf:
        data = data.replace(b"\n\n", b"\r\n\r\n")
    translator = StreamTranslator(FORM, guard, wants_usage=False)
    places = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    written = b"".join(translator.feed(data[a:b]) for a, b in pairwise(places))
    translator.close()
    assert said(written) == ("".join(pieces), "stop")
    assert translator.tokens == 3
    assert b"987654321" not in written


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_stream_that_ends_early_is_noticed(cut: int) -> None:
    events = upstream(["a", "b"]).split(b"\n\n")[:-1]
    translator = StreamTranslator(FORM, guard, wants_usage=False)
    translator.feed(b"\n\n".join(events[:-cut]) + b"\n\n")
    with pytest.raises(Refusal, match="broke off"):
        translator.close()


@pytest.mark.parametrize(
    "wrong",
    [
        event({"error": {"message": POLICY}}), event([]), event({"object": "x"}), b"data: {\n\n",
        b"data: [DONE]\n\n", b"data: null\n\n", event("text"), b"data: " + b"x" * (1 << 21),
    ],
)  # fmt: skip
def test_an_upstream_that_makes_no_sense_is_an_error(wrong: bytes) -> None:
    translator = StreamTranslator(FORM, guard, wants_usage=False)
    with pytest.raises(Refusal) as caught:
        translator.feed(wrong)
    assert caught.value.code == "upstream_error"
    assert POLICY not in caught.value.message


def test_choices_that_were_not_asked_for_are_left_out() -> None:
    translator = StreamTranslator(FORM, guard, wants_usage=False)
    written = translator.feed(piece("mine") + piece("no", index=1) + piece("", reason="length"))
    written += translator.feed(b"data: [DONE]\n\n")
    assert said(written) == ("mine", "length")
    assert b"no" not in written.replace(b"null", b"")


def test_an_answer_that_repeats_its_config_is_ended() -> None:
    translator = StreamTranslator(FORM, guard, wants_usage=True)
    written = translator.feed(piece("Certainly. ") + piece(POLICY[:40]))
    assert not translator.ended
    written += translator.feed(piece(POLICY[40:]) + piece(" and so on"))
    assert translator.ended
    text, reason = said(written)
    assert reason == "content_filter"
    assert "gambling" not in text
    # What comes after is not looked at.
    assert translator.feed(piece("more", reason="stop")) == b""
    translator.close()


@pytest.mark.parametrize("form", ["plain", "chat", "vllm"])
def test_each_form_is_guarded_and_read(form: str) -> None:
    translator = StreamTranslator(FORM, guard, wants_usage=False)
    written = translator.feed(piece('a "quote", \\ and é', form=form) + piece(POLICY, form=form))
    assert said(written) == ('a "quote", \\ and é', "content_filter")


@pytest.mark.parametrize("text", [b"\\x", b"\\u12", b"\xff"])
def test_a_string_that_is_none_is_an_error(text: bytes) -> None:
    translator = StreamTranslator(FORM, guard, wants_usage=False)
    with pytest.raises(Refusal, match="could not be read"):
        translator.feed(piece("TEXT", form="vllm").replace(b"TEXT", text))


def test_of_two_choices_the_other_goes_on() -> None:
    translator = StreamTranslator(FORM_OF_TWO, guard, wants_usage=False)
    written = translator.feed(piece("beer") + piece(POLICY, index=1) + piece("!", reason="stop"))
    written += translator.feed(piece("", index=1, reason="stop") + b"data: [DONE]\n\n")
    assert said(written) == ("beer!", "stop")
    assert said(written, 1) == ("", "content_filter")


@given(st.integers(1, 90), st.sampled_from(["", "\n", "* ", "  ", "**", "\u200b", "-"]))
def test_the_guard_sees_through_cuts_and_marks(size: int, mark: str) -> None:
    watching = guard()
    pieces = [POLICY[i : i + size] for i in range(0, len(POLICY), size)]
    spread = [mark.join([word, ""]) for word in pieces]
    assert any(watching.leaks(text.upper()) for text in spread)


def test_the_guard_lets_other_texts_and_short_quotes_pass() -> None:
    for text in ("The history of pubs is long, and beer is older than any of them." * 5,
                 "speak of gambling odds", "", "beer " * 200):  # fmt: skip
        assert not guard().leaks(text)
    assert not LeakGuard(POLICY, 0).leaks(POLICY)
    assert not LeakGuard("Be kind.", 48).leaks("Be kind.")
    short = LeakGuard("Alcohol: allowed; dating: forbidden", 48)
    assert short.leaks("alcohol allowed dating forbidden")


def whole(text: str, count: int = 1) -> bytes:
    choices = [{"index": i, "text": text, "finish_reason": "stop"} for i in range(count)]
    usage = {"prompt_tokens": 987654321, "completion_tokens": 3}
    return json.dumps({"choices": choices, "usage": usage, "prompt_logprobs": [1]}).encode()


def test_whole_answers_are_written_anew() -> None:
    written, tokens = whole_answer(whole("beer", 2), FORM_OF_TWO, guard)
    answer = json.loads(written)
    assert tokens == 3
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["beer", "beer"]
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    leaked = json.loads(whole_answer(whole(f"It says: {POLICY}"), FORM, guard)[0])["choices"][0]
    assert (leaked["message"]["content"], leaked["finish_reason"]) == ("", "content_filter")


@pytest.mark.parametrize(
    "wrong",
    [b"", b"{}", b"[]", b"null", b'{"choices": []}', whole("x", 2), b'{"choices": [{}]}',
     b'{"choices": null}', b'{"choices": [null]}', b"\xff"],
)  # fmt: skip
def test_whole_answers_that_are_none(wrong: bytes) -> None:
    with pytest.raises(Refusal, match="could not be read"):
        whole_answer(wrong, FORM, guard)


FAULTS = [
    (500, 502, "upstream_error"), (401, 502, "upstream_error"), (302, 502, "upstream_error"),
    (400, 400, "upstream_rejected"), (422, 400, "upstream_rejected"),
    (503, 503, "overloaded"), (429, 503, "overloaded"), (404, 503, "overloaded"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "told", "code"), FAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_servers_failures_become(
    shared: Running, status: int, told: int, code: str, stream: bool
) -> None:
    upstream = shared.world.upstream
    upstream.fault = lambda _: status
    try:
        answer = shared.ask("pub", stream=stream)
        assert shared.code(answer) == (told, code)
        assert ("retry-after" in answer.headers) == (told == 503)
    finally:
        upstream.fault = lambda _: None
        eventually(lambda: shared.ask("pub").status_code == 200)


def test_a_stream_that_breaks_off_ends_with_an_error_event(shared: Running) -> None:
    upstream = shared.world.upstream
    upstream.fault = lambda _: "drop"
    try:
        answer = shared.ask("pub", stream=True)
        assert answer.status_code == 200
        last = answer.text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_error"
        assert "[DONE]" not in answer.text
    finally:
        upstream.fault = lambda _: None


def test_a_model_server_that_says_nothing_is_given_up(installation: World) -> None:
    installation.settings["upstreams"] = {"idle_seconds": 0.3}
    installation.upstream.fault = lambda body: "hang" if body["seed"] == 1 else None
    with installation.gateway() as found:
        eventually(found.ready)
        answer = found.ask("pub", seed=1, stream=True)
        assert found.code(answer) == (504, "upstream_timeout")
        eventually(lambda: installation.upstream.hung_up == 1, "the model server was not told")
        assert found.ask("pub").status_code == 200


def test_a_whole_answer_has_the_time_of_a_whole_answer(installation: World) -> None:
    installation.settings["upstreams"] = {"idle_seconds": 0.3}
    installation.upstream.pace = 0.25
    with installation.gateway() as found:
        eventually(found.ready)
        assert found.ask("pub", max_tokens=4).status_code == 200


def test_without_a_model_server_nothing_is_answered(installation: World) -> None:
    installation.settings["upstreams"] = {"urls": ["http://127.0.0.1:9"]}
    with installation.gateway() as found:
        answer = found.ask("pub")
        assert found.code(answer) == (503, "model_unavailable")
        assert not found.ready()
