"""Reads a compiled pipeline: KFP's IR as JSON, and the platform settings beside it.

Every level is read against a list of known fields. Whatever else stands in the file (conditions,
loops over artifacts, importers, resolvers) is refused by name and never skipped: a condition that a
runner does not see is a task that runs though it must not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from cosalign.domain.errors import nearest
from cosalign.pipelines.ir import (
    ArtifactSource,
    ArtifactSpec,
    Constant,
    Container,
    FinalStatus,
    Group,
    Loop,
    Node,
    ParameterSource,
    ParameterSpec,
    Pipeline,
    PipelineError,
    PipelineInput,
    RetryPolicy,
    Spec,
    Task,
    TaskOutput,
    typed,
)
from cosalign.pipelines.ir_checks import check_sources

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_STRUCT_PLACEHOLDERS = ('{"Concat": ', '{"IfPresent": ')
_PARAMETER_TYPES = (
    "STRING", "NUMBER_INTEGER", "NUMBER_DOUBLE", "BOOLEAN", "LIST", "STRUCT", "TASK_FINAL_STATUS",
)  # fmt: skip
_ALWAYS = "ALL_UPSTREAM_TASKS_COMPLETED"
_FEATURES = {
    "condition": "a condition",
    "artifactIterator": "a loop over artifacts",
    "iteratorPolicy": "a loop's parallelism",
    "parameterExpressionSelector": "an expression over a parameter",
    "isArtifactList": "a list of artifacts",
    "valueFromOneof": "one of several outputs",
    "importer": "an importer",
    "resolver": "a resolver",
    "customJob": "a custom job",
    "lifecycle": "a container lifecycle hook",
    "platforms": "platform settings inside the pipeline",
    "singlePlatformSpecs": "platform settings inside the pipeline",
}


@dataclass(frozen=True)
class _File:
    """What is being read; ``platform`` holds Kubernetes settings by executor."""

    source: str
    spec: Spec
    platform: Spec = field(default_factory=dict)


def parse_pipeline(text: str | bytes, source: str, platform: str | bytes | None = None) -> Pipeline:
    """Reads a compiled pipeline.

    Args:
        text: The IR, as the compiler wrote it.
        source: The file's name, for messages.
        platform: The platform settings, likewise; only whoever makes pods needs them.

    Raises:
        PipelineError: It is no compiled pipeline, or uses a feature that is not supported.
    """
    spec = _load(text, source)
    try:
        settings = {} if platform is None else json.loads(platform)
        executors = settings.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {})
        return _pipeline(_File(source, spec, executors.get("executors", {})))
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise PipelineError(f"{source}: damaged: {problem!r}; compile it again") from problem


def _pipeline(file: _File) -> Pipeline:
    spec, where = file.spec, f"{file.source}: the pipeline"
    known = "components deploymentSpec pipelineInfo root schemaVersion sdkVersion"
    _only(spec, known + " defaultPipelineRoot", file.source)
    root = _known(spec.get("root"), "dag inputDefinitions", where)
    inputs = _known(root.get("inputDefinitions", {}), "parameters", where)
    dag = _known(root.get("dag"), "tasks", where)
    pipeline = Pipeline(
        name=_safe_name(spec.get("pipelineInfo", {}).get("name", ""), where),
        parameters=_parameters(inputs, where),
        nodes=_nodes(dag, file),
    )
    check_sources(pipeline.nodes, pipeline.parameters, {})
    repeated = [name for name, n in Counter(t.name for t in pipeline.tasks).items() if n > 1]
    if repeated:
        raise PipelineError(f"{where} has two tasks named {repeated[0]!r}")
    return pipeline


def _nodes(dag: Spec, file: _File) -> tuple[Task | Group, ...]:
    found = [_node(name, item, file) for name, item in sorted(dag.get("tasks", {}).items())]
    return _ordered(found, file.source)


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


def _node(name: str, spec: Any, file: _File) -> Task | Group:
    where = f"task {_safe_name(name, 'tasks')!r}"
    known = "cachingOptions componentRef dependentTasks inputs parameterIterator retryPolicy"
    task = _known(spec, f"{known} taskInfo triggerPolicy", where)
    component_name = task.get("componentRef", {}).get("name", "")
    component = _component(file.spec, component_name, where)
    given = _known(task.get("inputs", {}), "parameters artifacts", where)
    artifacts = {
        key: _artifact_source(item, f"{where}, input {key!r}")
        for key, item in given.get("artifacts", {}).items()
    }
    parameters = {
        key: _parameter_source(item, f"{where}, input {key!r}")
        for key, item in given.get("parameters", {}).items()
    }
    after = frozenset(task.get("dependentTasks", ())) | _producers(parameters, artifacts)
    node = Node(name, component_name, parameters, artifacts, after, _always(task, where))
    if "dag" in component:
        return _group(node, task, component, file)
    return _container_task(node, task, component, file)


def _always(task: Spec, where: str) -> bool:
    policy = _known(task.get("triggerPolicy", {}), "strategy", where)
    strategy = policy.get("strategy")
    if strategy not in (None, _ALWAYS):
        raise PipelineError(f"{where} uses the trigger {strategy!r}, which is not supported")
    return strategy == _ALWAYS


def _group(node: Node, task: Spec, component: Spec, file: _File) -> Group:
    where = f"task {node.name!r}"
    dag = _known(component["dag"], "tasks outputs", where)
    outputs = _known(dag.get("outputs", {}), "parameters", where)
    return Group(
        **vars(node),
        nodes=_nodes(dag, file),
        outputs={
            name: _group_output(item, f"{where}, output {name!r}")
            for name, item in outputs.get("parameters", {}).items()
        },
        loop=_loop(task.get("parameterIterator"), where),
    )


def _group_output(spec: Any, where: str) -> TaskOutput:
    source = _known(spec, "valueFromParameter", where)["valueFromParameter"]
    return TaskOutput(source["producerSubtask"], source["outputParameterKey"])


def _loop(spec: Any, where: str) -> Loop | None:
    if spec is None:
        return None
    iterator = _known(spec, "itemInput items", f"{where}, its loop")
    items = _known(iterator.get("items"), "inputParameter raw", f"{where}, its loop")
    if "inputParameter" in items:
        return Loop(iterator["itemInput"], PipelineInput(items["inputParameter"]))
    return Loop(iterator["itemInput"], Constant(json.loads(items["raw"])))


def _container_task(node: Node, task: Spec, component: Spec, file: _File) -> Task:
    where = f"task {node.name!r}"
    inputs = _known(component.get("inputDefinitions", {}), "parameters artifacts", where)
    outputs = _known(component.get("outputDefinitions", {}), "parameters artifacts", where)
    if "parameterIterator" in task:
        raise PipelineError(f"{where} uses a loop over one component, which is not supported")
    return Task(
        **vars(node),
        container=_container(file, component.get("executorLabel", ""), where),
        input_parameters=_parameters(inputs, where),
        input_artifacts=_artifacts(inputs, where),
        output_parameters=_parameters(outputs, where),
        output_artifacts=_artifacts(outputs, where),
        retry=_retry(task.get("retryPolicy", {}), where),
    )


def _component(pipeline: Spec, name: str, where: str) -> Spec:
    component = pipeline.get("components", {}).get(name)
    if component is None:
        raise PipelineError(f"{where}: its component {name!r} is not in the pipeline")
    return _known(component, "dag executorLabel inputDefinitions outputDefinitions", where)


def _container(file: _File, label: str, where: str) -> Container:
    deployment = _known(file.spec.get("deploymentSpec"), "executors", "deploymentSpec")
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
    resources = container.get("resources", {})
    platform = file.platform.get(label, {})
    return Container(container["image"], command, args, env, resources, platform)


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


def _artifacts(definitions: Spec, where: str) -> dict[str, ArtifactSpec]:
    return {
        _safe_name(name, where): _artifact(item, f"{where}, artifact {name!r}")
        for name, item in sorted(definitions.get("artifacts", {}).items())
    }


def _artifact(spec: Any, where: str) -> ArtifactSpec:
    found = _known(spec, "artifactType isOptional description metadata", where)
    optional = bool(found.get("isOptional", False))
    return ArtifactSpec(found.get("artifactType", {}), optional, found.get("metadata", {}))


def _artifact_source(spec: Any, where: str) -> ArtifactSource:
    found = _known(spec, "componentInputArtifact taskOutputArtifact", where)
    if "componentInputArtifact" in found:
        return PipelineInput(found["componentInputArtifact"])
    source = found["taskOutputArtifact"]
    return TaskOutput(source["producerTask"], source["outputArtifactKey"])


def _parameter_source(spec: Any, where: str) -> ParameterSource:
    known = "componentInputParameter runtimeValue taskFinalStatus taskOutputParameter"
    found = _known(spec, known, where)
    if "componentInputParameter" in found:
        return PipelineInput(found["componentInputParameter"])
    if "taskOutputParameter" in found:
        source = found["taskOutputParameter"]
        return TaskOutput(source["producerTask"], source["outputParameterKey"])
    if "taskFinalStatus" in found:
        return FinalStatus(found["taskFinalStatus"]["producerTask"])
    return Constant(_known(found.get("runtimeValue"), "constant", where).get("constant"))


def _producers(
    parameters: Mapping[str, ParameterSource], artifacts: Mapping[str, ArtifactSource]
) -> set[str]:
    sources = [*parameters.values(), *artifacts.values()]
    return {source.task for source in sources if isinstance(source, TaskOutput | FinalStatus)}


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


def _ordered(nodes: Sequence[Task | Group], source: str) -> tuple[Task | Group, ...]:
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        for name in sorted(node.after - set(by_name)):
            raise PipelineError(f"task {node.name!r} waits for {name!r}{nearest(name, by_name)}")
    # Sorted on both levels, so that two runs of one file always take the same order.
    sorter = TopologicalSorter({node.name: sorted(node.after) for node in nodes})
    try:
        return tuple(by_name[name] for name in sorter.static_order())
    except CycleError as problem:
        circle = " -> ".join(problem.args[1])
        raise PipelineError(f"{source}: tasks wait for each other: {circle}") from None
