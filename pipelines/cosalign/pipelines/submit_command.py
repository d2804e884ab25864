"""``cosalign submit``: one run config and a shipped pipeline, executed on Kubeflow Pipelines."""

from __future__ import annotations

from typing import Any

import click

from cosalign.domain.errors import ConfigError
from cosalign.domain.fingerprint import Json
from cosalign.pipelines.given_parameters import given_pairs, given_parameters
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.run_parameters import run_parameters
from cosalign.retraining.connection import connection_options, open_kubeflow
from cosalign.retraining.shipped_pipelines import PIPELINES, compiled_path, shipped_pipeline
from cosalign.retraining.submission import (
    RunRequest,
    RunState,
    follow,
    refuse_failed,
    with_training_placed,
)
from cosalign.runtime.run_config import (
    dump_run_config,
    load_run_config,
    run_config_digest,
    stored_config_path,
)
from cosalign.store.storage import open_storage

_POLL_SECONDS = 10.0


@click.command("submit")
@click.argument("name", type=click.Choice(list(PIPELINES)), default="cosalign")
@connection_options
@click.option("--profile", required=True, metavar="NAME|FILE", help="The run config.")
@click.option("--set", "overrides", multiple=True, metavar="GROUP.KEY=VALUE",
              help="Override one value of it; may be repeated.")  # fmt: skip
@click.option("--parameter", "-p", "parameters", multiple=True, metavar="NAME=VALUE",
              help="A parameter of the pipeline: text, or JSON; may be repeated.")  # fmt: skip
@click.option("--experiment", default="cosalign", show_default=True, metavar="NAME",
              help="Made if there is none.")  # fmt: skip
@click.option("--run-name", metavar="NAME", help="From pipeline and config by default.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="May be repeated.")
@click.option("--pipeline-root", metavar="URL", help="Where artifacts go.")
@click.option("--service-account", metavar="NAME", help="Of the run's pods.")
@click.option("--poll-seconds", default=_POLL_SECONDS, show_default=True, hidden=True)
@click.option("--wait/--no-wait", default=True, help="Follow the run to its end.")
def submit_command(**given: Any) -> None:
    """Run NAME (cosalign or evaluate) on Kubeflow Pipelines.

    The exit code is the run's: 0 where it succeeded, 1 where it failed or was cancelled; 75 where
    the server did not answer, or no longer lets the run be looked at. It goes on if this command is
    stopped.
    """
    config = load_run_config(given["profile"], given["overrides"])
    if "://" not in config.storage.root or config.storage.root.startswith("file://"):
        raise ConfigError(
            f"storage.root is {config.storage.root!r}, which pods cannot read; name a place on "
            "gs:// (--set storage.root=gs://BUCKET/PREFIX)"
        )
    digest = run_config_digest(config)
    storage, path = open_storage(config.storage.root), stored_config_path(digest)
    compiled = shipped_pipeline(given["name"])
    pipeline = parse_pipeline(compiled_path(given["name"]).read_bytes(), given["name"])
    own: dict[str, Json] = {
        "run_config_uri": storage.uri_of(path),
        "run_config_digest": digest,
        **given_parameters(pipeline, given["parameters"]),
    }
    request = RunRequest(
        name=given["run_name"] or f"{given['name']}-{digest[:12]}",
        experiment=given["experiment"],
        parameters=with_training_placed(_sent(own, run_parameters(pipeline, own)), compiled),
        labels={"cosalign.dev/config": digest, **given_pairs("--label", given["labels"])},
        pipeline_root=given["pipeline_root"],
        service_account=given["service_account"],
    )
    server = open_kubeflow(*(given[n] for n in ("host", "namespace", "token_env", "token_file")))
    storage.write_bytes(path, dump_run_config(config).encode())
    run_id = server.start(*server.version(given["name"], compiled), request)
    click.echo(f"run {run_id}: {request.name}")
    if given["wait"]:
        progress = _Progress({task.name for task in pipeline.tasks})
        refuse_failed(follow(lambda: server.state(run_id), progress.show, given["poll_seconds"]))


def _sent(own: dict[str, Json], checked: dict[str, Json]) -> dict[str, Json]:
    """What the user named; defaults are the pipeline's to fill in."""
    return {name: checked[name] for name in own}


class _Progress:
    """Prints what is new of a run: its state, and those of the pipeline's tasks."""

    def __init__(self, tasks: set[str]) -> None:
        self._shown: dict[str, str] = {}
        self._tasks = tasks

    def show(self, run: RunState) -> None:
        self._line(f"run {run.run_id}", run.state.lower())
        for name in sorted(self._tasks & run.tasks.keys()):
            self._line(f"  {name}", run.tasks[name])

    def _line(self, what: str, state: str) -> None:
        if self._shown.get(what) != state:
            self._shown[what] = state
            click.echo(f"{what}: {state}")
