"""``cosalign run``: one run config and the compiled pipeline, executed on this machine.

It knows nothing of the steps: which there are, their order and their commands come from the
compiled JSON alone, the same file that a cluster executes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from cosalign.domain.errors import ConfigError, UserError
from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import RunConfig
from cosalign.pipelines.given_parameters import given_parameters
from cosalign.pipelines.ir import Pipeline
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.launchers import SubprocessLauncher
from cosalign.pipelines.local_run import LocalRun, TaskReport
from cosalign.pipelines.run_summary import summarise
from cosalign.retraining.shipped_pipelines import PIPELINES, compiled_path
from cosalign.runtime.logs import configure_logs
from cosalign.runtime.result_notes import run_record_uri
from cosalign.runtime.run_config import dump_run_config, load_run_config, run_config_digest
from cosalign.store.storage import Storage, open_storage

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


@dataclass(frozen=True)
class RunOrder:
    """One run to be done; ``reports`` is filled as its tasks end."""

    run_id: str
    config: RunConfig
    pipeline: Pipeline
    storage: Storage
    shards: int = 0
    given: Mapping[str, Json] = field(default_factory=dict)
    reports: list[TaskReport] = field(default_factory=list)

    @property
    def folder(self) -> str:
        """The run's folder in storage."""
        return f"runs/{self.run_id}"

    def artifact_folder(self) -> Path:
        """The local folder of the run's artifacts; in the cache where storage is remote."""
        local = self.storage.local_path(f"{self.folder}/artifacts")
        return local or Path(self.config.storage.cache).expanduser() / self.folder / "artifacts"


@click.command("run")
@click.option("--profile", required=True, metavar="NAME|FILE", help="The run config.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="GROUP.KEY=VALUE",
    help="Override one value of it; may be repeated.",
)
@click.option(
    "--pipeline",
    "pipeline_name",
    default="cosalign",
    show_default=True,
    metavar="NAME|FILE",
    help="A pipeline that ships with cosalign, or a compiled one (JSON).",
)
@click.option(
    "--parameter",
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the pipeline: text, or JSON; may be repeated.",
)
@click.option("--run-id", metavar="ID", help="The run's name; from the time by default.")
@click.option(
    "--shards",
    type=click.IntRange(0, 999),
    default=0,
    help="Spread generation, judging and answering as a cluster does; one machine gains nothing.",
)
def run_command(
    profile: str,
    overrides: tuple[str, ...],
    pipeline_name: str,
    parameters: tuple[str, ...],
    run_id: str | None,
    shards: int,
) -> None:
    """Run the compiled pipeline on this machine."""
    configure_logs()
    config = load_run_config(profile, overrides)
    shipped = pipeline_name in PIPELINES
    pipeline = _read_pipeline(compiled_path(pipeline_name) if shipped else Path(pipeline_name))
    given = given_parameters(pipeline, parameters)
    name = _new_run_id() if run_id is None else _checked_run_id(run_id)
    order = RunOrder(name, config, pipeline, open_storage(config.storage.root), shards, given)
    try:
        _execute(order)
    finally:
        _report(order)


def _read_pipeline(file: Path) -> Pipeline:
    try:
        return parse_pipeline(file.read_bytes(), str(file))
    except OSError as problem:
        raise UserError(
            f"--pipeline {file}: {problem.strerror}; make one with `cosalign compile --output FILE`"
        ) from None


def _new_run_id() -> str:
    """Sorts by time; the random tail keeps two runs of one second apart."""
    return f"{datetime.now(UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(2)}"


def _checked_run_id(run_id: str) -> str:
    if not _RUN_ID.fullmatch(run_id):
        raise UserError(
            f"--run-id {run_id!r}: use at most 81 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    return run_id


def _execute(order: RunOrder) -> None:
    uri = _store_config(order)
    parameters: dict[str, Json] = {
        "run_config_uri": uri,
        "run_config_digest": run_config_digest(order.config),
        **order.given,
    }
    if "shards" not in parameters and "shards" in order.pipeline.parameters:
        parameters["shards"] = order.shards
    click.echo(f"run {order.run_id}: config {uri}", err=True)
    with SubprocessLauncher() as launcher:
        LocalRun(
            pipeline=order.pipeline,
            run_id=order.run_id,
            folder=order.artifact_folder(),
            launcher=launcher,
            on_report=order.reports.append,
        ).execute(parameters)


def _store_config(order: RunOrder) -> str:
    path = f"{order.folder}/config.yaml"
    data = dump_run_config(order.config).encode()
    if order.storage.stat(path) is not None and order.storage.read_bytes(path) != data:
        raise ConfigError(
            f"run {order.run_id!r} exists with another config; choose another --run-id "
            "(finished work is reused across runs)"
        )
    order.storage.write_bytes(path, data)
    return order.storage.uri_of(path)


def _store_page(order: RunOrder, path: str | None, name: str) -> str | None:
    """Copies a page beside the run's config, under a name that a browser opens."""
    if path is None:
        return None
    target = f"{order.folder}/{name}"
    order.storage.upload(Path(path), target)
    local = order.storage.local_path(target)
    return str(local) if local else order.storage.uri_of(target)


def _report(order: RunOrder) -> None:
    """Prints and stores how far the run came; nothing where no task was started."""
    if not order.reports:
        return
    digest = run_config_digest(order.config)
    summary = summarise(order.run_id, order.pipeline.name, digest, order.reports)
    finished = datetime.now(UTC).isoformat(timespec="microseconds")
    summary = replace(
        summary,
        report=_store_page(order, summary.report, "report.html"),
        data_card=_store_page(order, summary.data_card, "data-card.html"),
        training_curves=_store_page(order, summary.training_curves, "training-curves.html"),
        finished=finished,
        record=run_record_uri(order.storage, digest),
    )
    order.storage.write_bytes(f"{order.folder}/summary.json", summary.as_json())
    click.echo(summary.as_text())
