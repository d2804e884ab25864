"""``cosalign migrate``: what is stored under older versions, and to rewrite it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command("migrate")
@click.option("--root", default="cosalign-out", show_default=True, help="Storage root.")
@click.option("--cluster", is_flag=True, help="Look at this cluster's SafetyConfigs too; in a pod.")
@click.option("--apply", "applied", is_flag=True, help="Rewrite; without it, only say what would.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def migrate_command(root: str, cluster: bool, applied: bool, as_json: bool) -> None:
    """Say which versions are stored, and rewrite what is old.

    Ledgers are rewritten; tables and documents stay and are upgraded as they are read. Exit code 2
    where something was written by a newer release. Killed half-way, it is started again.
    """
    from cosalign.domain.errors import DataError
    from cosalign.store.storage import open_storage
    from cosalign.store.stored_versions import migrate_ledgers, survey

    storage = open_storage(root)
    found = survey(storage)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        click.echo("kind\tname\tversion\tfiles\tbecomes")
        for one in found:
            version = "-" if one.version is None else str(one.version)
            click.echo(f"{one.kind}\t{one.name}\t{version}\t{one.count}\t{one.becomes}")
    newer = [one for one in found if one.newer]
    if newer:
        raise DataError(
            f"{len(newer)} of these cannot be read by this release: {newer[0].name}: "
            f"{newer[0].becomes}"
        )
    if applied:
        done = migrate_ledgers(storage)
        click.echo(f"rewritten: {', '.join(done) or 'nothing'}", err=as_json)
    if cluster:
        _migrate_cluster(applied, as_json)


def _migrate_cluster(applied: bool, as_json: bool) -> None:
    from cosalign.retraining.crd_migration import migrate_configs, stored_configs
    from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi

    with KubernetesApi(Cluster.own()) as api:
        found = stored_configs(api)
        stored = ", ".join(found.stored)
        click.echo(f"SafetyConfigs\tstored as {stored}, written as {found.storage}", err=as_json)
        if found.old and applied:
            click.echo(f"rewritten: {migrate_configs(api, found)} SafetyConfigs", err=as_json)
