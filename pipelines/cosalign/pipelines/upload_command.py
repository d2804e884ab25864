"""``cosalign pipelines upload``: pipelines into a Kubeflow that keeps them in its database.

Where Kubeflow keeps pipelines as objects of the Kubernetes API, the chart installs such objects. On
other servers a Job of the chart uploads the very same objects with this command, so that a version
has one name and one content wherever it lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from cosalign.domain.errors import UserError
from cosalign.retraining.connection import connection_options, open_kubeflow
from cosalign.retraining.shipped_pipelines import PIPELINES, CompiledPipeline, shipped_pipeline
from cosalign.retraining.submission import version_name

KIND = "PipelineVersion"
_SUFFIXES = {".json", ".yaml", ".yml"}


@dataclass(frozen=True)
class NamedPipeline:
    """A pipeline to upload, and the name of its version."""

    name: str
    compiled: CompiledPipeline
    version: str


@click.group("pipelines")
def pipelines() -> None:
    """Upload pipelines to Kubeflow Pipelines."""


@pipelines.command("upload")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@connection_options
def upload(files: tuple[Path, ...], **connection: Any) -> None:
    """Upload PipelineVersion objects, or the shipped pipelines.

    FILE holds one object of pipelines.kubeflow.org/v2beta1, as JSON or YAML, or is a folder of such
    files. A version that is there already stays as it is: its name says what is in it.
    """
    wanted = read_versions(files) if files else _shipped()
    server = open_kubeflow(**connection)
    for one in wanted:
        _, version_id = server.version(one.name, one.compiled, one.version)
        click.echo(f"{one.name}: {one.version} is version {version_id}")


def _shipped() -> list[NamedPipeline]:
    found = {name: shipped_pipeline(name) for name in PIPELINES}
    return [NamedPipeline(n, compiled, version_name(n, compiled)) for n, compiled in found.items()]


def read_versions(files: tuple[Path, ...]) -> list[NamedPipeline]:
    """The pipelines that some files hold.

    Raises:
        UserError: A file cannot be read, or holds something else.
    """
    return [_read(file) for given in files for file in _files(given)]


def _files(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    found = sorted(file for file in given.iterdir() if file.suffix in _SUFFIXES)
    if not found:
        raise UserError(f"{given}: no *.json or *.yaml in this folder")
    return found


def _read(file: Path) -> NamedPipeline:
    try:
        item = yaml.load(file.read_text("utf-8"), yaml.CSafeLoader)
    except OSError as problem:
        raise UserError(f"{file}: {problem.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{file}: neither JSON nor one YAML document") from None
    if not isinstance(item, dict) or item.get("kind") != KIND:
        raise UserError(
            f"{file}: holds no {KIND} of pipelines.kubeflow.org/v2beta1; the chart makes some, and "
            "`cosalign pipelines upload` without a file uploads what ships with this release"
        )
    try:
        spec = item["spec"]
        compiled = CompiledPipeline(spec["pipelineSpec"], spec.get("platformSpec") or {})
        return NamedPipeline(spec["pipelineName"], compiled, item["metadata"]["name"])
    except (KeyError, TypeError) as problem:
        raise UserError(f"{file}: this {KIND} lacks {problem}") from None
