"""``cosalign submit``: one run config and a shipped pipeline, executed on Kubeflow Pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cosalign.domain.errors import ConfigError, UserError
from cosalign.domain.fingerprint import Json
from cosalign.pipelines.given_images import refuse_tags, with_images
from cosalign.pipelines.given_parameters import given_pairs, given_parameters
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.run_parameters import run_parameters
from cosalign.retraining.connection import connection_options, open_kubeflow
from cosalign.retraining.shipped_pipelines import PIPELINES, CompiledPipeline, shipped_pipeline
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
@click.option("--version", "deployed", metavar="NAME",
              help="Run this version, which the chart installed, with its images and "
              "parameters.")  # fmt: skip
@click.option("--images", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Run the version that ships, with the images in this file: dist/images.yaml, as "
              "`make images` writes it.")  # fmt: skip
@click.option("--allow-tags", is_flag=True,
              help="Take images by tag, for a try-out: a tag may come to mean another "
              "image.")  # fmt: skip
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

    The version that the chart installed (--version) knows this cluster's images and nodes. The one
    that ships with this release is uploaded if it is not there yet, and takes --images.

    The exit code is the run's: 0 where it succeeded, 1 where it failed or was cancelled; 75 where
    the server did not answer, or no longer lets the run be looked at. It goes on if this command is
    stopped.
    """
    config = load_run_config(given["profile"], given["overrides"])
    _refuse_local(config.storage.root)
    digest = run_config_digest(config)
    storage, path = open_storage(config.storage.root), stored_config_path(digest)
    compiled = _compiled(given["name"], given["deployed"], given["images"])
    pipeline = parse_pipeline(json.dumps(compiled.pipeline), given["name"])
    own: dict[str, Json] = {
        "run_config_uri": storage.uri_of(path),
        "run_config_digest": digest,
        **given_parameters(pipeline, given["parameters"]),
    }
    checked = run_parameters(pipeline, own)
    sent = with_training_placed({name: checked[name] for name in own}, compiled)
    if not given["allow_tags"]:
        # The defaults of a version that is deployed are not known here.
        refuse_tags(sent if given["deployed"] else checked)
    request = RunRequest(
        name=given["run_name"] or f"{given['name']}-{digest[:12]}",
        experiment=given["experiment"],
        parameters=sent,
        labels={"cosalign.dev/config": digest, **given_pairs("--label", given["labels"])},
        pipeline_root=given["pipeline_root"],
        service_account=given["service_account"],
    )
    server = open_kubeflow(*(given[n] for n in ("host", "namespace", "token_env", "token_file")))
    storage.write_bytes(path, dump_run_config(config).encode())
    if given["deployed"]:
        found = server.deployed(given["name"], given["deployed"])
    else:
        found = server.version(given["name"], compiled)
    run_id = server.start(*found, request)
    click.echo(f"run {run_id}: {request.name}")
    if given["wait"]:
        progress = _Progress({task.name for task in pipeline.tasks})
        refuse_failed(follow(lambda: server.state(run_id), progress.show, given["poll_seconds"]))


def _refuse_local(root: str) -> None:
    if "://" not in root or root.startswith("file://"):
        raise ConfigError(
            f"storage.root is {root!r}, which pods cannot read; name a place on gs:// "
            "(--set storage.root=gs://BUCKET/PREFIX)"
        )


def _compiled(name: str, deployed: str | None, images: Path | None) -> CompiledPipeline:
    """The pipeline that ships, with images where some are given."""
    if deployed and images:
        raise UserError("--version has images of its own; leave out --images, or run without it")
    compiled = shipped_pipeline(name)
    return with_images(compiled, images) if images else compiled


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
