"""A compiled pipeline (KFP's IR, JSON) as small frozen values, without kfp.

The trade: kfp.local refuses container components and skips some control flow in silence, and a
driver in a cluster has no kfp at all. So the few parts of the IR that our graphs use are read here,
against a list of known fields at every level; whatever else stands in the file (conditions, loops,
exit handlers, importers, nested graphs) is refused by name and never skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from cosalign.domain.errors import UserError, nearest
from cosalign.domain.fingerprint import Json

Spec = Mapping[str, Any]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STRUCT_PLACEHOLDERS = ('{"Concat": ', '{"IfPresent": ')
_PARAMETER_TYPES = ("STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT")
_FEATURES = {
    "triggerPolicy": "a condition or an exit handler",
    "parameterIterator": "a loop over parameters",
    "artifactIterator": "a loop over artifacts",
    "iteratorPolicy": "a loop's parallelism",
    "taskFinalStatus": "another task's final status",
    "parameterExpressionSelector": "an expression over a parameter",
    "componentInputArtifact": "an input artifact of the pipeline itself",
    "isArtifactList": "a list of artifacts",
    "dag": "a nested graph",
    "importer": "an importer",
    "resolver": "a resolver",
    "customJob": "a custom job",
    "lifecycle": "a container lifecycle hook",
    "outputs": "outputs of the pipeline itself",
    "platforms": "platform settings",
    "singlePlatformSpecs": "platform settings",
}


class PipelineError(UserError):
    """A compiled pipeline is wrong, or holds something that this runner does not know."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter; ``type`` is KFP's ``parameterType``."""

    type: str
    optional: bool = False
    default: Json = None


@dataclass(frozen=True)
class ArtifactSpec:
    """One artifact; ``type`` is KFP's artifact type, kept as it stands."""

    type: Spec
    optional: bool = False
    metadata: Spec = field(default_factory=dict)


@dataclass(frozen=True)
class TaskOutput:
    """Where a value comes from: an output of an earlier task."""

    task: str
    key: str


@dataclass(frozen=True)
class PipelineInput:
    """Where a value comes from: a parameter of the pipeline."""

    name: str


@dataclass(frozen=True)
class Constant:
    """A value written in the pipeline; strings may hold placeholders."""

    value: Json


ParameterSource = TaskOutput | PipelineInput | Constant


@dataclass(frozen=True)
class Container:
    """What to execute. ``resources`` stays as KFP wrote it, for whoever makes a pod of it."""

    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    resources: Spec


@dataclass(frozen=True)
class RetryPolicy:
    """KFP's ``retryPolicy``; durations in seconds."""

    max_retries: int = 0
    backoff: float = 0.0
    factor: float = 2.0
    max_backoff: float = 3600.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after the ``failures``-th failed attempt (from 1)."""
        return min(self.backoff * self.factor ** (failures - 1), self.max_backoff)


@dataclass(frozen=True)
class Task:
    """One task with the interface and the container of its component, resolved."""

    name: str
    component: str
    container: Container
    parameters: Mapping[str, ParameterSource]
    artifacts: Mapping[str, TaskOutput]
    input_parameters: Mapping[str, ParameterSpec]
    input_artifacts: Mapping[str, ArtifactSpec]
    output_parameters: Mapping[str, ParameterSpec]
    output_artifacts: Mapping[str, ArtifactSpec]
    after: frozenset[str]
    retry: RetryPolicy


@dataclass(frozen=True)
class Pipeline:
    """A pipeline; ``tasks`` stand in an order in which they can run."""

    name: str
    parameters: Mapping[str, ParameterSpec]
    tasks: tuple[Task, ...]


def parse_pipeline(text: str | bytes, source: str) -> Pipeline:
    """Reads a compiled pipeline.

    Args:
        text: The JSON that the compiler wrote.
        source: The file's name, for messages.

    Raises:
        PipelineError: It is no compiled pipeline, or uses a feature that is not supported.
    """
    spec = _load(text, source)
    try:
        return _pipeline(spec, source)
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise PipelineError(f"{source}: damaged: {problem!r}; compile it again") from problem


def _pipeline(spec: Spec, source: str) -> Pipeline:
    known = "components deploymentSpec pipelineInfo root schemaVersion sdkVersion"
    _only(spec, known + " defaultPipelineRoot", source)
    root = _known(spec.get("root"), "dag inputDefinitions", f"{source}: the pipeline")
    dag = _known(root.get("dag"), "tasks", f"{source}: the pipeline")
    inputs = _known(root.get("inputDefinitions", {}), "parameters", f"{source}: the pipeline")
    tasks = [_task(name, item, spec) for name, item in sorted(dag.get("tasks", {}).items())]
    pipeline = Pipeline(
        name=_safe_name(spec.get("pipelineInfo", {}).get("name", ""), f"{source}: the pipeline"),
        parameters=_parameters(inputs, f"{source}: the pipeline"),
        tasks=_ordered(tasks, source),
    )
    _check_sources(pipeline)
    return pipeline


def _load(text: str | bytes, source: str) -> Spec:
    try:
        spec = json.loads(text)
    except ValueError as problem:
        raise PipelineError(
            f"{source}: not JSON ({problem}); compile the pipeline to a .json file"
        ) from None
    if not isinstance(spec, dict) or "root" not in spec:
        raise PipelineError(f"{source}: no compiled KFP pipeline: it has no 'root'")
    version = str(spec.get("schemaVersion", "missing"))
    if not version.startswith("2.1."):
        raise PipelineError(f"{source}: schemaVersion {version} is not supported; expected 2.1.x")
    return spec


def _only(spec: Spec, known: str, where: str) -> None:
    for key in spec:
        if key not in known.split():
            feature = _FEATURES.get(key)
            shown = f"{feature} ({key!r})" if feature else f"the field {key!r}"
            raise PipelineError(
                f"{where} uses {shown}, which this runner does not support; "
                "run the pipeline on Kubeflow Pipelines, or remove it"
            )


def _known(spec: Any, known: str, where: str) -> Spec:
    if not isinstance(spec, dict):
        raise PipelineError(f"{where}: expected an object with {known}; found {spec!r}")
    _only(spec, known, where)
    return spec


def _safe_name(name: Any, where: str) -> str:
    """Names become folders, so that one with a slash in it could leave the run's own."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PipelineError(f"{where}: {name!r} is no usable name")
    return name


def _task(name: str, spec: Any, pipeline: Spec) -> Task:
    where = f"task {_safe_name(name, 'tasks')!r}"
    known = "cachingOptions componentRef dependentTasks inputs retryPolicy taskInfo"
    task = _known(spec, known, where)
    component_name = task.get("componentRef", {}).get("name", "")
    component = _component(pipeline, component_name, where)
    inputs = _known(component.get("inputDefinitions", {}), "parameters artifacts", where)
    outputs = _known(component.get("outputDefinitions", {}), "parameters artifacts", where)
    given = _known(task.get("inputs", {}), "parameters artifacts", where)
    artifacts = {
        key: _artifact_source(item, f"{where}, input {key!r}")
        for key, item in given.get("artifacts", {}).items()
    }
    parameters = {
        key: _parameter_source(item, f"{where}, input {key!r}")
        for key, item in given.get("parameters", {}).items()
    }
    return Task(
        name=name,
        component=component_name,
        container=_container(pipeline, component.get("executorLabel", ""), where),
        parameters=parameters,
        artifacts=artifacts,
        input_parameters=_parameters(inputs, where),
        input_artifacts=_artifacts(inputs, where),
        output_parameters=_parameters(outputs, where),
        output_artifacts=_artifacts(outputs, where),
        after=frozenset(task.get("dependentTasks", ())) | _producers(parameters, artifacts),
        retry=_retry(task.get("retryPolicy", {}), where),
    )


def _component(pipeline: Spec, name: str, where: str) -> Spec:
    component = pipeline.get("components", {}).get(name)
    if component is None:
        raise PipelineError(f"{where}: its component {name!r} is not in the pipeline")
    return _known(component, "executorLabel inputDefinitions outputDefinitions", where)


def _container(pipeline: Spec, label: str, where: str) -> Container:
    deployment = _known(pipeline.get("deploymentSpec"), "executors", "deploymentSpec")
    executor = _known(deployment.get("executors", {}).get(label), "container", where)
    known = "image command args env resources"
    container = _known(executor.get("container"), known, f"{where}, its container")
    command, args = tuple(container.get("command", ())), tuple(container.get("args", ()))
    if not command:
        raise PipelineError(f"{where}: its container needs an explicit command")
    for word in (*command, *args):
        if word.startswith(_STRUCT_PLACEHOLDERS):
            raise PipelineError(
                f"{where} uses a Concat or IfPresent placeholder, which this runner does not "
                "support; pass the executor input ({{$}}) and decide inside the component"
            )
    env = {item["name"]: item.get("value", "") for item in container.get("env", ())}
    return Container(container["image"], command, args, env, container.get("resources", {}))


def _parameters(definitions: Spec, where: str) -> dict[str, ParameterSpec]:
    return {
        _safe_name(name, where): _parameter(item, f"{where}, parameter {name!r}")
        for name, item in sorted(definitions.get("parameters", {}).items())
    }


def _parameter(spec: Any, where: str) -> ParameterSpec:
    known = "parameterType defaultValue isOptional description literals"
    found = _known(spec, known, where)
    kind = found.get("parameterType")
    if kind not in _PARAMETER_TYPES:
        raise PipelineError(f"{where} has the type {kind!r}, which this runner does not support")
    default = typed(found.get("defaultValue"), kind)
    return ParameterSpec(kind, bool(found.get("isOptional", False)), default)


def typed(value: Any, kind: str) -> Json:
    """A value as its type wants it: the IR writes integers as floats."""
    integer = kind == "NUMBER_INTEGER" and isinstance(value, float) and value.is_integer()
    return int(value) if integer else value


def _artifacts(definitions: Spec, where: str) -> dict[str, ArtifactSpec]:
    return {
        _safe_name(name, where): _artifact(item, f"{where}, artifact {name!r}")
        for name, item in sorted(definitions.get("artifacts", {}).items())
    }


def _artifact(spec: Any, where: str) -> ArtifactSpec:
    found = _known(spec, "artifactType isOptional description metadata", where)
    optional = bool(found.get("isOptional", False))
    return ArtifactSpec(found.get("artifactType", {}), optional, found.get("metadata", {}))


def _artifact_source(spec: Any, where: str) -> TaskOutput:
    source = _known(spec, "taskOutputArtifact", where)["taskOutputArtifact"]
    return TaskOutput(source["producerTask"], source["outputArtifactKey"])


def _parameter_source(spec: Any, where: str) -> ParameterSource:
    found = _known(spec, "componentInputParameter runtimeValue taskOutputParameter", where)
    if "componentInputParameter" in found:
        return PipelineInput(found["componentInputParameter"])
    if "taskOutputParameter" in found:
        source = found["taskOutputParameter"]
        return TaskOutput(source["producerTask"], source["outputParameterKey"])
    return Constant(_known(found.get("runtimeValue"), "constant", where).get("constant"))


def _producers(
    parameters: Mapping[str, ParameterSource], artifacts: Mapping[str, TaskOutput]
) -> set[str]:
    sources = [*parameters.values(), *artifacts.values()]
    return {source.task for source in sources if isinstance(source, TaskOutput)}


def _retry(spec: Any, where: str) -> RetryPolicy:
    known = "maxRetryCount backoffDuration backoffFactor backoffMaxDuration"
    found = _known(spec, known, f"{where}, its retryPolicy")
    usual = RetryPolicy()
    return RetryPolicy(
        int(found.get("maxRetryCount", usual.max_retries)),
        _seconds(found.get("backoffDuration"), usual.backoff, where),
        float(found.get("backoffFactor") or usual.factor),
        _seconds(found.get("backoffMaxDuration"), usual.max_backoff, where),
    )


def _seconds(duration: str | None, usual: float, where: str) -> float:
    if duration is None:
        return usual
    match = re.fullmatch(r"(\d+(?:\.\d+)?)s", duration)
    if match is None:
        raise PipelineError(f"{where}: {duration!r} is no duration in seconds, such as '30s'")
    return float(match[1])


def _ordered(tasks: list[Task], source: str) -> tuple[Task, ...]:
    by_name = {task.name: task for task in tasks}
    for task in tasks:
        for name in sorted(task.after - set(by_name)):
            raise PipelineError(f"task {task.name!r} waits for {name!r}{nearest(name, by_name)}")
    # Sorted on both levels, so that two runs of one file always take the same order.
    sorter = TopologicalSorter({task.name: sorted(task.after) for task in tasks})
    try:
        return tuple(by_name[name] for name in sorter.static_order())
    except CycleError as problem:
        circle = " -> ".join(problem.args[1])
        raise PipelineError(f"{source}: tasks wait for each other: {circle}") from None


def _check_sources(pipeline: Pipeline) -> None:
    by_name = {task.name: task for task in pipeline.tasks}
    for task in pipeline.tasks:
        for name, source in task.parameters.items():
            where = f"task {task.name!r}, input {name!r}"
            if isinstance(source, PipelineInput):
                _check_key(source.name, pipeline.parameters, where)
            elif isinstance(source, TaskOutput):
                _check_key(source.key, by_name[source.task].output_parameters, where)
        for name, origin in task.artifacts.items():
            where = f"task {task.name!r}, input {name!r}"
            _check_key(origin.key, by_name[origin.task].output_artifacts, where)
            _check_key(name, task.input_artifacts, where)


def _check_key(key: str, known: Mapping[str, object], where: str) -> None:
    if key not in known:
        raise PipelineError(f"{where}: there is no {key!r}{nearest(key, known)}")
