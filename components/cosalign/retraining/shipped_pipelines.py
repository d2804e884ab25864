"""The compiled pipelines that ship with the package: what a cluster or this machine executes.

They lie beside the graphs that they were compiled from, in ``cosalign.pipelines``, and are read as
files: whoever submits a run needs neither kfp's compiler nor the code of a graph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from cosalign.domain.errors import UserError, nearest

PIPELINES = ("cosalign", "evaluate")

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

    @property
    def parameters(self) -> dict[str, Spec]:
        """What a run may set, by name, as the IR defines it."""
        found: dict[str, Spec] = self.pipeline["root"]["inputDefinitions"]["parameters"]
        return found

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
    if name not in PIPELINES:
        raise UserError(f"no pipeline {name!r}{nearest(name, PIPELINES)}")
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


def _json_text(spec: Spec) -> str:
    return json.dumps(spec, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
