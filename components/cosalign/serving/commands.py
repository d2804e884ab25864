"""``cosalign gateway``: runs the gateway, checks its settings, makes API keys."""

from __future__ import annotations

import click

SETTINGS = click.option(
    "--settings", required=True, metavar="FILE", help="The gateway's settings, local or gs://."
)


@click.group("gateway")
def gateway() -> None:
    """Serve a model under the safety config of whoever asks."""


@gateway.command("run")
@SETTINGS
def run_gateway(settings: str) -> None:
    """Run the gateway until it is stopped.

    Health, readiness and metrics are on a port of their own (listen.admin_port).
    """
    from cosalign.runtime.logs import configure_logs
    from cosalign.serving.gateway import Gateway
    from cosalign.serving.server import run
    from cosalign.serving.settings import read_gateway_settings

    configure_logs()
    found = read_gateway_settings(settings)
    run(lambda: Gateway(found))


@gateway.command("check")
@SETTINGS
def check_gateway(settings: str) -> None:
    """Read settings, tenants and safety configs once, and say which tenant would get which.

    Ends with exit code 2 where a tenant's region would be refused.
    """
    from cosalign.domain.errors import UserError
    from cosalign.serving.installation_check import check_installation
    from cosalign.serving.settings import read_gateway_settings

    lines, refused = check_installation(read_gateway_settings(settings))
    for line in lines:
        click.echo(line)
    if refused:
        raise UserError(f"{refused} of {len(lines)} would be refused")


@gateway.command("fetch-model")
@click.option("--storage", required=True, metavar="ADDRESS", help="The storage root.")
@click.option("--pointer", default="main", show_default=True, help="The pointer's name.")
@click.option("--out", required=True, metavar="FOLDER", help="Where the model is put.")
def fetch_model(storage: str, pointer: str, out: str) -> None:
    """Fetch the promoted model, and write FOLDER/vllm.yaml, which its server is started with."""
    from pathlib import Path

    from cosalign.runtime.logs import configure_logs
    from cosalign.serving.model_fetch import fetch_promoted

    configure_logs()
    fetch_promoted(storage, pointer, Path(out))


@gateway.command("roll-models")
@click.option("--storage", required=True, metavar="ADDRESS", help="The storage root.")
@click.option("--pointer", default="main", show_default=True, help="The pointer's name.")
@click.option("--deployment", required=True, metavar="NAME", help="Of the model servers.")
def roll_models(storage: str, pointer: str, deployment: str) -> None:
    """Keep this namespace's model servers on the promoted model; runs until it is ended."""
    from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi
    from cosalign.runtime.logs import configure_logs
    from cosalign.serving.model_rollout import ModelRollout
    from cosalign.store.model_pointer import ModelPointer
    from cosalign.store.storage import open_storage

    configure_logs()
    cluster = Cluster.own()
    with KubernetesApi(cluster) as api:
        current = ModelPointer(open_storage(storage), pointer)
        ModelRollout(api, cluster.namespace, deployment, current).run()


@gateway.command("key")
@click.option(
    "--pepper",
    required=True,
    metavar="FILE",
    help="File with the secret that keys are hashed under.",
)
@click.option("--region", help="The key's region, for a tenant with several.")
@click.option("--expires", metavar="DATE", help="When it ends, ISO 8601.")
def make_key(pepper: str, region: str | None, expires: str | None) -> None:
    """Make an API key: the key on standard error, once; its entry on standard output.

    The entry goes under the tenant's `keys` in the tenants' file. The key itself is kept nowhere.
    """
    from cosalign.domain.errors import ConfigError
    from cosalign.domain.validation import validated
    from cosalign.domain.yaml_text import dump_yaml
    from cosalign.serving.api_keys import new_key, read_pepper
    from cosalign.serving.tenants import KeyEntry

    made = new_key(read_pepper(pepper))
    plain = {"id": made.id, "hash": made.hash, "region": region, "expires": expires}
    given = {name: value for name, value in plain.items() if value is not None}
    validated(KeyEntry, given, "key", ConfigError)
    click.echo(f"key, shown this once: {made.key}", err=True)
    click.echo(dump_yaml([given]), nl=False)
