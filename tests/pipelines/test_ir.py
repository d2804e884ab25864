"""Reading the IR: order, refusals of what is not known, damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.pipelines.ir import Pipeline, PipelineError, RetryPolicy
from cosalign.pipelines.ir_parsing import parse_pipeline

Spec = dict[str, Any]
Build = Callable[..., Spec]
Parse = Callable[[Spec], Pipeline]


def put(spec: Spec, path: str, value: Any) -> Spec:
    """The spec with one more field, at a path of keys separated by ``/``."""
    *parents, last = path.split("/")
    node = spec
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return spec


def test_tasks_are_ordered_by_what_they_need(two_steps: Build, parsed: Parse) -> None:
    assert [task.name for task in parsed(two_steps()).tasks] == ["first", "second"]


def test_a_dependency_without_data_orders_too(
    build: Build, task: Build, component: Build, parsed: Parse
) -> None:
    spec = build(
        {"a": task("a", after=["b"]), "b": task("b")}, {"a": component("a"), "b": component("b")}
    )
    assert [item.name for item in parsed(spec).tasks] == ["b", "a"]


@given(st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=8))
def test_any_graph_without_circles_runs_each_task_once_after_what_it_needs(
    wishes: list[set[int]],
) -> None:
    needs = {f"t{i}": {f"t{j}" for j in wish if j < i} for i, wish in enumerate(wishes)}
    tasks = {
        name: {"componentRef": {"name": "comp-x"}, "dependentTasks": sorted(after)}
        for name, after in needs.items()
    }
    container = {"image": "x", "command": ["true"]}
    spec = {
        "components": {"comp-x": {"executorLabel": "exec-x"}},
        "deploymentSpec": {"executors": {"exec-x": {"container": container}}},
        "pipelineInfo": {"name": "any"},
        "root": {"dag": {"tasks": tasks}},
        "schemaVersion": "2.1.0",
    }
    order = [task.name for task in parse_pipeline(json.dumps(spec), "any").tasks]
    assert sorted(order) == sorted(needs)
    assert all(order.index(b) < order.index(a) for a, after in needs.items() for b in after)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("root/dag/tasks/second/triggerPolicy", {"condition": "1 == 2"}, "a condition"),
        ("root/dag/tasks/second/triggerPolicy", {"strategy": "SOMETIMES"}, "'SOMETIMES'"),
        ("root/dag/tasks/second/parameterIterator", {"itemInput": "x"}, "a loop over one"),
        ("root/dag/tasks/second/iteratorPolicy", {"parallelismLimit": 2}, "parallelism"),
        ("root/dag/tasks/second/artifactIterator", {"itemInput": "x"}, "a loop"),
        ("root/dag/tasks/second/newFeature", {}, "'newFeature'"),
        ("root/dag/tasks/second/inputs/artifacts/rows", {"componentInputArtifact": "rows"},
         "there is no 'rows'"),
        ("components/comp-second/dag", {"tasks": {}, "outputs": {"artifacts": {}}}, "artifacts"),
        ("components/comp-second/outputDefinitions/artifacts/sums/isArtifactList", True,
         "a list of artifacts"),
        ("deploymentSpec/executors/exec-second", {"importer": {}}, "an importer"),
        ("deploymentSpec/executors/exec-second/container/lifecycle", {}, "lifecycle hook"),
        ("deploymentSpec/executors/exec-second/container/args", ['{"Concat": ["a", "b"]}'],
         "Concat"),
        ("deploymentSpec/executors/exec-second/container/command", [], "explicit command"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_task_and_feature(
    path: str, value: Any, named: str, two_steps: Build, parsed: Parse
) -> None:
    with pytest.raises(PipelineError, match="task 'second'") as refusal:
        parsed(put(two_steps(), path, value))
    assert named in str(refusal.value)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("root/dag/outputs", {"artifacts": {}}, "'outputs'"),
        ("platforms", {"kubernetes": {}}, "platform settings"),
        ("schemaVersion", "3.0.0", "schemaVersion 3.0.0"),
        ("root/dag/tasks/second/dependentTasks", ["frist"], "did you mean 'first'"),
        ("root/dag/tasks/first/dependentTasks", ["second"], "wait for each other"),
        ("root/dag/tasks/second/componentRef/name", "comp-third", "'comp-third'"),
        ("root/dag/tasks/second/retryPolicy", {"backoffDuration": "soon"}, "'soon'"),
        ("root/dag/tasks/second/inputs/artifacts/rows/taskOutputArtifact/outputArtifactKey",
         "row", "did you mean 'rows'"),
        ("root/dag/tasks/second/inputs/parameters/p", {"componentInputParameter": "q"}, "no 'q'"),
        ("root/dag/tasks/..%2Fup", {}, "no usable name"),
        ("components/comp-second", [], "expected an object"),
        ("root/dag/tasks/second/inputs/artifacts/rows/taskOutputArtifact", {},
         "damaged: KeyError('producerTask')"),
    ],
)  # fmt: skip
def test_wrong_pipelines_are_refused_with_the_reason(
    path: str, value: Any, named: str, two_steps: Build, parsed: Parse
) -> None:
    with pytest.raises(PipelineError) as refusal:
        parsed(put(two_steps(), path, value))
    assert named in str(refusal.value)


@pytest.mark.parametrize("text", ["", "components: {}", "[]", "{}"])
def test_files_that_are_no_compiled_pipeline_are_named(text: str) -> None:
    with pytest.raises(PipelineError, match=r"^some\.json: "):
        parse_pipeline(text, "some.json")


def test_retry_policy_is_read_and_backs_off_up_to_its_maximum(
    two_steps: Build, parsed: Parse
) -> None:
    retry = {
        "maxRetryCount": 4,
        "backoffDuration": "10s",
        "backoffFactor": 3.0,
        "backoffMaxDuration": "60.5s",
    }
    policy = parsed(two_steps(retry=retry)).tasks[0].retry
    assert policy == RetryPolicy(4, 10.0, 3.0, 60.5)
    assert [policy.delay(n) for n in (1, 2, 3)] == [10.0, 30.0, 60.5]


def test_a_task_without_retry_policy_is_not_retried(two_steps: Build, parsed: Parse) -> None:
    assert parsed(two_steps()).tasks[0].retry.max_retries == 0
