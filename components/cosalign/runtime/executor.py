"""KFP's executor contract, so that images need no kfp.

A container component is started with ``--executor-input JSON``. It holds parameter values and input
artifacts, and says where outputs go: parameters and artifacts to files, everything about them into
one ``outputFile``. ``gs://b/k`` artifacts are mounted at ``/gcs/b/k`` by KFP's launcher.

Source: kubeflow/pipelines ``ExecutorInput`` and ``ExecutorOutput`` (pipeline_spec.proto), 2.17.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from cosalign.domain.errors import ConfigError, StorageError

_MOUNTS = {"gs": "/gcs", "s3": "/s3", "minio": "/minio"}


def artifact_path(uri: str) -> Path:
    """Where KFP's launcher puts the artifact of an address."""
    parsed = urlparse(uri)
    if parsed.scheme in _MOUNTS:
        return Path(f"{_MOUNTS[parsed.scheme]}/{parsed.netloc}{parsed.path}")
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    return Path(uri)


@dataclass
class ExecutorIo:
    """One task's inputs, and where its outputs go.

    Attributes:
        parameters: Input parameters by name.
        artifacts: Input artifacts: name to local path.
        output_file: Where the executor output is written.
        outputs: Output artifacts as KFP described them, by name.
        output_parameters: Files of output parameters, by name.
        metadata: Metadata of output artifacts, by artifact name; filled in by the step.
    """

    parameters: dict[str, Any]
    artifacts: dict[str, Path]
    output_file: Path
    outputs: dict[str, dict[str, Any]]
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    output_parameters: dict[str, Path] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the task's outputs go: the same for all attempts at it, and for no other task."""
        return min((spec["uri"] for spec in self.outputs.values()), default="")

    def output_path(self, name: str) -> Path:
        """The file of an output artifact; its folder is made."""
        path = artifact_path(self.outputs[name]["uri"])
        _make_parent(path)
        return path

    def write_output(self, name: str, data: bytes) -> None:
        """Writes an output artifact."""
        _write(self.output_path(name), data)

    def write_parameter(self, name: str, value: str | list[str]) -> None:
        """Writes an output parameter, if the task has it."""
        if name in self.output_parameters:
            text = value if isinstance(value, str) else json.dumps(value)
            _make_parent(self.output_parameters[name])
            _write(self.output_parameters[name], text.encode())

    def finish(self) -> None:
        """Writes the executor output; without it KFP does not know that artifacts exist."""
        artifacts = {
            name: {"artifacts": [{**spec, "metadata": self.metadata.get(name, {})}]}
            for name, spec in self.outputs.items()
        }
        _make_parent(self.output_file)
        _write(self.output_file, json.dumps({"artifacts": artifacts}).encode())


def parse_executor_input(text: str) -> ExecutorIo:
    """Reads KFP's executor input.

    Raises:
        ConfigError: It is not what KFP sends.
    """
    try:
        raw = json.loads(text)
        inputs, outputs = raw.get("inputs", {}), raw["outputs"]
        return ExecutorIo(
            parameters=inputs.get("parameterValues", {}),
            artifacts={
                name: artifact_path(listed["artifacts"][0]["uri"])
                for name, listed in inputs.get("artifacts", {}).items()
            },
            output_file=Path(outputs["outputFile"]),
            outputs={n: o["artifacts"][0] for n, o in outputs.get("artifacts", {}).items()},
            output_parameters={
                n: Path(o["outputFile"]) for n, o in outputs.get("parameters", {}).items()
            },
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
        raise ConfigError(
            f"--executor-input is not KFP's executor input ({type(problem).__name__}: {problem}); "
            "outside KFP use the plain flags, see --help"
        ) from None


def _make_parent(path: Path) -> None:
    with _explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)


def _write(path: Path, data: bytes) -> None:
    with _explained(path):
        path.write_bytes(data)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise StorageError(
            f"{path}: {problem.strerror}; choose an output folder that can be written"
        ) from None
