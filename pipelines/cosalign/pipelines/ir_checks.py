"""Does every input of a parsed pipeline come from something that is there?

Found when a pipeline is read, and not when its last task is reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cosalign.domain.errors import nearest
from cosalign.pipelines.ir import Group, PipelineError, PipelineInput, Task, TaskOutput


def check_sources(
    nodes: Sequence[Task | Group],
    parameters: Mapping[str, object],
    artifacts: Mapping[str, object],
) -> None:
    """Holds the sources of some nodes, and of groups in them, against what there is.

    Args:
        nodes: The nodes of one group, or of the pipeline.
        parameters: The parameters that they may take from around them.
        artifacts: The artifacts likewise.

    Raises:
        PipelineError: A source names what is not there.
    """
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        for name, source in node.parameters.items():
            where = f"task {node.name!r}, input {name!r}"
            if isinstance(source, PipelineInput):
                _check_key(source.name, parameters, where)
            elif isinstance(source, TaskOutput):
                _check_key(source.key, _parameters_of(by_name[source.task]), where)
        for name, origin in node.artifacts.items():
            where = f"task {node.name!r}, input {name!r}"
            if isinstance(origin, PipelineInput):
                _check_key(origin.name, artifacts, where)
            else:
                _check_key(origin.key, _artifacts_of(by_name[origin.task]), where)
            if isinstance(node, Task):
                _check_key(name, node.input_artifacts, where)
        if isinstance(node, Group):
            _check_group(node)


def _check_group(group: Group) -> None:
    item = {} if group.loop is None else {group.loop.item: None}
    check_sources(group.nodes, {**group.parameters, **item}, group.artifacts)
    by_name = {node.name: node for node in group.nodes}
    for name, source in group.outputs.items():
        where = f"task {group.name!r}, output {name!r}"
        _check_key(source.task, by_name, where)
        _check_key(source.key, _parameters_of(by_name[source.task]), where)
    if group.loop is not None and isinstance(group.loop.items, PipelineInput):
        _check_key(group.loop.items.name, group.parameters, f"task {group.name!r}, its loop")


def _parameters_of(node: Task | Group) -> Mapping[str, object]:
    return node.outputs if isinstance(node, Group) else node.output_parameters


def _artifacts_of(node: Task | Group) -> Mapping[str, object]:
    return {} if isinstance(node, Group) else node.output_artifacts


def _check_key(key: str, known: Mapping[str, object], where: str) -> None:
    if key not in known:
        raise PipelineError(f"{where}: there is no {key!r}{nearest(key, known)}")
