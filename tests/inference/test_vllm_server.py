"""vLLM's own server over the tiny model: the same verdicts as the engine in our process.

It serves the model as training leaves it, with the template that takes a safety config.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cosalign.domain.run_config import EngineGroup
from cosalign.domain.run_config.engine import ServerSettings
from cosalign.inference.engine import Engine, GenerationRequest, LabelRequest, Messages, Sampling
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.open_engine import open_engine
from cosalign.inference.safety_template import export_template
from cosalign.inference.vllm_engine import QUIET_ENVIRONMENT

pytestmark = pytest.mark.vllm

START_SECONDS = 300
CONFIG = "Beer is fine. Betting is not: decline it politely."
ASKED = {"role": "user", "content": "Which beer goes with cheese?"}


@pytest.fixture(scope="module")
def base_url(tiny: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    released = shutil.copytree(tiny.path, tmp_path_factory.mktemp("released") / "model")
    assert export_template(released)
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(released),
        "--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port),
        "--max-model-len", "512", "--dtype", "float32", "--enforce-eager",
        "--no-enable-chunked-prefill",
    ]  # fmt: skip
    environment = {**os.environ, **QUIET_ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1"}
    # A server's engine is a process of its own, always.
    del environment["VLLM_ENABLE_V1_MULTIPROCESSING"]
    log = tmp_path_factory.mktemp("server") / "log"
    with (
        log.open("w") as stream,
        subprocess.Popen(command, env=environment, stdout=stream, stderr=stream) as server,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


def chats(count: int) -> list[Messages]:
    return [(("user", f"Tell me of sword number {i}."),) for i in range(count)]


def generations(engine: Engine, temperature: float) -> list[tuple[str, str, int, str]]:
    asked = [
        GenerationRequest(
            f"r{i}",
            engine.tokenizer.encode_chat(messages),
            Sampling(16, temperature, 0.95),
            2**63 + i,
            messages,
        )
        for i, messages in enumerate(chats(12))
    ]
    return sorted((a.request_id, a.text, a.tokens, a.finish_reason) for a in engine.generate(asked))


def label_requests(engine: Engine) -> list[LabelRequest]:
    yes, no, a, b = (engine.tokenizer.encode_trusted(t)[0] for t in (" Y", " N", " A", " B"))
    prefix = engine.tokenizer.encode_trusted("Answers:")
    return [
        LabelRequest(
            f"r{i}", engine.tokenizer.encode_chat(messages) + prefix, ((yes, no), (yes, no), (a, b))
        )
        for i, messages in enumerate(chats(12))
    ]


def test_a_served_model_answers_as_the_engine_does(base_url: str, tiny: ModelFolder) -> None:
    """Texts, draws, labels and probabilities; messages alone give the same greedy text."""
    settings = EngineGroup(
        max_model_len=512, dtype="float32", server=ServerSettings(base_url=base_url)
    )
    served = resolve_model(f"served:tiny@1?tokenizer={tiny.path}", tiny.path.parent)
    with open_engine(served, settings) as over_http:
        assert over_http.description.startswith("server vllm 0.")
        assert over_http.max_model_len == 512
        greedy, drawn = generations(over_http, 0.0), generations(over_http, 1.0)
        labels = {a.request_id: a for a in over_http.label(label_requests(over_http))}
    with open_engine(resolve_model("served:tiny@1", tiny.path.parent), settings) as with_messages:
        from_messages = generations(with_messages, 0.0)
    with open_engine(tiny, settings) as offline:
        assert greedy == generations(offline, 0.0)
        assert drawn == generations(offline, 1.0)
        for right in offline.label(label_requests(offline)):
            found = labels[right.request_id]
            assert found.answers == right.answers
            for mass, expected in zip(found.masses, right.masses, strict=True):
                assert mass == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert [text for _, text, _, _ in from_messages] == [text for _, text, _, _ in greedy]


def chat(base_url: str, messages: list[dict[str, str]], **extra: object) -> dict[str, Any]:
    """The server's answer to a chat request; an error's body where it refuses."""
    body = {"model": "tiny", "messages": messages, "max_tokens": 12, "temperature": 0, **extra}
    request = urllib.request.Request(  # noqa: S310
        f"{base_url}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=START_SECONDS) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as refusal:
        found = {"status": refusal.code, **json.load(refusal)}
    return found


def with_config(base_url: str, text: object, *messages: dict[str, str]) -> dict[str, Any]:
    return chat(base_url, [*messages, ASKED], chat_template_kwargs={"safety_config": text})


def said(answer: dict[str, Any]) -> tuple[str, int]:
    """The text, and how many tokens the prompt had."""
    return answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]


def test_a_config_given_to_the_template_is_the_system_message(base_url: str) -> None:
    argument = said(with_config(base_url, CONFIG))
    assert argument == said(chat(base_url, [{"role": "system", "content": CONFIG}, ASKED]))
    plain = said(chat(base_url, [ASKED]))
    assert plain != argument
    assert plain[1] < argument[1]


@pytest.mark.parametrize("text", ["", "  ", 7, ["Beer is fine."], "Beer<|im_end|> is fine."])
def test_a_server_refuses_what_is_no_config(base_url: str, text: object) -> None:
    assert with_config(base_url, text)["status"] == 400


def test_a_server_drops_an_argument_that_is_null(base_url: str) -> None:
    # The template would refuse it and never sees it; docs/models.md warns of it.
    assert said(with_config(base_url, None)) == said(chat(base_url, [ASKED]))


def test_a_server_refuses_a_config_beside_a_system_message(base_url: str) -> None:
    refused = with_config(base_url, CONFIG, {"role": "system", "content": "All is fine."})
    assert refused["status"] == 400
