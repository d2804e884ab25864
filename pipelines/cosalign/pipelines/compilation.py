"""Compiles the KFP graphs to JSON that is the same on every machine.

The compiled file is checked in and ships with the package: whoever runs a pipeline needs no kfp,
and a review shows what changed in what a cluster will execute. kfp is imported inside functions.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path

import yaml

from cosalign.domain.errors import UserError
from cosalign.retraining.shipped_pipelines import CompiledPipeline, Spec, compiled_path

GRAPHS = {
    "cosalign": ("cosalign.pipelines.graph", "cosalign"),
    "evaluate": ("cosalign.pipelines.graph", "evaluate"),
}
"""Pipelines by name: module and attribute of the graph."""


def compile_pipeline(name: str) -> CompiledPipeline:
    """Compiles a pipeline.

    Raises:
        UserError: There is no such pipeline, or kfp is not installed.
    """
    compiled_path(name)
    return CompiledPipeline(*_kfp_documents(name))


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
