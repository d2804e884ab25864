"""Configs changed and models swapped while requests run: none is lost, none goes astray."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from collections.abc import MutableMapping
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.inference.released import release
from tests.serving.world import POLICIES, Running, World, eventually, running

from cosalign.domain.errors import ConfigError, ModelError
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.safety_template import export_template
from cosalign.serving.double import StandInServer, prompt_digest
from cosalign.serving.promoted_model import pinned_model
from cosalign.serving.settings import read_gateway_settings
from cosalign.store.model_pointer import Choice, ModelPointer
from cosalign.store.storage import Storage, open_storage


@pytest.fixture(scope="session")
def second(tiny: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Another model: the same but for its chat template, so that prompts tell the two apart."""
    folder = tmp_path_factory.mktemp("models") / "second"
    shutil.copytree(tiny.path, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n", "assistant\n "))
    return resolve_model(str(folder), tmp_path_factory.mktemp("cache"))


def promote(storage: Storage, model: ModelFolder, uri: str = "") -> None:
    pointer = ModelPointer(storage, "main")
    head = pointer.head()
    choice = Choice(
        action="promote", uri=uri or str(model.path), digest=model.digest, by="t", at="2026-11-01"
    )
    pointer.record(choice, head.number if head else 0)


class Load:
    """Callers that never stop asking; what each was answered is checked against what it asked."""

    def __init__(self, found: Running, allowed: set[str], threads: int = 4) -> None:
        self._found = found
        self._allowed = allowed
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def has_answered(self, digest: str, count: int) -> bool:
        return self.answered[digest] > count

    def _ask(self, number: int) -> None:
        seed = number
        with httpx.Client(timeout=60) as client:
            while not self._ending.is_set():
                seed += 1000
                self._check(client, seed, stream=seed % 2 == 0)

    def _check(self, client: httpx.Client, seed: int, stream: bool) -> None:
        body = {"model": "cosalign", "messages": [{"role": "user", "content": "Tell me."}],
                "max_tokens": 5, "seed": seed, "stream": stream}  # fmt: skip
        headers = {"authorization": f"Bearer {self._found.world.keys['pub'].key}"}
        url = f"{self._found.url}/v1/chat/completions"
        answer = client.post(url, json=body, headers=headers)
        if answer.status_code != 200:
            self.wrong.append(f"{answer.status_code} {answer.text}")
            return
        text = (
            streamed(answer.text) if stream else answer.json()["choices"][0]["message"]["content"]
        )
        told_seed, _, rest = text.partition(":")
        told, _, others = rest.partition(" ")
        whole = others == " ".join(f"{seed}.{i}" for i in range(1, 5))
        if told_seed != str(seed) or told not in self._allowed or not whole:
            self.wrong.append(text)
        self.answered[told] += 1


def streamed(text: str) -> str:
    events = [json.loads(e.removeprefix("data: ")) for e in text.split("\n\n")[:-2]]
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events)


def digest_of(world: World, model: ModelFolder, policy: str) -> str:
    from cosalign.inference.hf_tokenizer import HfTokenizer

    tokenizer = HfTokenizer(model.path, model.tokenizer_digest)
    return prompt_digest(list(tokenizer.encode_chat([("system", policy), ("user", "Tell me.")])))


def test_a_config_is_changed_under_load(installation: World) -> None:
    policies = [POLICIES["ie"], "Speak of nothing but stout.", "Speak of cider, and be brief."]
    digests = [digest_of(installation, installation.model, policy) for policy in policies]
    with installation.gateway() as found:
        eventually(found.ready)
        with Load(found, set(digests)) as load:
            for number, (policy, digest) in enumerate(zip(policies, digests, strict=True)):
                installation.config("pub-ie", "ie", policy)
                eventually(partial(load.has_answered, digest, 20))
                # From when on the new one is there, the old ones are not used, but for requests
                # that were under way, one a caller at the most.
                old = sum(load.answered[one] for one in digests[:number])
                eventually(partial(load.has_answered, digest, 60))
                assert sum(load.answered[one] for one in digests[:number]) <= old + 4
        assert not load.wrong
    assert load.answered.keys() == set(digests)


def test_a_model_is_swapped_and_rolled_back_under_load(
    installation: World, second: ModelFolder
) -> None:
    storage = open_storage(str(installation.storage))
    first, policy = installation.model, POLICIES["ie"]
    digests = {m.digest: digest_of(installation, m, policy) for m in (first, second)}
    assert len(set(digests.values())) == 2
    other = StandInServer()
    with running(other) as other_url:
        urls = [installation.upstream_url, other_url]
        installation.settings["model"] = {"uri": None}
        installation.settings["upstreams"] = {"urls": urls}
        promote(storage, first)
        with installation.gateway() as found:
            eventually(found.ready)
            with Load(found, set(digests.values())) as load:
                eventually(lambda: load.answered[digests[first.digest]] > 20)
                promote(storage, second)
                # Promoted, and no server has it yet: the one before goes on.
                before = load.answered[digests[first.digest]]
                eventually(lambda: load.answered[digests[first.digest]] > before + 20)
                assert not load.answered[digests[second.digest]]
                other.models[second.digest] = 8192
                eventually(lambda: load.answered[digests[second.digest]] > 50)
                # New requests go to it alone; the old server can be stopped.
                eventually(lambda: installation.upstream.open == 0)
                before = load.answered[digests[first.digest]]
                installation.upstream.models.clear()
                eventually(lambda: load.answered[digests[second.digest]] > 100)
                assert load.answered[digests[first.digest]] <= before + 4
                # And back.
                installation.upstream.models[first.digest] = 8192
                promote(storage, first)
                before = load.answered[digests[first.digest]]
                eventually(lambda: load.answered[digests[first.digest]] > before + 50)
            assert not load.wrong
            assert {body["model"] for body in other.asked} == {second.digest}


class OneAddress:
    """Servers behind one address: each connection meets the next one, as behind a balancer."""

    def __init__(self, *servers: StandInServer, keeps_alive: bool = True) -> None:
        self._turn = cycle(servers)
        self._keeps_alive = keeps_alive
        self._met: dict[tuple[str, int], StandInServer] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        client = tuple(scope["client"])
        if client not in self._met or not self._keeps_alive:
            self._met[client] = next(self._turn)

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and not self._keeps_alive:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self._met[client](scope, receive, sent)


def test_a_swap_behind_one_address_loses_no_request(
    installation: World, second: ModelFolder
) -> None:
    storage = open_storage(str(installation.storage))
    first, policy = installation.model, POLICIES["ie"]
    digests = {m.digest: digest_of(installation, m, policy) for m in (first, second)}
    one, other = StandInServer({first.digest: 8192}), StandInServer({first.digest: 8192})
    with running(OneAddress(one, other)) as url:
        installation.settings["model"] = {"uri": None}
        installation.settings["upstreams"] = {"urls": [url]}
        promote(storage, first)
        with installation.gateway() as found:
            eventually(found.ready)
            with Load(found, set(digests.values())) as load:
                eventually(partial(load.has_answered, digests[first.digest], 20))
                promote(storage, second)
                other.models = {second.digest: 8192}
                eventually(partial(load.has_answered, digests[second.digest], 50))
                one.models = {second.digest: 8192}
                eventually(partial(load.has_answered, digests[second.digest], 200))
            assert not load.wrong


@pytest.mark.parametrize("order", ["ab", "aabb", "aab", "abbb"])
def test_no_order_in_which_servers_are_met_is_missed_each_time(
    installation: World, second: ModelFolder, order: str
) -> None:
    storage = open_storage(str(installation.storage))
    first = installation.model
    servers = {"a": StandInServer({first.digest: 8192}), "b": StandInServer({first.digest: 8192})}
    address = OneAddress(*(servers[name] for name in order), keeps_alive=False)
    with running(address) as url:
        installation.settings["model"] = {"uri": None}
        installation.settings["upstreams"] = {"urls": [url]}
        promote(storage, first)
        with installation.gateway() as found:
            eventually(found.ready)
            servers["b"].models = {second.digest: 8192}
            promote(storage, second)
            codes = Counter(found.ask("pub").status_code for _ in range(300))
    assert codes == {200: 300}


def test_a_server_that_now_has_another_model_never_answers_as_the_promoted_one(
    installation: World, second: ModelFolder
) -> None:
    """Behind one address, between two probes: it says 404, and the request goes elsewhere."""
    other = StandInServer({installation.model.digest: 8192})
    with running(other) as other_url:
        installation.settings["upstreams"] = {
            "urls": [installation.upstream_url, other_url], "probe_seconds": 30.0,
        }  # fmt: skip
        with installation.gateway() as found:
            eventually(found.ready)
            installation.upstream.models = {second.digest: 8192}
            assert [found.ask("pub").status_code for _ in range(6)] == [200] * 6
            assert len(other.asked) == 6
            # A server that has died is no different.
            other.models.clear()
            assert found.code(found.ask("pub")) == (503, "overloaded")


def test_a_gateway_that_stops_finishes_its_answers(installation: World) -> None:
    installation.upstream.pace = 0.1
    with installation.gateway() as found:
        eventually(found.ready)
        box: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: box.append(found.ask("pub", max_tokens=10)))
        asking.start()
        eventually(lambda: installation.upstream.open == 1)
        found.stop()
        asking.join()
        found.thread.join(timeout=20)
    assert box[0].status_code == 200
    assert box[0].json()["choices"][0]["message"]["content"].endswith(" 7.9")


@pytest.fixture
def model_folder(storage: Storage, tiny: ModelFolder, tmp_path: Path) -> tuple[str, str]:
    """A released model in storage: its address and its digest."""
    folder = tmp_path / "exported"
    shutil.copytree(tiny.path, folder)
    export_template(folder)
    storage.upload_tree(folder, "models/m")
    where = open_storage(storage.uri_of("models/m"))
    model = resolve_model(str(folder), tmp_path / "hashes")
    release(where, model)
    return where.uri, model.digest


def test_a_released_models_tokenizer_is_fetched_without_its_weights(
    model_folder: tuple[str, str], tmp_path: Path
) -> None:
    uri, digest = model_folder
    cache = tmp_path / "cache"
    model = pinned_model(uri, digest, "tokens", cache)
    assert (model.digest, model.served_name) == (digest, digest)
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "model-manifest.json"])
def test_a_tokenizer_that_was_altered_is_refused(
    model_folder: tuple[str, str], tmp_path: Path, name: str
) -> None:
    uri, digest = model_folder
    where = open_storage(uri)
    content = where.read_bytes(name)
    changed = content.replace(b"assistant", b"assistent") + b" "
    if name == "model-manifest.json":
        manifest = json.loads(content)
        manifest["files"]["tokenizer.json"]["sha256"] = "0" * 64
        changed = json.dumps(manifest).encode()
    where.write_bytes(name, changed)
    with pytest.raises(ModelError):
        pinned_model(uri, digest, "tokens", tmp_path / "cache")


def test_a_model_without_a_manifest_is_hashed_whole(tiny: ModelFolder, tmp_path: Path) -> None:
    assert pinned_model(str(tiny.path), tiny.digest, "tokens", tmp_path).digest == tiny.digest
    with pytest.raises(ModelError, match="what lies there"):
        pinned_model(str(tiny.path), "0" * 64, "tokens", tmp_path)


@pytest.mark.parametrize("kind", ["tokens", "template", "system"])
def test_a_model_without_a_tokenizer_is_refused_before_anything_listens(
    installation: World, kind: str
) -> None:
    settings = installation.gateway_settings().model_dump(mode="json")
    settings["model"]["uri"] = "served:gpt"
    settings["upstreams"]["prompt"] = kind
    file = installation.folder / "gateway.yaml"
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"no tokenizer is known of served:gpt.*\?tokenizer="):
        read_gateway_settings(str(file))


@pytest.mark.parametrize(
    ("kind", "uri"),
    [("template", "TINY"), ("system", "TINY"), ("system", "served:gpt?tokenizer=TINY")],
)
def test_servers_that_take_messages(installation: World, kind: str, uri: str) -> None:
    tiny = installation.model
    name = tiny.digest if uri == "TINY" else "gpt"
    for tenant, region in (("pub", "ie"), ("school", "no")):
        installation.tenant(tenant, [region], limits={"prompt_tokens": 60})
    installation.upstream.models = {name: 8192}
    installation.settings["model"] = {"uri": uri.replace("TINY", str(tiny.path))}
    installation.settings["upstreams"] = {"prompt": kind}
    with installation.gateway() as found:
        eventually(found.ready)
        for stream in (False, True):
            answer = found.ask("pub", stream=stream)
            assert answer.status_code == 200
        sent = installation.upstream.asked[-1]
        user = {"role": "user", "content": "Tell me of pubs."}
        if kind == "template":
            assert sent["messages"] == [user]
            assert sent["chat_template_kwargs"] == {"safety_config": POLICIES["ie"]}
        else:
            assert sent["messages"] == [{"role": "system", "content": POLICIES["ie"]}, user]
        asked = len(installation.upstream.asked)
        for spelling in ("<|im_end|>", "a <|im_start|>system", "<|endoftext|>"):
            answer = found.ask("pub", spelling)
            assert found.code(answer) == (400, "control_token")
        assert len(installation.upstream.asked) == asked
        # What is sent is counted and charged; what the config adds is not told.
        assert found.code(found.ask("pub", "a " * 80)) == (400, "prompt_too_long")
        shown = {found.ask(tenant).json()["usage"]["prompt_tokens"] for tenant in ("pub", "school")}
        whole = len(installation.ids(POLICIES["ie"], ("user", "Tell me of pubs.")))
        assert len(shown) == 1
        assert 0 < shown.pop() < whole
        (charged,) = {row["prompt_tokens"] for row in eventually(partial(answered, installation))}
        assert charged == whole


def answered(installation: World) -> list[dict[str, Any]]:
    """Rows of what the pubs were answered."""
    lines = [line for file in installation.storage.rglob("*.jsonl")
             for line in file.read_text().splitlines()]  # fmt: skip
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if (row["tenant"], row["code"]) == ("pub", "ok")]
