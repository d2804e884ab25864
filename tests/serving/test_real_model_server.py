"""vLLM's own server behind the gateway: the tokens of training, whatever a user writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.serving.test_config_cannot_be_brought import BODIES, SPELLINGS
from tests.serving.world import POLICIES, Running, eventually, free_port, world

from cosalign.domain.run_config.engine import EngineGroup
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.safety_template import export_template
from cosalign.serving.model_requests import upstream_body
from cosalign.serving.model_server import start_model_server

pytestmark = pytest.mark.vllm

CONTEXT, LONGEST = 2048, 1600


@pytest.fixture(scope="module")
def exported(tiny: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """The tiny model as training releases it: its template takes a safety config."""
    folder = tmp_path_factory.mktemp("models") / "exported"
    shutil.copytree(tiny.path, folder)
    export_template(folder)
    return resolve_model(str(folder), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def server_url(exported: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import asyncio

    log = tmp_path_factory.mktemp("server") / "log"
    engine = EngineGroup(max_model_len=CONTEXT, dtype="float32")
    server = start_model_server(exported.path, exported.digest, free_port(), engine, log)

    def answers() -> bool:
        assert server.alive, log.read_text()
        try:
            return httpx.get(f"{server.url}/health").is_success
        except httpx.TransportError:
            return False

    try:
        eventually(answers, seconds=300)
        yield server.url
    finally:
        asyncio.run(server.stop())


@pytest.fixture(scope="module")
def served(
    exported: ModelFolder, server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with world(tmp_path_factory.mktemp("served"), exported) as made:
        made.settings["upstreams"] = {"urls": [server_url]}
        limits = {"prompt_tokens": 256, "completion_tokens": LONGEST}
        for name, region in (("pub", "ie"), ("school", "no")):
            made.tenant(name, [region], limits=limits)
        with made.gateway() as found:
            eventually(found.ready)
            yield found


def direct(server_url: str, path: str, **body: Any) -> Any:
    return httpx.post(f"{server_url}{path}", json=body, timeout=120).json()


def completed(served: Running, server_url: str, region: str, content: str) -> str:
    """What the server says to the tokens of training."""
    ids = served.world.ids(POLICIES[region], ("user", content))
    answer = direct(
        server_url, "/v1/completions", model=served.world.model.digest, prompt=list(ids),
        max_tokens=24, temperature=0,
    )  # fmt: skip
    text: str = answer["choices"][0]["text"]
    return text


@pytest.mark.parametrize(("tenant", "region"), [("pub", "ie"), ("school", "no")])
@pytest.mark.parametrize("content", ["Tell me of beer.", *SPELLINGS])
def test_the_model_is_asked_in_the_tokens_of_training(
    served: Running, server_url: str, tenant: str, region: str, content: str
) -> None:
    expected = completed(served, server_url, region, content)
    asked = {"max_tokens": 24, "temperature": 0}
    whole = served.ask(tenant, content, **asked).json()["choices"][0]["message"]["content"]
    client = openai.OpenAI(
        base_url=f"{served.url}/v1", api_key=served.world.keys[tenant].key, max_retries=0
    )
    messages: Any = [{"role": "user", "content": content}]
    stream = client.chat.completions.create(
        model="cosalign", messages=messages, stream=True, max_tokens=24, temperature=0
    )
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert whole == streamed == expected


def test_the_argument_of_the_template_says_the_same_as_our_tokens(
    served: Running, server_url: str
) -> None:
    answer = direct(
        server_url, "/v1/chat/completions", model=served.world.model.digest, max_tokens=24,
        temperature=0, messages=[{"role": "user", "content": "Tell me of beer."}],
        chat_template_kwargs={"safety_config": POLICIES["ie"]},
    )  # fmt: skip
    said = answer["choices"][0]["message"]["content"]
    assert said == completed(served, server_url, "ie", "Tell me of beer.")


@pytest.mark.parametrize("content", [text for text in SPELLINGS if "<|im_start|>" in text])
def test_past_the_gateway_a_spelled_control_token_would_become_one(
    served: Running, server_url: str, content: str
) -> None:
    """Why token ids are sent: what the server makes of the same message by itself."""
    answer = direct(
        server_url, "/tokenize", model=served.world.model.digest,
        messages=[{"role": "user", "content": content}],
        chat_template_kwargs={"safety_config": POLICIES["ie"]},
    )  # fmt: skip
    theirs, ours = answer["tokens"], served.world.ids(POLICIES["ie"], ("user", content))
    controls = set(direct_controls(served))
    assert sum(i in controls for i in theirs) > sum(i in controls for i in ours)


def direct_controls(served: Running) -> set[int]:
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(str(served.world.model.path))
    return set(theirs.added_tokens_decoder)


def test_no_attempt_gets_past_and_the_server_lives(served: Running, server_url: str) -> None:
    for fields in BODIES.values():
        answer = served.ask("pub", **fields)
        assert 400 <= answer.status_code < 500
        assert POLICIES["ie"][:20] not in answer.text
    assert httpx.get(f"{server_url}/health").is_success


def test_a_caller_who_hangs_up_stops_the_generation(
    served: Running, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_end(*given: Any) -> bytes:
        return json.dumps({**json.loads(upstream_body(*given)), "ignore_eos": True}).encode()

    monkeypatch.setattr("cosalign.serving.model_requests.upstream_body", without_end)
    body = {"model": "cosalign", "messages": [{"role": "user", "content": "x"}],
            "max_tokens": LONGEST, "stream": True}  # fmt: skip
    headers = {"authorization": f"Bearer {served.world.keys['pub'].key}"}
    url = f"{served.url}/v1/chat/completions"

    def broken_off() -> bool:
        before = finished_requests(server_url)
        with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())
        assert served.ask("pub").status_code == 200
        eventually(lambda: running_requests(server_url) == 0)
        # vLLM counts what came to its end, and not what was broken off.
        return finished_requests(server_url) == before + 1

    # The small model may be done before its first piece arrives; without a hang-up it always is.
    eventually(lambda: running_requests(server_url) == 0)
    eventually(broken_off, seconds=120)


def running_requests(server_url: str) -> float:
    return metric(server_url, "vllm:num_requests_running")


def finished_requests(server_url: str) -> float:
    return metric(server_url, "vllm:request_success_total")


def metric(server_url: str, name: str) -> float:
    lines = httpx.get(f"{server_url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_tokens_are_counted_as_the_server_counts_them(served: Running, tmp_path: Path) -> None:
    answer = served.ask("pub", "Tell me of cheese.", temperature=0).json()
    ids = served.world.ids(POLICIES["ie"], ("user", "Tell me of cheese."))
    eventually(lambda: list(served.world.storage.rglob("*.jsonl")))
    number = answer["id"].removeprefix("chatcmpl-")

    def row() -> Any:
        files = served.world.storage.rglob("*.jsonl")
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return next((one for one in rows if one["request"] == number), None)

    stored = eventually(row)
    assert stored["prompt_tokens"] == len(ids)
    assert stored["answer_tokens"] == answer["usage"]["completion_tokens"]
