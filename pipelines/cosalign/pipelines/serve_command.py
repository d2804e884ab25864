"""``cosalign serve``: the trained model behind the gateway, on this machine.

What a platform team runs in a cluster, small: vLLM's server, the gateway in front of it, a tenant
for each region. Keys are made anew at each start and kept nowhere; the tenants' file holds their
hashes and goes with the process. With a promoted model it follows promotions and rollbacks; else it
serves the newest trained one.
"""

from __future__ import annotations

import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cosalign.domain.errors import UserError

if TYPE_CHECKING:
    from cosalign.domain.run_config import RunConfig
    from cosalign.domain.safety_config import SafetyConfig
    from cosalign.store.storage import Storage

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Served:
    """What is served: a model (``None``: the promoted one) under some configs."""

    config: RunConfig
    model_uri: str | None
    configs: tuple[str, ...]


@click.command("serve")
@click.option("--root", default="cosalign-out", show_default=True, help="Storage root of the run.")
@click.option("--run-id", metavar="ID", help="The run; the newest that trained by default.")
@click.option(
    "--model",
    "name",
    type=click.Choice(["promoted", "dpo", "sft"]),
    help="Which model; the promoted one where there is one, else dpo.",
)
@click.option(
    "--configs",
    multiple=True,
    metavar="ADDRESS",
    help="Safety configs to serve under, files or folders; the run's own by default.",
)
@click.option("--port", default=8080, show_default=True, help="Where the API listens.")
@click.option("--admin-port", default=0, help="Where health and metrics are; any by default.")
def serve_command(
    root: str,
    run_id: str | None,
    name: str | None,
    configs: tuple[str, ...],
    port: int,
    admin_port: int,
) -> None:
    """Serve the trained model under each region's safety config, as an OpenAI-compatible API.

    Prints a key for each region once it is ready. The key decides which config applies; a request
    cannot. Ctrl-C ends it.
    """
    from cosalign.runtime.logs import configure_logs
    from cosalign.serving.local_serving import serve_locally
    from cosalign.store.storage import open_storage

    configure_logs()
    served = choose_served(open_storage(root), run_id, name, configs)
    with tempfile.TemporaryDirectory(prefix="cosalign-serve-") as folder:
        ports = {"host": HOST, "port": port, "admin_port": admin_port, "drain_seconds": 0}
        keys, settings = local_settings(served, root, Path(folder), ports)
        click.echo("starting the model server, half a minute or so ...", err=True)
        serve_locally(settings, lambda: say_ready(keys, port))


def choose_served(
    storage: Storage, run_id: str | None, name: str | None, configs: tuple[str, ...]
) -> Served:
    """What is served.

    Args:
        storage: The storage root.
        run_id: Which run; the newest that trained where ``None``.
        name: ``promoted``, or which of the run's models.
        configs: Addresses of safety configs; the run's own where there are none.

    Raises:
        UserError: There is no such run or model, or there are no configs.
    """
    from cosalign.pipelines.finished_runs import newest_trained_run
    from cosalign.store.model_pointer import ModelPointer

    run = newest_trained_run(storage, run_id)
    addresses = configs or run.config.configs.files
    if not addresses:
        raise UserError(f"run {run.run_id} has no safety configs; name some with --configs")
    promoted = ModelPointer(storage, run.config.gate.model).current() is not None
    if name == "promoted" and not promoted:
        raise UserError("no model is promoted here; see `cosalign promote --help`")
    if name == "promoted" or (name is None and run_id is None and promoted):
        return Served(run.config, None, addresses)
    wanted = name or "dpo"
    if wanted not in run.models:
        raise UserError(f"run {run.run_id} trained {', '.join(run.models)}, and not {wanted}")
    return Served(run.config, run.models[wanted], addresses)


def local_settings(
    served: Served, root: str, folder: Path, listen: dict[str, Any]
) -> tuple[list[tuple[SafetyConfig, str]], Any]:
    """Settings, files and keys of a gateway on this machine.

    Args:
        served: What is served.
        root: The storage root.
        folder: Where tenants and pepper are written.
        listen: Host and ports.

    Returns:
        Each config with its region's key, and the settings.
    """
    from cosalign.domain.errors import ConfigError
    from cosalign.domain.validation import validated
    from cosalign.runtime.safety_config_files import known_taxonomies, read_safety_configs
    from cosalign.serving.local_serving import LocalSettings
    from cosalign.serving.settings import GatewaySettings

    run = served.config
    found = read_safety_configs(served.configs, known_taxonomies(run.taxonomy.files))
    keys = _write_tenants(found, run.models.engine.max_model_len, folder)
    plain = {
        "storage": root,
        "tenants": str(folder / "tenants.yaml"),
        "pepper_file": str(folder / "pepper"),
        "cache": run.storage.cache,
        "listen": listen,
        "configs": {
            "kind": "files", "addresses": served.configs, "taxonomies": run.taxonomy.files,
            "refresh_seconds": 2,
        },
        "model": {"pointer": run.gate.model, "uri": served.model_uri, "refresh_seconds": 2},
        "upstreams": {"probe_seconds": 0.5},
    }  # fmt: skip
    settings = validated(GatewaySettings, plain, "cosalign serve", ConfigError)
    return keys, LocalSettings(settings, run.models.engine, Path(root) / "logs")


def _write_tenants(
    configs: list[SafetyConfig], context: int, folder: Path
) -> list[tuple[SafetyConfig, str]]:
    from cosalign.domain.yaml_text import dump_yaml
    from cosalign.serving.api_keys import new_key

    pepper = secrets.token_hex(32).encode()
    (folder / "pepper").write_bytes(pepper)
    keys = [(config, new_key(pepper)) for config in configs]
    # A quarter of the context is left to the config.
    limits = {"prompt_tokens": context // 2, "completion_tokens": context // 4}
    tenants = [
        {
            "name": f"local-{number}",
            "regions": [config.region],
            "configs": {config.region: config.name},
            "keys": [{"id": key.id, "hash": key.hash}],
            "limits": limits,
        }
        for number, (config, key) in enumerate(keys)
    ]
    (folder / "tenants.yaml").write_text(dump_yaml({"tenants": tenants}), encoding="utf-8")
    return [(config, key.key) for config, key in keys]


def say_ready(keys: list[tuple[SafetyConfig, str]], port: int) -> None:
    """Prints each region's key, and a request to try one with.

    Args:
        keys: Each config with its region's key.
        port: Where the gateway listens.
    """
    address = f"http://{HOST}:{port}/v1"
    click.echo(f"\n{address} answers as the OpenAI API does, model name cosalign.\n")
    click.echo(f"{'region':<10}{'config':<20}key")
    for config, key in keys:
        click.echo(f"{config.region:<10}{config.name:<20}{key}")
    body = '{"model": "cosalign", "messages": [{"role": "user", "content": "Tell me of beer."}]}'
    click.echo(
        f"\ncurl {address}/chat/completions -H 'content-type: application/json' \\\n"
        f"  -H 'authorization: Bearer {keys[0][1]}' \\\n  -d '{body}'\n"
    )
