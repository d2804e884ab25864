"""Loops, collected outputs and exit handlers, as the walker runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cosalign.pipelines.failures import TaskFailed
from cosalign.pipelines.ir import PipelineError
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.launchers import Launch
from cosalign.pipelines.local_run import LocalRun, TaskReport

Spec = dict[str, Any]
STRING = {"parameterType": "STRING"}
LIST = {"parameterType": "LIST"}
STATUS = {"taskFinalStatus": {"producerTask": "method"}}


def from_outside(name: str) -> Spec:
    return {"componentInputParameter": name}


def from_task(task: str, key: str) -> Spec:
    return {"taskOutputParameter": {"producerTask": task, "outputParameterKey": key}}


def container_component(name: str, inputs: Spec, outputs: Spec) -> Spec:
    return {
        "executorLabel": f"exec-{name}",
        "inputDefinitions": {"parameters": inputs},
        "outputDefinitions": {"parameters": outputs},
    }


def looping(items: Spec | None = None) -> Spec:
    """exit-handler(split -> loop(taste) -> sum), then report; as kfp compiles it."""
    loop_items = items or {"inputParameter": "split-parts"}
    inside = {
        "split": {"componentRef": {"name": "comp-split"}},
        "loop": {
            "componentRef": {"name": "comp-loop"},
            "inputs": {"parameters": {"split-parts": from_task("split", "parts"),
                                      "kind": from_outside("kind")}},
            "parameterIterator": {"itemInput": "part", "items": loop_items},
        },
        "sum": {
            "componentRef": {"name": "comp-sum"},
            "inputs": {"parameters": {"tasted": from_task("loop", "loop-tasted")}},
        },
    }  # fmt: skip
    taste = {
        "componentRef": {"name": "comp-taste"},
        "inputs": {"parameters": {"part": from_outside("part"), "kind": from_outside("kind")}},
    }
    names = ("split", "taste", "sum", "report")
    return {
        "components": {
            "comp-method": {"dag": {"tasks": inside}},
            "comp-loop": {
                "dag": {
                    "tasks": {"taste": taste},
                    "outputs": {
                        "parameters": {
                            "loop-tasted": {
                                "valueFromParameter": {
                                    "producerSubtask": "taste",
                                    "outputParameterKey": "tasted",
                                }
                            }
                        }
                    },
                }
            },
            "comp-split": container_component("split", {}, {"parts": LIST}),
            "comp-taste": container_component(
                "taste", {"part": STRING, "kind": STRING}, {"tasted": STRING}
            ),
            "comp-sum": container_component("sum", {"tasted": LIST}, {"total": STRING}),
            "comp-report": container_component(
                "report", {"status": {"parameterType": "TASK_FINAL_STATUS"}}, {}
            ),
        },
        "deploymentSpec": {
            "executors": {
                f"exec-{name}": {"container": {"image": "x", "command": [name], "args": ["{{$}}"]}}
                for name in names
            }
        },
        "pipelineInfo": {"name": "beers"},
        "root": {
            "dag": {
                "tasks": {
                    "method": {
                        "componentRef": {"name": "comp-method"},
                        "inputs": {"parameters": {"kind": from_outside("kind")}},
                    },
                    "report": {
                        "componentRef": {"name": "comp-report"},
                        "dependentTasks": ["method"],
                        "inputs": {
                            "parameters": {
                                "status": {"taskFinalStatus": {"producerTask": "method"}}
                            }
                        },
                        "triggerPolicy": {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"},
                    },
                }
            },
            "inputDefinitions": {"parameters": {"kind": STRING}},
        },
        "schemaVersion": "2.1.0",
    }


class Taster:
    """Carries out the tasks in this process; ``fails`` names one that ends with code 2."""

    def __init__(self, parts: list[str], fails: str | None = None) -> None:
        self.parts = parts
        self.fails = fails
        self.launched: list[str] = []
        self.given: dict[str, Spec] = {}

    def launch(self, launch: Launch) -> int:
        self.launched.append(launch.task)
        given = json.loads(launch.command[-1])
        self.given[launch.task] = given["inputs"].get("parameterValues", {})
        if launch.task == self.fails:
            return 2
        values = self._values(self.given[launch.task])
        for name, parameter in given["outputs"].get("parameters", {}).items():
            Path(parameter["outputFile"]).write_text(values[name])
        return 0

    def _values(self, given: Spec) -> dict[str, str]:
        return {
            "parts": json.dumps(self.parts),
            "tasted": f"{given.get('kind')} {given.get('part')}",
            "total": "+".join(given.get("tasted", [])),
        }

    def pause(self, seconds: float) -> None:  # noqa: ARG002
        raise AssertionError("nothing is retried here")


def walk(
    folder: Path, taster: Taster, spec: Spec | None = None
) -> tuple[dict[str, Any], list[TaskReport]]:
    reports: list[TaskReport] = []
    pipeline = parse_pipeline(json.dumps(spec or looping()), "beers")
    run = LocalRun(pipeline, "r1", folder, taster, reports.append)
    return dict(run.execute({"kind": "stout"})), reports


def test_a_loop_runs_once_for_each_item_and_its_outputs_are_collected(tmp_path: Path) -> None:
    taster = Taster(["a", "b", "c"])
    outputs, reports = walk(tmp_path, taster)
    expected = ["split", "taste-0", "taste-1", "taste-2", "sum"]
    assert taster.launched == [*expected, "report"]
    assert taster.given["taste-1"] == {"part": "b", "kind": "stout"}
    assert taster.given["sum"] == {"tasted": ["stout a", "stout b", "stout c"]}
    assert outputs["sum"].parameters == {"total": "stout a+stout b+stout c"}
    # The exit handler is no stage of the work.
    assert [report.task for report in reports] == expected


def test_a_loop_over_nothing_gives_an_empty_list(tmp_path: Path) -> None:
    taster = Taster([])
    walk(tmp_path, taster)
    assert taster.launched == ["split", "sum", "report"]
    assert taster.given["sum"] == {"tasted": []}


def test_a_loop_may_run_over_a_list_in_the_pipeline(tmp_path: Path) -> None:
    taster = Taster([])
    walk(tmp_path, taster, looping({"raw": '["x", "y"]'}))
    assert taster.given["sum"] == {"tasted": ["stout x", "stout y"]}


def test_the_exit_handler_hears_that_all_went_well(tmp_path: Path) -> None:
    taster = Taster(["a"])
    walk(tmp_path, taster)
    assert taster.given["report"]["status"] == {"state": "SUCCEEDED"}


@pytest.mark.parametrize("fails", ["split", "taste-1", "sum"])
def test_the_exit_handler_runs_after_a_failure_and_nothing_else_does(
    fails: str, tmp_path: Path
) -> None:
    taster = Taster(["a", "b", "c"], fails)
    with pytest.raises(TaskFailed, match=fails) as failure:
        walk(tmp_path, taster)
    assert failure.value.exit_code == 2
    assert taster.launched[-2:] == [fails, "report"]
    status = taster.given["report"]["status"]
    assert status["state"] == "FAILED"
    assert fails in status["error"]["message"]


def test_a_failing_exit_handler_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(TaskFailed, match="report"):
        walk(tmp_path, Taster(["a"], "report"))


def test_a_loop_over_what_is_no_list_is_refused(tmp_path: Path) -> None:
    spec = looping({"inputParameter": "kind"})
    spec["root"]["inputDefinitions"]["parameters"]["kind"] = {"parameterType": "STRUCT"}
    taster = Taster([])
    pipeline = parse_pipeline(json.dumps(spec), "beers")
    run = LocalRun(pipeline, "r1", tmp_path, taster, lambda _: None)
    with pytest.raises(PipelineError, match="which is no list"):
        run.execute({"kind": {}})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("comp-loop", "dag", "outputs", "parameters", "loop-tasted", "valueFromParameter"),
         {"producerSubtask": "tastes", "outputParameterKey": "tasted"}, "did you mean 'taste'"),
        (("comp-loop", "dag", "tasks", "taste", "inputs", "parameters"),
         {"part": {"componentInputParameter": "absent"}}, "there is no 'absent'"),
        (("comp-method", "dag", "tasks", "loop", "parameterIterator", "items"),
         {"inputParameter": "absent"}, "its loop: there is no 'absent'"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_found_when_the_pipeline_is_read(
    path: tuple[str, ...], value: Spec, message: str
) -> None:
    spec = looping()
    node: Spec = spec["components"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(PipelineError, match=message):
        parse_pipeline(json.dumps(spec), "beers")


def test_two_tasks_of_one_name_are_refused() -> None:
    spec = looping()
    tasks = spec["components"]["comp-loop"]["dag"]["tasks"]
    tasks["split"] = {"componentRef": {"name": "comp-split"}}
    with pytest.raises(PipelineError, match="two tasks named 'split'"):
        parse_pipeline(json.dumps(spec), "beers")
