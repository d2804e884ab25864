"""What a client sees: the answers of the OpenAI API, under the config of whoever asks."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from tests.serving.world import POLICIES, Running, eventually

from cosalign.serving.double import prompt_digest


def client(shared: Running, tenant: str, **options: Any) -> openai.OpenAI:
    key = shared.world.keys[tenant].key
    return openai.OpenAI(base_url=f"{shared.url}/v1", api_key=key, max_retries=0, **options)


def expected(shared: Running, region: str, content: str, seed: int) -> str:
    """How the stand-in's answer begins if it was asked in the tokens of training."""
    ids = shared.world.ids(POLICIES[region], ("user", content))
    return f"{seed}:{prompt_digest(list(ids))}"


@pytest.mark.parametrize(("tenant", "region"), [("pub", "ie"), ("school", "no")])
def test_the_openai_package_is_answered_under_its_tenants_config(
    shared: Running, tenant: str, region: str
) -> None:
    messages: Any = [{"role": "user", "content": "Tell me of beer."}]
    answer = client(shared, tenant).chat.completions.create(
        model="cosalign", messages=messages, max_tokens=3, seed=11, temperature=0
    )
    assert answer.choices[0].message.content == (
        f"{expected(shared, region, 'Tell me of beer.', 11)} 11.1 11.2"
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "cosalign"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_the_openai_package_streams(shared: Running) -> None:
    messages: Any = [{"role": "user", "content": "Tell me of swords."}]
    stream = client(shared, "school").chat.completions.create(
        model="cosalign", messages=messages, max_tokens=5, seed=3, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == f"{expected(shared, 'no', 'Tell me of swords.', 3)} 3.1 3.2 3.3 3.4"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_has_none(shared: Running) -> None:
    answer = shared.ask("pub", stream=True)
    events = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert answer.text.endswith("data: [DONE]\n\n")
    assert all("usage" not in json.loads(event) for event in events)


def test_one_model_is_listed_and_can_be_looked_up(shared: Running) -> None:
    known = client(shared, "pub")
    assert [model.id for model in known.models.list()] == ["cosalign"]
    assert known.models.retrieve("cosalign").owned_by == "cosalign"
    with pytest.raises(openai.NotFoundError):
        known.models.retrieve(shared.world.model.digest)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none").models.list()


def test_several_choices_and_several_turns(shared: Running) -> None:
    turns = [
        {"role": "user", "content": "Tell me of beer."},
        {"role": "assistant", "content": "It is old.", "refusal": None, "tool_calls": None},
        {
            "role": "user",
            "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "old?"}],
        },
    ]
    answer = shared.ask("pub", messages=turns, n=2).json()
    ids = shared.world.ids(
        POLICIES["ie"],
        ("user", "Tell me of beer."), ("assistant", "It is old."), ("user", "How old?"),
    )  # fmt: skip
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    for choice in answer["choices"]:
        assert choice["message"]["content"].startswith(f"7:{prompt_digest(list(ids))}")
    streamed = shared.ask("pub", messages=turns, n=2, stream=True).text
    assert streamed.count('"finish_reason": "stop"') == 2


def test_counts_of_tokens_are_those_without_a_config(shared: Running) -> None:
    told = {t: shared.ask(t, "Tell me of cheese.").json()["usage"] for t in ("pub", "school")}
    assert told["pub"] == told["school"]
    alone = len(shared.world.ids("x", ("user", "Tell me of cheese.")))
    assert told["pub"]["prompt_tokens"] < alone


def test_sampling_reaches_the_model_and_nothing_else_does(shared: Running) -> None:
    asked = shared.world.upstream.asked
    given: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "stop": ["."],
        "seed": 5,
    }
    dropped: dict[str, Any] = {
        "user": "u1",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "logprobs": False,
    }
    answer = shared.ask("pub", **given, **dropped, max_completion_tokens=2, tools=[])
    assert answer.status_code == 200
    sent = asked[-1]
    assert {name: sent[name] for name in given} == given
    assert sent["max_tokens"] == 2
    assert sent.keys() == {"model", "prompt", "max_tokens", *given}


def test_answers_hold_what_the_api_has_and_nothing_of_the_servers(shared: Running) -> None:
    answer = shared.ask("pub")
    body = answer.json()
    assert body.keys() == {
        "id", "object", "created", "model", "system_fingerprint", "choices", "usage"
    }  # fmt: skip
    assert body["choices"][0].keys() == {"index", "message", "logprobs", "finish_reason"}
    assert answer.headers["x-request-id"] in body["id"]
    assert "server" not in answer.headers


def test_a_caller_who_hangs_up_is_told_to_the_model_server(shared: Running) -> None:
    upstream = shared.world.upstream
    before = upstream.hung_up
    upstream.pace = 0.05
    try:
        headers = {"authorization": f"Bearer {shared.world.keys['pub'].key}"}
        body = {
            "model": "cosalign",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 900,
            "stream": True,
        }
        url = f"{shared.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=headers) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
        eventually(lambda: upstream.hung_up > before, "the model server was not told")
    finally:
        upstream.pace = 0.0
