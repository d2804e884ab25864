"""What a task gets and gives: parameters, artifacts, placeholders, outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cosalign.domain.errors import CosalignError
from cosalign.pipelines.ir import Pipeline, PipelineError, Task
from cosalign.pipelines.resolution import (
    RunNames,
    RuntimeArtifact,
    Scope,
    TaskOutputs,
    TaskPlaces,
    collect_outputs,
    executor_input,
    resolve_command,
)
from cosalign.pipelines.run_parameters import run_parameters

Spec = dict[str, Any]
Build = Callable[..., Spec]
Parse = Callable[[Spec], Pipeline]

DATASET = {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}
PLACES = TaskPlaces("gs://bucket/run/second", "/tmp/kfp_outputs")  # noqa: S108
NAMES = RunNames("small", "r1")
ROWS = RuntimeArtifact("rows", DATASET, "gs://bucket/run/first/rows", {"count": 3})
EARLIER = {"first": TaskOutputs({}, {"rows": ROWS})}


def nothing_written(path: str) -> str | None:
    return None


@pytest.fixture
def second(two_steps: Build, parsed: Parse) -> Task:
    return parsed(two_steps()).tasks[1]


@pytest.fixture
def with_inputs(
    build: Build, task: Build, component: Build, parsed: Parse
) -> Callable[..., Pipeline]:
    """One task ``only`` with the given parameter sources and types."""

    def make(sources: Spec, types: Spec, run: Spec | None = None) -> Pipeline:
        tasks = {"only": task("only", parameters=sources)}
        return parsed(build(tasks, {"only": component("only", parameters=types)}, parameters=run))

    return make


def parameter_values(pipeline: Pipeline, **given: Any) -> dict[str, Any]:
    values = run_parameters(pipeline, given)
    found = executor_input(pipeline.tasks[0], Scope(values), {}, PLACES)
    return dict(found["inputs"].get("parameterValues", {}))


def test_executor_input_has_the_fields_of_kfp(second: Task) -> None:
    assert executor_input(second, Scope(), EARLIER, PLACES) == {
        "inputs": {
            "artifacts": {
                "rows": {
                    "artifacts": [
                        {
                            "name": "rows",
                            "type": DATASET,
                            "uri": "gs://bucket/run/first/rows",
                            "metadata": {"count": 3},
                        }
                    ]
                }
            }
        },
        "outputs": {
            "artifacts": {
                "sums": {
                    "artifacts": [
                        {
                            "name": "sums",
                            "type": DATASET,
                            "uri": "gs://bucket/run/second/sums",
                            "metadata": {},
                        }
                    ]
                }
            },
            "outputFile": "/tmp/kfp_outputs/executor_output.json",  # noqa: S108
        },
    }


def test_parameters_come_from_the_run_from_constants_and_from_defaults(
    with_inputs: Callable[..., Pipeline],
) -> None:
    pipeline = with_inputs(
        {
            "a": {"componentInputParameter": "run_a"},
            "b": {"runtimeValue": {"constant": "b"}},
            "joined": {"runtimeValue": {"constant": "<{{$.inputs.parameters['a']}}>"}},
        },
        {
            "a": {"parameterType": "STRING"},
            "b": {"parameterType": "STRING"},
            "c": {"parameterType": "NUMBER_INTEGER", "defaultValue": 7.0, "isOptional": True},
            "d": {"parameterType": "STRING", "isOptional": True},
            "joined": {"parameterType": "STRING"},
        },
        {"run_a": {"parameterType": "STRING"}},
    )
    values = parameter_values(pipeline, run_a="x")
    assert values == {"a": "x", "b": "b", "c": 7, "joined": "<x>"}
    assert isinstance(values["c"], int)


def test_an_input_without_a_value_is_refused_with_its_name(
    with_inputs: Callable[..., Pipeline],
) -> None:
    pipeline = with_inputs({}, {"needed": {"parameterType": "STRING"}})
    with pytest.raises(PipelineError, match="task 'only': its input 'needed' has no value"):
        parameter_values(pipeline)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "'uri' is required"),
        ({"uri": "x", "uris": "y"}, "no parameter 'uris'; did you mean 'uri'"),
        ({"uri": 3}, "'uri' is a STRING; found 3"),
        ({"uri": "x", "count": True}, "'count' is a NUMBER_INTEGER; found True"),
    ],
)
def test_run_parameters_that_do_not_fit_are_refused(
    given: Spec, message: str, with_inputs: Callable[..., Pipeline]
) -> None:
    pipeline = with_inputs(
        {},
        {},
        {
            "uri": {"parameterType": "STRING"},
            "count": {"parameterType": "NUMBER_INTEGER", "isOptional": True},
        },
    )
    with pytest.raises(PipelineError, match=message):
        run_parameters(pipeline, given)


def command_of(pipeline: Pipeline, word: str, **values: Any) -> str:
    only = pipeline.tasks[0]
    given = executor_input(only, Scope(values), {}, PLACES)
    container = type(only.container)(only.container.image, (word,), (), {}, {})
    return resolve_command(type(only)(**{**vars(only), "container": container}), given, NAMES)[0]


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("STRING", "a b", "a b"),
        ("NUMBER_INTEGER", 3, "3"),
        ("NUMBER_DOUBLE", 5e-7, "0.0000005"),
        ("NUMBER_DOUBLE", 2.0, "2"),
        ("BOOLEAN", True, "true"),
        ("LIST", ["a", 1], '["a", 1]'),
        ("STRUCT", {"k": None}, '{"k": null}'),
    ],
)
def test_parameters_in_commands_are_written_as_the_launcher_writes_them(
    kind: str, value: Any, text: str, with_inputs: Callable[..., Pipeline]
) -> None:
    source = {"p": {"componentInputParameter": "p"}}
    types = {"p": {"parameterType": kind}}
    pipeline = with_inputs(source, types, types)
    assert command_of(pipeline, "--p={{$.inputs.parameters['p']}}", p=value) == f"--p={text}"


def test_a_parameter_that_looks_like_a_placeholder_stays_text(
    with_inputs: Callable[..., Pipeline],
) -> None:
    types = {"p": {"parameterType": "STRING"}, "q": {"parameterType": "STRING"}}
    sources = {name: {"componentInputParameter": name} for name in types}
    pipeline = with_inputs(sources, types, types)
    sly = "{{$.inputs.parameters['q']}}"
    assert command_of(pipeline, "{{$.inputs.parameters['p']}}", p=sly, q="secret") == sly
    whole = command_of(pipeline, "{{$}}", p=sly, q="secret")
    assert json.loads(whole)["inputs"]["parameterValues"] == {"p": sly, "q": "secret"}


@pytest.mark.parametrize(
    ("placeholder", "value"),
    [
        ("{{$.inputs.artifacts['rows'].uri}}", "gs://bucket/run/first/rows"),
        ("{{$.inputs.artifacts['rows'].path}}", "/gcs/bucket/run/first/rows"),
        ("{{$.outputs.artifacts['sums'].uri}}", "gs://bucket/run/second/sums"),
        ("{{$.outputs.artifacts['sums'].path}}", "/gcs/bucket/run/second/sums"),
        ("{{$.outputs.output_file}}", "/tmp/kfp_outputs/executor_output.json"),  # noqa: S108
        ("{{$.pipeline_job_name}}/{{$.pipeline_task_name}}", "small/second"),
        ("{{$.pipeline_job_uuid}}", "r1"),
        ("no placeholder, { { $ } }", "no placeholder, { { $ } }"),
    ],
)
def test_placeholders(placeholder: str, value: str, second: Task) -> None:
    given = executor_input(second, Scope(), EARLIER, PLACES)
    container = type(second.container)("x", ("echo",), (placeholder,), {}, {})
    echo = type(second)(**{**vars(second), "container": container})
    assert resolve_command(echo, given, NAMES) == ("echo", value)


@pytest.mark.parametrize(
    "placeholder",
    [
        "{{$.inputs.parameters['absent']}}",
        "{{$.inputs.artifacts['absent'].path}}",
        "{{$.outputs.parameters['absent'].output_file}}",
        "{{$.inputs.artifacts['rows'].metadata['count']}}",
        "{{$.json_escape[1]}}",
    ],
)
def test_unknown_placeholders_are_refused_and_not_passed_on(placeholder: str, second: Task) -> None:
    given = executor_input(second, Scope(), EARLIER, PLACES)
    container = type(second.container)("x", ("echo",), (placeholder,), {}, {})
    echo = type(second)(**{**vars(second), "container": container})
    with pytest.raises(PipelineError, match="task 'second'") as refusal:
        resolve_command(echo, given, NAMES)
    assert placeholder in str(refusal.value)


def test_a_task_may_move_an_artifact_and_add_metadata_but_not_retype_it(second: Task) -> None:
    given = executor_input(second, Scope(), EARLIER, PLACES)
    own = {
        "uri": "gs://bucket/run/second/moved",
        "metadata": {"n": 1},
        "type": {"schemaTitle": "x"},
    }
    files = {
        given["outputs"]["outputFile"]: json.dumps({"artifacts": {"sums": {"artifacts": [own]}}})
    }
    sums = collect_outputs(second, given, files.get).artifacts["sums"]
    assert sums == RuntimeArtifact("sums", DATASET, "gs://bucket/run/second/moved", {"n": 1})
    assert sums.path == "/gcs/bucket/run/second/moved"


def test_without_executor_output_artifacts_are_where_they_were_planned(second: Task) -> None:
    given = executor_input(second, Scope(), EARLIER, PLACES)
    assert collect_outputs(second, given, nothing_written).artifacts["sums"].uri == (
        "gs://bucket/run/second/sums"
    )


@pytest.fixture
def counting(build: Build, task: Build, component: Build, parsed: Parse) -> Task:
    types = {"n": {"parameterType": "NUMBER_INTEGER"}, "ok": {"parameterType": "BOOLEAN"}}
    tasks = {"count": task("count")}
    return parsed(build(tasks, {"count": component("count", output_parameters=types)})).tasks[0]


def test_output_parameters_come_from_the_executor_output_before_their_files(
    counting: Task,
) -> None:
    given = executor_input(counting, Scope(), {}, PLACES)
    files = {
        given["outputs"]["outputFile"]: '{"parameterValues": {"n": 4.0}}',
        given["outputs"]["parameters"]["n"]["outputFile"]: "5",
        given["outputs"]["parameters"]["ok"]["outputFile"]: "True",
    }
    found = collect_outputs(counting, given, files.get).parameters
    assert found == {"n": 4, "ok": True}
    assert isinstance(found["n"], int)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "without its output 'n'"), ("x", "no NUMBER")]
)
def test_a_missing_or_malformed_output_parameter_is_the_tasks_defect(
    text: str | None, message: str, counting: Task
) -> None:
    given = executor_input(counting, Scope(), {}, PLACES)
    files = {given["outputs"]["parameters"]["n"]["outputFile"]: text}
    with pytest.raises(CosalignError, match=message) as defect:
        collect_outputs(counting, given, files.get)
    assert defect.value.exit_code == 70
