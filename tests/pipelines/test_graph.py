"""The compiled graphs: what a cluster is asked for, task by task."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from cosalign.pipelines.compilation import GRAPHS
from cosalign.pipelines.images import VERSION
from cosalign.pipelines.ir import Group, Pipeline, Task
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.retraining.shipped_pipelines import compiled_path, platform_path, shipped_pipeline

ON_CPU = {"synthesis", "pairing", "run-end"}
SHARES = {"generation", "judging", "answers", "model-answers"}


def pipeline(name: str) -> Pipeline:
    path = compiled_path(name)
    return parse_pipeline(path.read_bytes(), name, platform_path(name).read_bytes())


def all_tasks() -> list[Task]:
    return [task for name in GRAPHS for task in pipeline(name).tasks]


@pytest.fixture(params=all_tasks(), ids=lambda task: task.name)
def task(request: pytest.FixtureRequest) -> Task:
    found: Task = request.param
    return found


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_the_method_runs_in_its_order_each_task_knowing_its_inputs() -> None:
    tasks = pipeline("cosalign").tasks
    assert {task.name: sorted(task.artifacts) for task in tasks} == {
        "prepare": [],
        "generation": [],
        "synthesis": [],
        "judging": ["synthesis"],
        "scoring": ["synthesis"],
        "pairing": ["scoring", "synthesis"],
        "training": ["pairing", "synthesis"],
        "answers": ["synthesis", "training"],
        "evaluation": ["synthesis", "training"],
        "run-end": [],
    }
    assert [task.name for task in tasks] == [
        "prepare", "generation", "synthesis", "judging", "scoring", "pairing", "training",
        "answers", "evaluation", "run-end",
    ]  # fmt: skip


def test_the_evaluation_of_a_model_runs_in_its_order() -> None:
    tasks = pipeline("evaluate").tasks
    names = [task.name for task in tasks]
    assert names == ["prompts", "model-answers", "model-evaluation", "run-end"]


def test_shares_run_in_loops_and_their_steps_hear_what_all_of_them_paid_for() -> None:
    for name in GRAPHS:
        (method, _) = pipeline(name).nodes
        assert isinstance(method, Group)
        loops = [node for node in method.nodes if isinstance(node, Group)]
        assert {task.name for loop in loops for task in loop.nodes} <= SHARES
        assert all(loop.loop is not None for loop in loops)
        heard = {
            source.task  # type: ignore[union-attr]
            for node in method.nodes
            if "identities" in node.parameters
            for source in [node.parameters["identities"]]
        }
        assert heard == {loop.name for loop in loops}


def test_kfps_own_messages_take_the_files(graph: str) -> None:
    shipped = shipped_pipeline(graph)
    json_format.ParseDict(shipped.pipeline, pipeline_spec_pb2.PipelineSpec())
    executors = shipped.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(shipped.pipeline["deploymentSpec"]["executors"])
    for settings in executors.values():
        message = kubernetes_executor_config_pb2.KubernetesExecutorConfig()
        json_format.ParseDict(settings, message)


def test_every_parameter_that_a_group_uses_was_handed_into_it(graph: str) -> None:
    """kfp leaves accelerators out of loops; a driver then fails on the first task inside."""
    spec = shipped_pipeline(graph).pipeline
    for name, component in spec["components"].items():
        defined = component.get("inputDefinitions", {}).get("parameters", {})
        for task in component.get("dag", {}).get("tasks", {}).values():
            for source in task["inputs"]["parameters"].values():
                used = source.get("componentInputParameter")
                assert used is None or used in defined, f"{name} was not given {used}"


def test_few_parameters_and_each_is_explained(graph: str) -> None:
    definitions = shipped_pipeline(graph).pipeline["root"]["inputDefinitions"]["parameters"]
    assert len(definitions) <= 19
    assert all(len(item["description"]) > 10 for item in definitions.values())
    required = {name for name, item in definitions.items() if not item.get("isOptional")}
    model = {"model_uri"} if graph == "evaluate" else set()
    assert required == {"run_config_uri", "run_config_digest"} | model
    images = {n: item["defaultValue"] for n, item in definitions.items() if n.endswith("_image")}
    assert all(
        image == f"cosalign-{name.removesuffix('_image')}:{VERSION}"
        for name, image in images.items()
    )
    # YAML 1.1 reads these names as true and false.
    assert not definitions.keys() & {"y", "n", "yes", "no", "on", "off"}


def test_every_image_is_a_parameter_and_every_command_a_module(task: Task) -> None:
    folder = task.container.command[2].split(".")[1]
    image = "pairing" if folder == "runtime" else folder
    assert task.container.image == f"{{{{$.inputs.parameters['pipelinechannel--{image}_image']}}}}"
    assert task.container.command[:2] == ("python", "-m")
    assert tuple(
        task.container.args[i] for i in (task.container.args.index("--executor-input"),
                                         task.container.args.index("{{$}}"))
    ) == ("--executor-input", "{{$}}")  # fmt: skip


def test_every_task_is_retried_with_backoff_and_timed_out(task: Task) -> None:
    assert task.retry.max_retries == 3
    assert [task.retry.delay(n) for n in (1, 2, 3)] == [30.0, 60.0, 120.0]
    assert 0 < int(task.container.platform["activeDeadlineSeconds"]) <= 24 * 3600


def test_every_task_runs_as_a_number_that_is_not_root(task: Task) -> None:
    context = task.container.platform["securityContext"]
    assert context["runAsNonRoot"] is True
    assert int(context["runAsUser"]) >= 10_000


def test_only_tasks_that_pay_or_train_are_on_the_gpu_pool(task: Task) -> None:
    platform, resources = task.container.platform, task.container.resources
    on_gpu = "accelerator" in resources
    assert on_gpu == (task.name not in ON_CPU)
    shm = [m for m in platform["emptyDirMounts"] if m["mountPath"] == "/dev/shm"]  # noqa: S108
    assert bool(shm) == on_gpu
    assert all(m["medium"] == "Memory" and m["sizeLimit"] for m in shm)
    if task.name != "run-end":
        selector = platform["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"]
        pool = "training_" if task.name == "training" else "" if on_gpu else "cpu_"
        assert selector == f"pipelinechannel--{pool}node_selector"
        given = [
            one["tolerationJson"]["componentInputParameter"] for one in platform["tolerations"]
        ]
        shared = ["tolerations"] if task.name == "training" else []
        names = [*shared, f"{pool}tolerations"]
        assert given == [f"pipelinechannel--{name}" for name in names]


def test_secrets_are_named_by_parameter_and_may_be_missing(task: Task) -> None:
    for secret in task.container.platform.get("secretAsEnv", []):
        name = secret["secretNameParameter"]["componentInputParameter"]
        assert name == "pipelinechannel--secret"
        assert secret["optional"] is True
    assert ("secretAsEnv" in task.container.platform) == (task.name != "run-end")


def test_tasks_that_read_files_of_the_user_are_never_taken_from_a_cache(graph: str) -> None:
    assert cached(graph) == ({"judging", "scoring", "pairing", "training"}
                             if graph == "cosalign" else set())  # fmt: skip


def cached(graph: str) -> set[str]:
    spec: dict[str, Any] = shipped_pipeline(graph).pipeline
    dags = [spec["root"], *spec["components"].values()]
    return {
        name
        for dag in dags
        for name, task in dag.get("dag", {}).get("tasks", {}).items()
        if task.get("cachingOptions", {}).get("enableCache")
    }


def test_pages_and_figures_are_artifacts_that_kfp_shows() -> None:
    shown = {
        (task.name, name): spec.type["schemaTitle"]
        for task in pipeline("cosalign").tasks
        for name, spec in task.output_artifacts.items()
        if spec.type["schemaTitle"] in ("system.HTML", "system.Metrics")
    }
    assert shown["evaluation", "report"] == shown["pairing", "data_card"] == "system.HTML"
    assert shown["run-end", "outcome"] == "system.HTML"
    assert shown["evaluation", "metrics"] == shown["scoring", "metrics"] == "system.Metrics"


def test_the_package_is_what_kfps_client_reads(graph: str, tmp_path: Any) -> None:
    from kfp.client.client import _extract_pipeline_yaml

    shipped = shipped_pipeline(graph)
    file = tmp_path / "package.yaml"
    file.write_text(shipped.package())
    read = _extract_pipeline_yaml(str(file)).to_dict()
    assert json.loads(json.dumps(read["platform_spec"])) == shipped.platform
    assert read["pipeline_spec"]["pipelineInfo"]["name"] == graph
