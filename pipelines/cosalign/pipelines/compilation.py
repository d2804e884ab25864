"""Compiles the KFP graphs to JSON that is the same on every machine.

The compiled file is checked in and ships with the package: whoever runs a pipeline needs no kfp,
and a review shows what changed in what a cluster will execute. kfp is imported inside functions.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import yaml

from cosalign.domain.errors import UserError, nearest

GRAPHS = {
    "cosalign": ("cosalign.pipelines.graph", "cosalign"),
    "evaluate": ("cosalign.pipelines.graph", "evaluate"),
}
"""Pipelines by name: module and attribute of the graph."""

Spec = dict[str, Any]


@dataclass(frozen=True)
class CompiledPipeline:
    """A compiled pipeline as KFP keeps it: what to run, and on what.

    Attributes:
        pipeline: The IR (``PipelineSpec``).
        platform: Kubernetes settings by executor (``PlatformSpec``).
    """

    pipeline: Spec
    platform: Spec

    def files(self, name: str) -> dict[Path, str]:
        """The checked-in files and their texts."""
        return {
            compiled_path(name): _json_text(self.pipeline),
            platform_path(name): _json_text(self.platform),
        }

    def package(self) -> str:
        """Both as the one file that KFP's client and UI take: a YAML stream of JSON documents."""
        return f"{_json_text(self.pipeline)}---\n{_json_text(self.platform)}"


def compiled_path(name: str) -> Path:
    """The checked-in IR of a pipeline.

    Raises:
        UserError: There is no such pipeline.
    """
    if name not in GRAPHS:
        raise UserError(f"no pipeline {name!r}{nearest(name, GRAPHS)}")
    return Path(str(resources.files("cosalign.pipelines"))) / "compiled" / f"{name}.json"


def platform_path(name: str) -> Path:
    """The checked-in platform settings of a pipeline; raises as :func:`compiled_path`."""
    return compiled_path(name).with_name(f"{name}-platform.json")


def shipped_pipeline(name: str) -> CompiledPipeline:
    """A pipeline as it was compiled and checked in; needs no kfp.

    Raises:
        UserError: There is no such pipeline.
    """
    files = (compiled_path(name), platform_path(name))
    return CompiledPipeline(*(json.loads(file.read_text(encoding="utf-8")) for file in files))


def compile_pipeline(name: str) -> CompiledPipeline:
    """Compiles a pipeline.

    Raises:
        UserError: There is no such pipeline, or kfp is not installed.
    """
    compiled_path(name)
    return CompiledPipeline(*_kfp_documents(name))


def _json_text(spec: Spec) -> str:
    return json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _kfp_documents(name: str) -> tuple[Spec, Spec]:
    try:
        from kfp import compiler
    except ImportError:
        raise UserError(
            "compiling needs kfp, which is not installed: pip install 'cosalign[authoring]'"
        ) from None
    module, attribute = GRAPHS[name]
    graph = getattr(import_module(module), attribute)
    with tempfile.TemporaryDirectory() as folder:
        # kfp means to drop JSON as a target, though the API server takes either.
        target = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(graph, str(target))
        pipeline, platform = yaml.safe_load_all(target.read_text(encoding="utf-8"))
    return pipeline, platform
