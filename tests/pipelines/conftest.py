"""Builds small pipelines in KFP's compiled form, whose tasks are plain Python scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cosalign.pipelines.ir import Pipeline
from cosalign.pipelines.ir_parsing import parse_pipeline

Spec = dict[str, Any]
DATASET = {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}

WRITE_OUTPUTS = """
import json, pathlib, sys
given = json.loads(sys.argv[1])
for name, listed in given["outputs"].get("artifacts", {}).items():
    path = pathlib.Path(listed["artifacts"][0]["uri"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("made by " + name)
"""


def task_spec(
    name: str,
    *,
    artifacts: Mapping[str, str] | None = None,
    parameters: Mapping[str, Spec] | None = None,
    after: Sequence[str] = (),
    retry: Spec | None = None,
) -> Spec:
    """A task: ``artifacts`` maps each input to the task that makes an artifact of that name."""
    spec: Spec = {
        "componentRef": {"name": f"comp-{name}"},
        "cachingOptions": {"enableCache": True},
        "taskInfo": {"name": name},
        "inputs": {
            "artifacts": {
                key: {"taskOutputArtifact": {"producerTask": task, "outputArtifactKey": key}}
                for key, task in (artifacts or {}).items()
            },
            "parameters": dict(parameters or {}),
        },
    }
    if after:
        spec["dependentTasks"] = list(after)
    if retry:
        spec["retryPolicy"] = retry
    return spec


def component_spec(
    name: str,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Spec] | None = None,
    output_parameters: Mapping[str, Spec] | None = None,
) -> Spec:
    """A container component's interface."""
    return {
        "executorLabel": f"exec-{name}",
        "inputDefinitions": {
            "artifacts": {key: {"artifactType": DATASET} for key in inputs},
            "parameters": dict(parameters or {}),
        },
        "outputDefinitions": {
            "artifacts": {key: {"artifactType": DATASET} for key in outputs},
            "parameters": dict(output_parameters or {}),
        },
    }


def pipeline_spec(
    tasks: Mapping[str, Spec],
    components: Mapping[str, Spec],
    code: Mapping[str, str] | None = None,
    parameters: Mapping[str, Spec] | None = None,
) -> Spec:
    """A pipeline; a task without code of its own writes its artifacts and nothing more."""
    scripts = {name: (code or {}).get(name, WRITE_OUTPUTS) for name in components}
    return {
        "components": {f"comp-{name}": spec for name, spec in components.items()},
        "deploymentSpec": {
            "executors": {
                f"exec-{name}": {
                    "container": {
                        "image": f"{name}:1",
                        "command": ["python", "-c", script],
                        "args": ["{{$}}"],
                    }
                }
                for name, script in scripts.items()
            }
        },
        "pipelineInfo": {"name": "small"},
        "root": {
            "dag": {"tasks": dict(tasks)},
            "inputDefinitions": {"parameters": dict(parameters or {})},
        },
        "schemaVersion": "2.1.0",
        "sdkVersion": "kfp-2.17.0",
    }


def two_step_spec(code: Mapping[str, str] | None = None, retry: Spec | None = None) -> Spec:
    """``first`` makes the artifact ``rows``, ``second`` takes it and makes ``sums``."""
    return pipeline_spec(
        {
            "second": task_spec("second", artifacts={"rows": "first"}),
            "first": task_spec("first", retry=retry),
        },
        {
            "first": component_spec("first", outputs=["rows"]),
            "second": component_spec("second", inputs=["rows"], outputs=["sums"]),
        },
        code,
    )


@pytest.fixture
def two_steps() -> Callable[..., Spec]:
    return two_step_spec


@pytest.fixture
def build() -> Callable[..., Spec]:
    return pipeline_spec


@pytest.fixture
def task() -> Callable[..., Spec]:
    return task_spec


@pytest.fixture
def component() -> Callable[..., Spec]:
    return component_spec


@pytest.fixture
def parsed() -> Callable[[Spec], Pipeline]:
    return lambda spec: parse_pipeline(json.dumps(spec), "small.json")


@pytest.fixture
def repository() -> Path:
    return Path(__file__).parents[2]
