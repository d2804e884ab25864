"""How a command reaches Kubeflow Pipelines: shared options, and the client that they open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cosalign.domain.errors import UserError
from cosalign.retraining.submission import Kubeflow, explained

Command = TypeVar("Command", bound=Callable[..., Any])
_OPTIONS = (
    click.option("--host", envvar="KF_PIPELINES_ENDPOINT", metavar="URL", help="Kubeflow's API."),
    click.option("--namespace", metavar="NAME", help="Yours, on a multi-user server."),
    click.option("--token-env", metavar="VARIABLE", help="Environment variable of a bearer token."),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="File of a bearer token, read anew for each request: a pod's service account token, "
        "for instance.",
    ),
)


def connection_options(command: Command) -> Command:
    """Adds ``--host``, ``--namespace``, ``--token-env`` and ``--token-file`` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_kubeflow(
    host: str | None, namespace: str | None, token_env: str | None, token_file: Path | None
) -> Kubeflow:
    """A client of the server that options name.

    Raises:
        KubeflowUnavailable: The server does not answer.
        UserError: kfp is missing, no server is named, or a token is named and not there.
    """
    try:
        import kfp
    except ImportError:
        raise UserError(
            "Kubeflow Pipelines is reached with kfp, which is not installed: "
            "pip install 'cosalign[authoring]'"
        ) from None
    if not host:
        raise UserError("name Kubeflow's address with --host URL or KF_PIPELINES_ENDPOINT")
    signed_in = _signed_in(token_env, token_file)
    with explained(f"reach Kubeflow Pipelines at {host}"):
        return Kubeflow(kfp.Client(host=host, **signed_in), namespace)


def _signed_in(token_env: str | None, token_file: Path | None) -> dict[str, Any]:
    """What kfp's client signs in with, as its arguments."""
    if token_env and token_file:
        raise UserError("--token-env and --token-file both name a token; give one")
    if token_file:
        return {"credentials": _file_credentials(token_file)}
    token = os.environ.get(token_env) if token_env else None
    if token_env and not token:
        raise UserError(f"--token-env {token_env}: there is no such environment variable")
    return {"existing_token": token}


def _file_credentials(token_file: Path) -> Any:
    """A token that is read anew for each request: whoever renews it is slower than a run."""
    from kfp.client import ServiceAccountTokenVolumeCredentials

    try:
        token_file.read_bytes()
    except OSError as problem:
        raise UserError(f"--token-file {token_file}: {problem.strerror}") from None
    return ServiceAccountTokenVolumeCredentials(str(token_file))
