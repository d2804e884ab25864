"""``cosalign serve``: which model, which configs, whose keys; what it refuses before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cosalign.domain.run_config import RunConfig
from cosalign.pipelines.command_line import main
from cosalign.pipelines.serve_command import Served, local_settings
from cosalign.serving.api_keys import key_fits, read_pepper
from cosalign.serving.config_sources import open_config_source
from cosalign.serving.tenants import parse_tenants
from cosalign.store.model_pointer import Choice, ModelPointer
from cosalign.store.storage import open_storage

CONFIGS = ("profiles/demo/configs",)
LISTEN = {"host": "127.0.0.1", "port": 0, "admin_port": 0, "drain_seconds": 0}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What a run that trained leaves, as far as serving looks."""
    folder = tmp_path / "out" / "runs" / "r1"
    folder.mkdir(parents=True)
    taxonomy = {"name": "mild", "version": "1", "files": ["profiles/demo/taxonomy.yaml"]}
    run = {"configs": {"files": list(CONFIGS)}, "taxonomy": taxonomy}
    (folder / "config.yaml").write_text(yaml.safe_dump(run))
    summary = {"finished": "2026-11-01", "models": {"dpo": "models/d", "sft": "models/s"}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--root", "nowhere"], "no finished run"),
        (["--root", "OUT", "--run-id", "r2"], "no run 'r2'"),
        (["--root", "OUT", "--model", "promoted"], "no model is promoted"),
        (["--root", "OUT", "--configs", "no/such"], "no/such"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(
    trained: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["serve", *(argument.replace("OUT", str(trained)) for argument in arguments)])
    error = capsys.readouterr().err
    assert (code, "Traceback" in error) == (2, False)
    assert said in error


def test_the_promoted_model_is_followed_and_else_the_newest_is_served(trained: Path) -> None:
    from cosalign.pipelines.serve_command import choose_served

    storage = open_storage(str(trained))
    assert choose_served(storage, None, None, ()).model_uri == "models/d"
    assert choose_served(storage, None, "sft", ()).model_uri == "models/s"
    choice = Choice(action="promote", uri="x", digest="0" * 64, by="t", at="2026-11-01")
    ModelPointer(storage, "main").record(choice, 0)
    assert choose_served(storage, None, None, ()).model_uri is None
    assert choose_served(storage, "r1", None, ()).model_uri == "models/d"
    assert choose_served(storage, None, "promoted", ()).configs == CONFIGS


def test_each_config_gets_a_tenant_with_a_key_of_its_own(tmp_path: Path) -> None:
    files = ("profiles/demo/taxonomy.yaml",)
    run = RunConfig.model_validate({"taxonomy": {"name": "mild", "version": "1", "files": files}})
    keys, settings = local_settings(Served(run, "m", CONFIGS), str(tmp_path), tmp_path, LISTEN)
    assert [config.region for config, _ in keys] == ["at", "ie", "no"]
    assert len({key for _, key in keys}) == 3
    tenants = parse_tenants((tmp_path / "tenants.yaml").read_text(), "tenants")
    pepper = read_pepper(settings.gateway.pepper_file)
    for config, key in keys:
        (known,) = [k for k in tenants.keys.values() if key_fits(key, k.entry.hash, pepper)]
        assert known.caller().region == config.region
        assert known.tenant.configs == {config.region: config.name}
        # A prompt and an answer at their limits, and a config, fit the model together.
        limits = known.tenant.limits
        context = run.models.engine.max_model_len
        assert limits.prompt_tokens + limits.completion_tokens <= context * 3 // 4
    assert len(open_config_source(settings.gateway).read().servable) == 3
