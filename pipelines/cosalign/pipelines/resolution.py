"""What a task of a compiled pipeline gets and gives, by the contract of KFP's launcher.

Pure: values in, values out, so that the local run and a driver in a cluster share it. The contract
was read from the launcher's source and is held by a test against ``kfp.local``. One difference on
purpose: placeholders are replaced in one pass, so that a parameter whose text looks like a
placeholder stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from cosalign.domain.errors import CosalignError
from cosalign.domain.fingerprint import Json
from cosalign.pipelines.ir import (
    Constant,
    FinalStatus,
    Group,
    Node,
    PipelineError,
    PipelineInput,
    Task,
    TaskOutput,
    typed,
)
from cosalign.runtime.executor import artifact_path

ExecutorInput = dict[str, Any]
ReadText = Callable[[str], str | None]

_PLACEHOLDER = re.compile(r"\{\{\$(.*?)\}\}")
_INPUT_PARAMETER = re.compile(r"\.inputs\.parameters\['+([^']+)'+\]")
_OUTPUT_PARAMETER = re.compile(r"\.outputs\.parameters\['+([^']+)'+\]\.output_file")
_ARTIFACT = re.compile(r"\.(inputs|outputs)\.artifacts\['+([^']+)'+\]\.(uri|path)")
SUCCEEDED, FAILED = "SUCCEEDED", "FAILED"


@dataclass(frozen=True)
class RuntimeArtifact:
    """An artifact as it is handed from task to task."""

    name: str
    type: Mapping[str, Any]
    uri: str
    metadata: Mapping[str, Json] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Where the task's process finds the content."""
        return str(artifact_path(self.uri))

    def as_list(self) -> dict[str, Any]:
        """KFP's ``ArtifactList`` that holds this one artifact."""
        body = {"name": self.name, "type": dict(self.type), "uri": self.uri}
        return {"artifacts": [{**body, "metadata": dict(self.metadata)}]}


@dataclass(frozen=True)
class TaskOutputs:
    """What a finished task or group gave; ``status`` is KFP's ``PipelineTaskFinalStatus``."""

    parameters: Mapping[str, Json]
    artifacts: Mapping[str, RuntimeArtifact]
    status: Mapping[str, Json] = field(default_factory=lambda: {"state": SUCCEEDED})


@dataclass(frozen=True)
class Scope:
    """What the nodes of a group may take from around them: the group's own inputs.

    Attributes:
        parameters: By name; of the pipeline itself, :func:`run_parameters`.
        artifacts: By name.
    """

    parameters: Mapping[str, Json] = field(default_factory=dict)
    artifacts: Mapping[str, RuntimeArtifact] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskPlaces:
    """Where a task writes.

    Attributes:
        artifacts: Address under which its output artifacts lie; ``gs://`` in a cluster.
        files: Local folder of its output parameters and of its executor output.
    """

    artifacts: str
    files: str


@dataclass(frozen=True)
class RunNames:
    """What the placeholders about the run stand for."""

    pipeline: str
    run_id: str


def executor_input(
    task: Task, scope: Scope, earlier: Mapping[str, TaskOutputs], places: TaskPlaces
) -> ExecutorInput:
    """KFP's ``ExecutorInput`` of a task as plain JSON; empty parts are left out, as KFP does.

    Args:
        task: The task.
        scope: What the group around it was given.
        earlier: What the ended nodes of its group gave, by name.
        places: Where this task writes.
    """
    found = _input_artifacts(task, scope, earlier)
    inputs = {
        "parameterValues": _input_parameters(task, scope, earlier),
        "artifacts": {name: artifact.as_list() for name, artifact in sorted(found.items())},
    }
    outputs = {
        "parameters": {
            name: {"outputFile": f"{places.files}/{name}"} for name in task.output_parameters
        },
        "artifacts": {
            name: RuntimeArtifact(
                name, spec.type, f"{places.artifacts}/{name}", spec.metadata
            ).as_list()
            for name, spec in task.output_artifacts.items()
        },
    }
    return {
        "inputs": {key: part for key, part in inputs.items() if part},
        "outputs": {key: part for key, part in outputs.items() if part}
        | {"outputFile": f"{places.files}/executor_output.json"},
    }


def group_scopes(group: Group, scope: Scope, earlier: Mapping[str, TaskOutputs]) -> list[Scope]:
    """What the nodes of a group may take: one scope, or with a loop one for each item.

    Raises:
        PipelineError: The loop's items are no list.
    """
    values, artifacts = _given(group, scope, earlier), _given_artifacts(group, scope, earlier)
    if group.loop is None:
        return [Scope(values, artifacts)]
    source = group.loop.items
    items = source.value if isinstance(source, Constant) else values.get(source.name)
    items = json.loads(items) if isinstance(items, str) else items
    if not isinstance(items, list):
        raise PipelineError(f"task {group.name!r}: its loop runs over {items!r}, which is no list")
    return [Scope({**values, group.loop.item: item}, artifacts) for item in items]


def group_outputs(group: Group, inside: Sequence[Mapping[str, TaskOutputs]]) -> TaskOutputs:
    """What a group gives, from what its nodes gave: in a loop, lists over the iterations."""
    found = {
        name: [done[source.task].parameters[source.key] for done in inside]
        for name, source in group.outputs.items()
    }
    if group.loop is not None:
        return TaskOutputs(found, {})
    return TaskOutputs({name: values[0] for name, values in found.items()}, {})


def _given(node: Node, scope: Scope, earlier: Mapping[str, TaskOutputs]) -> dict[str, Json]:
    """The values of a node's parameters, save constants."""
    values: dict[str, Json] = {}
    for name, source in node.parameters.items():
        if isinstance(source, PipelineInput) and source.name in scope.parameters:
            values[name] = scope.parameters[source.name]
        elif isinstance(source, TaskOutput):
            values[name] = earlier[source.task].parameters[source.key]
        elif isinstance(source, FinalStatus):
            values[name] = dict(earlier[source.task].status)
    # Constants last: a string with f-string parts refers to the other inputs of its task.
    for name, source in node.parameters.items():
        if isinstance(source, Constant):
            values[name] = _constant(node, source.value, values)
    return values


def _given_artifacts(
    node: Node, scope: Scope, earlier: Mapping[str, TaskOutputs]
) -> dict[str, RuntimeArtifact]:
    return {
        name: scope.artifacts[source.name]
        if isinstance(source, PipelineInput)
        else earlier[source.task].artifacts[source.key]
        for name, source in node.artifacts.items()
    }


def _input_parameters(
    task: Task, scope: Scope, earlier: Mapping[str, TaskOutputs]
) -> dict[str, Json]:
    values: dict[str, Json] = {
        name: spec.default
        for name, spec in task.input_parameters.items()
        if spec.default is not None
    } | _given(task, scope, earlier)
    for name, spec in task.input_parameters.items():
        if name not in values and not spec.optional:
            raise PipelineError(f"task {task.name!r}: its input {name!r} has no value")
        if name in values:
            values[name] = typed(values[name], spec.type)
    return dict(sorted(values.items()))


def _constant(task: Node, value: Json, values: Mapping[str, Json]) -> Json:
    if not isinstance(value, str):
        return value
    return _substituted(task, value, lambda body: _input_value(body, values))


def _input_artifacts(
    task: Task, scope: Scope, earlier: Mapping[str, TaskOutputs]
) -> dict[str, RuntimeArtifact]:
    for name, spec in task.input_artifacts.items():
        if name not in task.artifacts and not spec.optional:
            raise PipelineError(f"task {task.name!r}: its input artifact {name!r} has no source")
    return _given_artifacts(task, scope, earlier)


def resolve_text(task: Task, text: str, given: ExecutorInput) -> str:
    """A text that may refer to the task's inputs: its image, a resource's amount.

    Raises:
        PipelineError: A placeholder is not known, or refers to an input without a value.
    """
    values = given["inputs"].get("parameterValues", {})
    return _substituted(task, text, lambda body: _input_value(body, values))


def resolve_command(task: Task, given: ExecutorInput, names: RunNames) -> tuple[str, ...]:
    """The command and arguments of a task, placeholders replaced.

    Raises:
        PipelineError: A placeholder is not known, or refers to an input without a value.
    """

    def value_of(body: str) -> str | None:
        return _known_placeholders(task, given, names).get(body) or _reference(body, given)

    words = (*task.container.command, *task.container.args)
    return tuple(_substituted(task, word, value_of) for word in words)


def _substituted(task: Node, text: str, value_of: Callable[[str], str | None]) -> str:
    def replacement(match: re.Match[str]) -> str:
        value = value_of(match[1])
        if value is None:
            raise PipelineError(
                f"task {task.name!r}: the placeholder {match[0]} is not supported, or what it "
                "refers to has no value"
            )
        return value

    return _PLACEHOLDER.sub(replacement, text)


def _known_placeholders(task: Task, given: ExecutorInput, names: RunNames) -> dict[str, str]:
    output_file = given["outputs"]["outputFile"]
    return {
        "": json.dumps(given),
        ".outputs.output_file": output_file,
        ".outputMetadataUri": output_file,
        ".pipeline_job_name": names.pipeline,
        ".pipeline_job_resource_name": f"{names.pipeline}-{names.run_id}",
        ".pipeline_job_uuid": names.run_id,
        ".pipeline_task_name": task.name,
        ".pipeline_task_uuid": f"{names.run_id}-{task.name}",
    }


def _reference(body: str, given: ExecutorInput) -> str | None:
    artifact = _ARTIFACT.fullmatch(body)
    if artifact is not None:
        found = given[artifact[1]].get("artifacts", {}).get(artifact[2])
        uri = found["artifacts"][0]["uri"] if found else None
        return str(artifact_path(uri)) if uri is not None and artifact[3] == "path" else uri
    output = _OUTPUT_PARAMETER.fullmatch(body)
    if output is not None:
        file = given["outputs"].get("parameters", {}).get(output[1], {}).get("outputFile")
        return None if file is None else str(file)
    return _input_value(body, given["inputs"].get("parameterValues", {}))


def _input_value(body: str, values: Mapping[str, Json]) -> str | None:
    match = _INPUT_PARAMETER.fullmatch(body)
    return None if match is None or match[1] not in values else _as_text(values[match[1]])


def _as_text(value: Json) -> str:
    """A parameter inside a command: numbers without an exponent, as Go's launcher writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return format(Decimal(repr(int(value) if value.is_integer() else value)), "f")
    return json.dumps(value)


def collect_outputs(task: Task, given: ExecutorInput, read: ReadText) -> TaskOutputs:
    """What a task gave: its executor output merged over what it was told to write.

    Args:
        task: The finished task.
        given: Its executor input.
        read: Reads a file that the task may have written; ``None`` where it did not.

    Raises:
        CosalignError: The executor output is no JSON, or an output parameter is missing.
    """
    written = _executor_output(task, read(given["outputs"]["outputFile"]))
    artifacts = {
        name: _merged(listed["artifacts"][0], written.get("artifacts", {}).get(name))
        for name, listed in given["outputs"].get("artifacts", {}).items()
    }
    files = given["outputs"].get("parameters", {})
    values = written.get("parameterValues", {})
    parameters = {
        name: typed(values[name], spec.type)
        if name in values
        else _output_file_value(task, name, spec.type, read(files[name]["outputFile"]))
        for name, spec in task.output_parameters.items()
    }
    return TaskOutputs(parameters, artifacts)


def _executor_output(task: Task, text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as problem:
        raise CosalignError(f"task {task.name!r} wrote no JSON as executor output") from problem
    if not isinstance(found, dict):
        raise CosalignError(f"task {task.name!r} wrote an executor output that is no object")
    return found


def _merged(planned: Mapping[str, Any], written: Mapping[str, Any] | None) -> RuntimeArtifact:
    """The launcher's rule: the task may move an artifact and add metadata, never retype it."""
    own = written["artifacts"][0] if written and written.get("artifacts") else {}
    return RuntimeArtifact(
        name=planned["name"],
        type=planned["type"],
        uri=own.get("uri") or planned["uri"],
        metadata={**planned["metadata"], **own.get("metadata", {})},
    )


def _output_file_value(task: Task, name: str, kind: str, text: str | None) -> Json:
    if text is None:
        raise CosalignError(f"task {task.name!r} ended well without its output {name!r}")
    if kind == "STRING":
        return text
    try:
        value: Json = json.loads(text.lower() if kind == "BOOLEAN" else text)
    except ValueError as problem:
        raise CosalignError(f"task {task.name!r}: its output {name!r} is no {kind}") from problem
    return typed(value, kind)
