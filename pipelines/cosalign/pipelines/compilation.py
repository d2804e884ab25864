"""Compiles the KFP graphs to JSON that is the same on every machine.

The compiled file is checked in and ships with the package: whoever runs a pipeline needs no kfp,
and a review shows what changed in what a cluster will execute. kfp is imported inside functions.
"""

from __future__ import annotations

import json
import tempfile
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import yaml

from cosalign.domain.errors import UserError, nearest
from cosalign.pipelines.images import image_reference

GRAPHS = {"cosalign": ("cosalign.pipelines.graph", "cosalign")}
"""Pipelines by name: module and attribute of the graph."""


def compiled_path(name: str) -> Path:
    """The checked-in compiled file of a pipeline.

    Raises:
        UserError: There is no such pipeline.
    """
    if name not in GRAPHS:
        raise UserError(f"no pipeline {name!r}{nearest(name, GRAPHS)}")
    return Path(str(resources.files("cosalign.pipelines"))) / "compiled" / f"{name}.json"


def compile_pipeline(name: str) -> str:
    """The IR of a pipeline as JSON, keys sorted, with full image references.

    Raises:
        UserError: There is no such pipeline, or kfp is not installed.
    """
    compiled_path(name)
    spec = _kfp_ir(name)
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor["container"]
        container["image"] = image_reference(container["image"])
    return json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _kfp_ir(name: str) -> dict[str, Any]:
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
        spec: dict[str, Any] = yaml.safe_load(target.read_text(encoding="utf-8"))
    return spec
