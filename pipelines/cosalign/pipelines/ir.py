"""A compiled pipeline (KFP's IR) as small frozen values, without kfp.

The trade: kfp.local refuses container components and skips some control flow in silence, and a
driver in a cluster has no kfp at all. So the parts of the IR that our graphs use have values here:
container tasks, groups of tasks (loops and exit handlers are groups), and where inputs come from.
``ir_parsing`` reads them, and refuses the rest by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cosalign.domain.errors import UserError
from cosalign.domain.fingerprint import Json

Spec = Mapping[str, Any]


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
    """Where a value comes from: an output of an earlier task of the same group."""

    task: str
    key: str


@dataclass(frozen=True)
class PipelineInput:
    """Where a value comes from: an input of the group, or a parameter of the pipeline."""

    name: str


@dataclass(frozen=True)
class Constant:
    """A value written in the pipeline; strings may hold placeholders."""

    value: Json


@dataclass(frozen=True)
class FinalStatus:
    """Where a value comes from: how an earlier task of the same group ended."""

    task: str


ParameterSource = TaskOutput | PipelineInput | Constant | FinalStatus
ArtifactSource = TaskOutput | PipelineInput


@dataclass(frozen=True)
class Container:
    """What to execute.

    Attributes:
        image: The image; may be a placeholder.
        command: The command; placeholders as they stand.
        args: Its arguments, likewise.
        env: Environment.
        resources: As KFP wrote them, for whoever makes a pod of it.
        platform: KFP's Kubernetes settings of the executor, for the same.
    """

    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: Mapping[str, str]
    resources: Spec
    platform: Spec = field(default_factory=dict)


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
class Node:
    """What a task and a group have in common.

    Attributes:
        name: Its name in the group around it.
        component: The name of what it runs.
        parameters: Where its parameters come from.
        artifacts: Where its artifacts come from.
        after: Names of those that have to end before it.
        always: Whether it runs also where one of those failed (an exit handler's task).
    """

    name: str
    component: str
    parameters: Mapping[str, ParameterSource]
    artifacts: Mapping[str, ArtifactSource]
    after: frozenset[str]
    always: bool


@dataclass(frozen=True)
class Task(Node):
    """One container task with the interface of its component, resolved."""

    container: Container
    input_parameters: Mapping[str, ParameterSpec]
    input_artifacts: Mapping[str, ArtifactSpec]
    output_parameters: Mapping[str, ParameterSpec]
    output_artifacts: Mapping[str, ArtifactSpec]
    retry: RetryPolicy


@dataclass(frozen=True)
class Loop:
    """Over what a group runs once for each item, which is its input ``item``.

    ``items`` is a list, or a list as JSON text, or the name of the group's input that holds one.
    """

    item: str
    items: Constant | PipelineInput


@dataclass(frozen=True)
class Group(Node):
    """Tasks in an order in which they can run; with a loop, once for each item.

    Attributes:
        nodes: The tasks and groups in it.
        outputs: Where its output parameters come from; in a loop, lists of them.
        loop: The loop, if it is one.
    """

    nodes: tuple[Task | Group, ...]
    outputs: Mapping[str, TaskOutput]
    loop: Loop | None


@dataclass(frozen=True)
class Pipeline:
    """A pipeline; ``nodes`` stand in an order in which they can run."""

    name: str
    parameters: Mapping[str, ParameterSpec]
    nodes: tuple[Task | Group, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All container tasks, those of groups where the group stands."""
        return tuple(_tasks(self.nodes))


def _tasks(nodes: tuple[Task | Group, ...]) -> Iterator[Task]:
    for node in nodes:
        if isinstance(node, Group):
            yield from _tasks(node.nodes)
        else:
            yield node


def typed(value: Any, kind: str) -> Json:
    """A value as its type wants it: the IR writes integers as floats."""
    integer = kind == "NUMBER_INTEGER" and isinstance(value, float) and value.is_integer()
    return int(value) if integer else value
