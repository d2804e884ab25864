"""What stands beside the gateway: fetching a model, rolling pods, servers on one machine."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.charts.rendering import render, the
from tests.serving.test_promotion_reaches_it import promote
from tests.serving.world import PEPPER, World, eventually, running

from cosalign.domain.errors import CosalignError, ModelError
from cosalign.domain.run_config.engine import EngineGroup
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi
from cosalign.serving import local_serving
from cosalign.serving.__main__ import main
from cosalign.serving.api_keys import key_fits
from cosalign.serving.commands import gateway
from cosalign.serving.gateway import Gateway
from cosalign.serving.local_serving import LocalModels, LocalSettings
from cosalign.serving.model_fetch import fetch_promoted
from cosalign.serving.model_rollout import ANNOTATION, ModelRollout
from cosalign.serving.model_server import server_arguments
from cosalign.serving.server import serve
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import Storage, open_storage


@pytest.fixture
def second(tiny: ModelFolder, tmp_path: Path) -> ModelFolder:
    folder = tmp_path / "second model"
    shutil.copytree(tiny.path, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant\n", "assistant\n "))
    return resolve_model(str(folder), tmp_path / "hashes")


def test_the_promoted_model_is_fetched_and_named_by_its_digest(
    storage: Storage, tiny: ModelFolder, second: ModelFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ModelError, match="no model is promoted"):
        fetch_promoted(storage.uri, "main", out)
    for model in (tiny, second):
        storage.upload_tree(model.path, f"models/{model.digest}")
        stored = ModelFolder("", Path(), model.digest, model.tokenizer_digest)
        promote(storage, stored, storage.uri_of(f"models/{model.digest}"))
        told = yaml.safe_load(fetch_promoted(storage.uri, "main", out).read_text())
        assert told["served-model-name"] == model.digest
        assert resolve_model(told["model"], tmp_path).digest == model.digest
    # What was there before is not kept: the volume is sized for one model.
    weights = [f for f in out.rglob("*.safetensors") if f.is_file()]
    assert len(weights) <= 1


def test_an_altered_model_is_not_served(
    storage: Storage, tiny: ModelFolder, tmp_path: Path
) -> None:
    storage.upload_tree(tiny.path, "models/m")
    promote(storage, tiny, storage.uri_of("models/m"))
    storage.write_bytes("models/m/generation_config.json", b'{"temperature": 2.0}')
    with pytest.raises(ModelError, match="what lies there"):
        fetch_promoted(storage.uri, "main", tmp_path / "out")


@pytest.mark.vllm
def test_vllm_reads_the_file_with_the_charts_arguments(tiny: ModelFolder, tmp_path: Path) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    storage = open_storage(str(tmp_path / "storage"))
    promote(storage, tiny)
    file = fetch_promoted(storage.uri, "main", tmp_path / "out")
    values = {"storage": {"root": "gs://bucket/root"}, "serving": {
        "enabled": True, "gateway": {"tenantsSecret": "t"},
        "model": {"image": f"docker.io/vllm/vllm-openai@sha256:{'7' * 64}"}}}  # fmt: skip
    deployment = the(render(values), "Deployment", "rel-cosalign-model")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    arguments = [str(file) if a == "/models/vllm.yaml" else a for a in container["args"]]
    found = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    assert found.model == str(tiny.path)
    assert found.served_model_name == [tiny.digest]
    assert found.port == 8000
    assert found.shutdown_timeout == 600


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, Any], list[Any]]]:
    """An API server with one Deployment."""
    template: dict[str, Any] = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}
    item: dict[str, Any] = {
        "metadata": {"name": "m", "creationTimestamp": "2026-10-31T00:00:00Z"},
        "spec": {"replicas": 2, "template": template},
    }
    patches: list[Any] = []

    async def deployment(request: Request) -> JSONResponse:
        if request.method == "PATCH":
            change = await request.json()
            patches.append((request.headers["content-type"], change))
            metadata = change["spec"]["template"]["metadata"]
            template["metadata"] |= metadata
        return JSONResponse(item)

    path = "/apis/apps/v1/namespaces/eu/deployments/m"
    with running(Starlette(routes=[Route(path, deployment, methods=["GET", "PATCH"])])) as url:
        yield url, item, patches


def test_a_promotion_rolls_the_deployment_once(
    cluster: tuple[str, dict[str, Any], list[Any]],
    tmp_path: Path,
    tiny: ModelFolder,
    second: ModelFolder,
) -> None:
    url, item, patches = cluster
    storage = open_storage(str(tmp_path / "storage"))
    with KubernetesApi(Cluster(url, "eu", tmp_path / "token", None), patience=1.0) as api:
        rollout = ModelRollout(api, "eu", "m", ModelPointer(storage, "main"))
        assert not rollout.step()
        for model in (tiny, second, tiny):
            promote(storage, model)
            assert rollout.step()
            assert not rollout.step()
            assert item["spec"]["template"]["metadata"]["annotations"][ANNOTATION] == model.digest
    assert len(patches) == 3
    kind, change = patches[0]
    assert kind == "application/merge-patch+json"
    assert change == {
        "spec": {"template": {"metadata": {"annotations": {ANNOTATION: tiny.digest}}}}
    }
    assert item["spec"]["template"]["metadata"]["labels"] == {"a": "b"}


def test_pods_that_are_younger_than_the_promotion_are_left_alone(
    cluster: tuple[str, dict[str, Any], list[Any]],
    tmp_path: Path,
    tiny: ModelFolder,
    second: ModelFolder,
) -> None:
    url, item, patches = cluster
    item["metadata"]["creationTimestamp"] = "2026-11-01T00:20:00Z"
    storage = open_storage(str(tmp_path / "storage"))
    promote(storage, tiny)
    with KubernetesApi(Cluster(url, "eu", tmp_path / "token", None), patience=1.0) as api:
        rollout = ModelRollout(api, "eu", "m", ModelPointer(storage, "main"))
        assert not rollout.step()
        item["metadata"]["creationTimestamp"] = "2026-11-01T00:05:00Z"
        assert rollout.step(), "clocks may differ by as much"
    assert len(patches) == 1


@pytest.mark.vllm
def test_vllms_server_takes_the_arguments(tiny: ModelFolder) -> None:
    """Those that are given here, by the parser of the vLLM that is installed."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = server_arguments(tiny.path, tiny.digest, 8000, EngineGroup())[3:]
    found = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    assert found.served_model_name == [tiny.digest]
    assert found.host == "127.0.0.1"
    assert not found.trust_remote_code
    assert not found.enable_log_requests


KILLED = """
import subprocess, sys, time
from cosalign.serving.model_server import bound_to_us
child = subprocess.Popen([*bound_to_us(), "sleep", "600"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_server_does_not_outlive_a_gateway_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    eventually(lambda: gone(pid), "it lives on")


def gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


STAND_IN = """
import json, sys, uvicorn
from cosalign.serving.double import StandInServer
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
app = StandInServer({given["--served-model-name"]: 8192})
uvicorn.run(app, host="127.0.0.1", port=int(given["--port"]), log_level="critical")
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Model servers of this machine are the stand-in, as processes of their own."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)

    def arguments(_: Path, name: str, port: int, __: EngineGroup) -> list[str]:
        return [sys.executable, str(script), "--served-model-name", name, "--port", str(port)]

    monkeypatch.setattr("cosalign.serving.model_server.server_arguments", arguments)
    monkeypatch.setattr(local_serving, "AGAIN_SECONDS", 0.1)
    return script


class Local:
    """What ``cosalign serve`` runs, on a thread."""

    def __init__(self, installation: World) -> None:
        self._installation = installation
        settings = installation.gateway_settings()
        self.url = f"http://127.0.0.1:{settings.listen.port}/v1/chat/completions"
        self._settings = LocalSettings(settings, EngineGroup(), installation.folder / "logs")
        self.models: LocalModels | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> Local:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=30)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Gateway(self._settings.gateway) as gateway:
            self.models = models = LocalModels(gateway, self._settings)
            keeping = asyncio.create_task(models.run())
            self._ready.set()
            await serve(gateway, self._stop)
            keeping.cancel()
            await models.stop()

    def ask(self) -> httpx.Response:
        body = {
            "model": "cosalign",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 2,
        }
        headers = {"authorization": f"Bearer {self._installation.keys['pub'].key}"}
        try:
            return httpx.post(self.url, json=body, headers=headers)
        except httpx.TransportError:
            return httpx.Response(599)

    def fingerprint(self) -> str | None:
        answer = self.ask()
        found: str | None = answer.json()["system_fingerprint"] if answer.is_success else None
        return found

    def processes(self) -> list[Any]:
        assert self.models is not None
        return [server.process for server in self.models._servers.values()]


def test_servers_come_and_go_with_promotions_and_are_started_again_when_they_die(
    installation: World, stand_ins: Path, second: ModelFolder
) -> None:
    storage = open_storage(str(installation.storage))
    installation.settings["model"] = {"uri": None}
    installation.settings["upstreams"] = {"urls": []}
    first = installation.model
    promote(storage, first)
    with Local(installation) as local:
        eventually(lambda: local.fingerprint() == f"fp_{first.digest[:12]}")
        (old,) = local.processes()
        promote(storage, second)
        answers = []
        eventually(lambda: answers.append(local.ask().status_code) or len(local.processes()) == 2)  # type: ignore[func-returns-value]
        eventually(lambda: local.fingerprint() == f"fp_{second.digest[:12]}")
        eventually(lambda: old.poll() is not None, "the old server was not stopped")
        assert set(answers) == {200}
        (new,) = local.processes()
        new.kill()
        eventually(lambda: local.processes() and local.processes()[0] is not new)
        eventually(lambda: local.ask().is_success)
        (last,) = local.processes()
    assert last.poll() is not None


def test_commands_make_keys_and_check_an_installation(installation: World, tmp_path: Path) -> None:
    settings = tmp_path / "gateway.yaml"
    settings.write_text(yaml.safe_dump(installation.gateway_settings().model_dump(mode="json")))
    run = CliRunner()
    made = run.invoke(gateway, ["key", "--pepper", str(installation.folder / "pepper")])
    (entry,) = yaml.safe_load(made.stdout)
    key = made.stderr.split()[-1]
    assert key_fits(key, entry["hash"], PEPPER)
    assert key not in made.stdout
    checked = run.invoke(gateway, ["check", "--settings", str(settings)])
    assert checked.exit_code == 0
    told = [line.split()[:3] for line in checked.stdout.splitlines() if "config in use" not in line]
    assert told == [
        ["pub", "ie:", "pub-ie"], ["school", "no:", "school-no"],
    ]  # fmt: skip
    (installation.configs / "pub-ie.yaml").unlink()
    checked = run.invoke(gateway, ["check", "--settings", str(settings)])
    assert isinstance(checked.exception, CosalignError)
    assert "pub ie: refused, config_missing" in checked.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("storage: x", "tenants"),
        ("{storage: x, tenants: y, pepper_file: z}", "upstreams.urls"),
        ("{storage: x, tenants: y, pepper_file: z, upstream: {}}", "unknown field"),
        ("{storage: x, tenants: y, pepper_file: z, configs: {kind: files}}", "addresses"),
        ("{storage: x, tenants: y, pepper_file: z, upstreams: {prompt: raw}}", "prompt"),
    ],
)
def test_wrong_settings_end_with_exit_code_2_and_one_message(
    tmp_path: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(content)
    assert main(["run", "--settings", str(file)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_port_that_is_taken_says_so(
    installation: World, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    with installation.gateway() as found:
        plain = found.settings.model_dump(mode="json")
        file.write_text(yaml.safe_dump(plain))
        assert main(["run", "--settings", str(file)]) == 2
    assert "cannot be had" in capsys.readouterr().err
