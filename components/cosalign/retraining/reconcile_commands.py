"""``cosalign reconcile`` and ``cosalign status``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cosalign.retraining.connection import connection_options

if TYPE_CHECKING:
    from cosalign.retraining.reconcile import Tick
    from cosalign.retraining.status_file import Status


@click.command("reconcile")
@click.option("--profile", required=True, metavar="NAME|FILE", help="The run config of all runs.")
@click.option("--set", "overrides", multiple=True, metavar="GROUP.KEY=VALUE",
              help="Override one value of it; may be repeated.")  # fmt: skip
@click.option("--configs", metavar="ADDRESS", help="A folder of safety configs, local or gs://.")
@click.option("--kubernetes", is_flag=True, help="Read SafetyConfigs of the cluster this runs in.")
@click.option("--config-namespace", "config_namespaces", multiple=True, metavar="NAME",
              help="Of which namespace, the pod's own by default; may be repeated.")  # fmt: skip
@click.option("--approvers", metavar="ADDRESS",
              help="Who may propose and approve; with --local it may be left out.")  # fmt: skip
@click.option("--local", is_flag=True, help="Carry runs out on this machine, to their end.")
@connection_options
@click.option("--experiment", default="cosalign", show_default=True, metavar="NAME")
@click.option("--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE",
              help="Of runs whose pipeline takes it: text, or JSON; may be repeated.")  # fmt: skip
@click.option("--version", "versions", multiple=True, metavar="PIPELINE=VERSION",
              help="A deployed version; of others the one that ships is uploaded.")  # fmt: skip
@click.option("--pipeline-root", metavar="URL", help="Where artifacts go.")
@click.option("--service-account", metavar="NAME", help="Of the runs' pods.")
@click.option("--settle-seconds", type=click.FloatRange(0),
              help="How long configs have to rest before they are acted on, together; 300, and 0 "
              "with --local.")  # fmt: skip
@click.option("--settle-limit-seconds", default=3600.0, show_default=True, type=click.FloatRange(0),
              help="How long they may go on changing.")  # fmt: skip
@click.option("--attempts", default=3, show_default=True, type=click.IntRange(1),
              help="At a run that fails for a reason that may pass.")  # fmt: skip
@click.option("--backoff-seconds", default=600.0, show_default=True, type=click.FloatRange(0),
              help="Between the first two attempts; doubled for each further.")  # fmt: skip
@click.option("--lease-seconds", default=120.0, hidden=True, type=click.FloatRange(0))
@click.option("--policy", "policy", multiple=True, metavar="KEY=VALUE",
              help="When which run is due: evaluate_first, max_increments, max_drift, "
              "max_added_share, max_days; may be repeated.")  # fmt: skip
@click.option("--increment", "increment", multiple=True, metavar="KEY=VALUE",
              help="start, prompts, responses, replay_share, epochs, seed.")  # fmt: skip
@click.option("--full", is_flag=True, help="Where a training is due, make it a full run.")
@click.option("--by", default="reconcile", show_default=True, metavar="NAME",
              help="In whose name things are recorded.")  # fmt: skip
@click.option("--webhook", metavar="URL", help="Where signed notices go.")
@click.option("--webhook-secret-env", default="COSALIGN_WEBHOOK_SECRET", show_default=True,
              metavar="VARIABLE", help="Environment variable of its secret, whsec_...")  # fmt: skip
@click.option("--metrics-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write Prometheus metrics for a textfile collector.")  # fmt: skip
@click.option("--pushgateway", metavar="URL", help="Push Prometheus metrics there.")
def reconcile_command(**given: Any) -> None:
    """Do what safety configs ask for: accept, measure, train, promote.

    One look at what regions want and at what is there; started again and again, by a CronJob or by
    hand. Configs come from a folder (--configs) or from the cluster (--kubernetes). With --local it
    goes on until nothing is left to do.
    """
    from cosalign.retraining.reconcile_setup import set_up
    from cosalign.runtime.logs import configure_logs

    configure_logs()
    given["webhook_secret"] = os.environ.get(given.pop("webhook_secret_env"))
    with set_up(given) as reconciling:
        for tick, status in reconciling.ticks():
            _say(tick, status)


def _say(tick: Tick, status: Status) -> None:
    for line in tick.done:
        click.echo(line)
    for verdict in tick.verdicts:
        if verdict.refused:
            click.echo(f"refused {verdict.desired.name}: {verdict.reason}: {verdict.message}")
    for problem in tick.desired.problems:
        click.echo(f"cannot be read: {problem}")
    settles = f", in {status.settle_left:.0f} s" if status.settle_left else ""
    click.echo(f"due: {status.due}{settles}: {status.why}")
    for lane, step in tick.next_steps.items():
        if step.action != "idle":
            click.echo(f"{lane}: {step.why}")


@click.command("status")
@click.option("--root", default="cosalign-out", show_default=True, metavar="ADDRESS",
              help="The storage root.")  # fmt: skip
@click.option("--name", default="main", show_default=True, metavar="NAME",
              help="As of the model that is reconciled.")  # fmt: skip
@click.option("--region", "regions", multiple=True, metavar="NAME", help="Only this region's.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write one page of regions by phase.")  # fmt: skip
def status_command(
    root: str, name: str, regions: tuple[str, ...], as_json: bool, html: Path | None
) -> None:
    """Show what became of each safety config, as the last reconcile left it."""
    from cosalign.domain.errors import UserError
    from cosalign.retraining.status_file import StatusFile
    from cosalign.retraining.status_view import status_lines, status_page
    from cosalign.store.storage import open_storage

    storage = open_storage(root)
    status, _ = StatusFile(storage, name).read()
    if status is None:
        raise UserError(
            f"{storage.uri} holds no status of {name!r}; run cosalign reconcile with "
            "storage.root there, or name another --name"
        )
    if html is not None:
        html.write_text(status_page(status), encoding="utf-8")
        click.echo(f"wrote {html}")
    elif as_json:
        click.echo(json.dumps(status.model_dump(mode="json"), indent=2))
    else:
        click.echo("\n".join(status_lines(status, regions)))
