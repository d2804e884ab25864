"""``cosalign submit`` and ``kfp run create`` against the API's own definition."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.pipelines.kfp_server import FakeKubeflow, kfp_server

from cosalign.domain.fingerprint import content_sha256
from cosalign.pipelines.command_line import main
from cosalign.retraining.connection import open_kubeflow
from cosalign.retraining.shipped_pipelines import CompiledPipeline, shipped_pipeline
from cosalign.retraining.submission import version_name
from cosalign.runtime.run_config import STORED_CONFIGS
from cosalign.store.storage import read_uri

COMPONENTS = ("synthesis", "scoring", "pairing", "training", "evaluation")
REGISTRY = "registry.example/team/cosalign"


@pytest.fixture
def kubeflow() -> Iterator[FakeKubeflow]:
    with kfp_server() as fake:
        yield fake
        assert fake.violations == []


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """What ``make images`` writes."""
    digits = {name: str(place) for place, name in enumerate(COMPONENTS)}
    lines = [f'  {name}: {{digest: "sha256:{digit * 64}"}}' for name, digit in digits.items()]
    file = tmp_path / "images.yaml"
    file.write_text("\n".join(["images:", f"  registry: {REGISTRY}", *lines]))
    return file


@pytest.fixture
def given(kubeflow: FakeKubeflow, gcs_root: str) -> list[str]:
    """A run of the small profile, its images not named yet."""
    root = f"storage.root={gcs_root}"
    return ["submit", "--host", kubeflow.url, "--profile", "small", "--set", root,
            "--poll-seconds", "0.01"]  # fmt: skip


@pytest.fixture
def words(given: list[str], images: Path) -> list[str]:
    return [*given, "--images", str(images)]


def defaults(spec: Any) -> dict[str, Any]:
    """A compiled pipeline's defaults, by parameter."""
    found = spec["root"]["inputDefinitions"]["parameters"].items()
    return {name: parameter.get("defaultValue") for name, parameter in found}


def by_digest(component: str) -> str:
    return f"{REGISTRY}/cosalign-{component}@sha256:{str(COMPONENTS.index(component)) * 64}"


def test_a_run_is_started_from_a_version_named_by_content(
    kubeflow: FakeKubeflow, words: list[str], gcs_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kubeflow.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    more = ["-p", "shards=3", "-p", 'tolerations=[{"key": "gpu", "operator": "Exists"}]',
            "--label", "team=safety", "--experiment", "regions", "--run-name", "spring",
            "--pipeline-root", "gs://bucket/root", "--service-account", "runner"]  # fmt: skip
    assert main([*words, *more]) == 0
    (version,) = kubeflow.versions
    uploaded = CompiledPipeline(*yaml.safe_load_all(kubeflow.packages[0]))
    assert version["display_name"] == version_name("cosalign", uploaded)
    shipped = shipped_pipeline("cosalign")
    assert uploaded.platform == shipped.platform
    own = {f"{name}_image": by_digest(name) for name in COMPONENTS}
    assert defaults(uploaded.pipeline) == defaults(shipped.pipeline) | own
    assert uploaded.pipeline["root"]["dag"] == shipped.pipeline["root"]["dag"]
    (run,) = kubeflow.runs
    assert run["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v1"}
    assert (run["display_name"], run["service_account"]) == ("spring", "runner")
    assert run["runtime_config"]["pipeline_root"] == "gs://bucket/root"
    sent = run["runtime_config"]["parameters"]
    assert sent["shards"] == 3
    assert sent["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert sent["run_config_uri"].startswith(f"{gcs_root}/{STORED_CONFIGS}/")
    assert content_sha256(read_uri(sent["run_config_uri"])) == sent["run_config_digest"]
    labels = json.loads(run["description"])
    assert labels == {"cosalign.dev/config": sent["run_config_digest"], "team": "safety"}
    assert kubeflow.experiments[0]["display_name"] == "regions"
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("run r1")]
    assert shown == ["run r1: spring", "run r1: pending", "run r1: running", "run r1: succeeded"]


def test_training_goes_where_other_gpu_tasks_go_unless_told_otherwise(
    kubeflow: FakeKubeflow, words: list[str]
) -> None:
    common, own = ["-p", 'node_selector={"pool": "a"}'], ["-p", 'training_node_selector={"b": "c"}']
    for more in ([], common, [*common, *own]):
        assert main([*words, "--no-wait", *more]) == 0
    sent = [run["runtime_config"]["parameters"] for run in kubeflow.runs]
    assert [one.get("training_node_selector") for one in sent] == [None, {"pool": "a"}, {"b": "c"}]
    model = ["-p", "model_uri=gs://bucket/model"]
    assert main([words[0], "evaluate", *words[1:], "--no-wait", *common, *model]) == 0
    assert "training_node_selector" not in kubeflow.runs[-1]["runtime_config"]["parameters"]


def test_the_same_pipeline_is_uploaded_once(kubeflow: FakeKubeflow, words: list[str]) -> None:
    for _ in range(2):
        assert main(words) == 0
    assert (len(kubeflow.runs), len(kubeflow.versions)) == (2, 1)
    assert (len(kubeflow.pipelines), len(kubeflow.experiments)) == (1, 1)
    assert {run["pipeline_version_reference"]["pipeline_version_id"] for run in kubeflow.runs} == {
        "v1"
    }


@pytest.mark.parametrize(
    ("state", "code"), [("SUCCEEDED", 0), ("SKIPPED", 0), ("FAILED", 1), ("CANCELED", 1)]
)
def test_the_exit_code_is_the_runs(
    state: str, code: int, kubeflow: FakeKubeflow, words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kubeflow.states = ["RUNNING", state]
    kubeflow.message = "" if code == 0 else "a pod was evicted"
    assert main(words) == code
    said = capsys.readouterr().err
    assert ("a pod was evicted" in said) == bool(code)
    assert "Traceback" not in said


def test_a_run_need_not_be_waited_for(kubeflow: FakeKubeflow, words: list[str]) -> None:
    kubeflow.states = ["FAILED"]
    assert main([*words, "--no-wait"]) == 0
    assert not any(request.startswith("GET /apis/v2beta1/runs") for request in kubeflow.requests)


def test_a_server_that_is_away_for_a_while_is_asked_again(
    kubeflow: FakeKubeflow, words: list[str]
) -> None:
    assert main([*words, "--no-wait"]) == 0
    from cosalign.retraining.submission import Kubeflow, follow

    import kfp  # isort: skip

    kubeflow.answers = [503, 502]
    server = Kubeflow(kfp.Client(host=kubeflow.url))
    assert follow(lambda: server.state("r1"), lambda _: None, 0.01).state == "SUCCEEDED"


@pytest.mark.parametrize(("status", "code"), [(503, 75), (429, 75), (403, 2)])
def test_a_server_that_refuses_says_whose_fault_it_is(
    status: int, code: int, kubeflow: FakeKubeflow, words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kubeflow.answers = [status] * 9
    assert main(words) == code
    said = capsys.readouterr().err
    assert str(status) in said
    assert "Traceback" not in said


@pytest.mark.parametrize("status", [401, 403])
def test_a_run_that_can_no_longer_be_looked_at_is_not_said_to_have_failed(
    status: int, kubeflow: FakeKubeflow, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kubeflow.states, kubeflow.looks = ["RUNNING"], [200, status]
    assert main(words) == 75
    shown = capsys.readouterr()
    assert "run r1: running" in shown.out
    assert "'r1'" in shown.err
    assert f"{status}" in shown.err
    assert "The run goes on" in shown.err


def test_a_token_file_that_is_renewed_is_read_again(kubeflow: FakeKubeflow, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    server = open_kubeflow(kubeflow.url, None, None, token)
    server.state("r1")
    token.write_text("renewed\n")
    server.state("r1")
    assert kubeflow.tokens == {"Bearer first", "Bearer renewed"}


def test_the_states_of_tasks_are_shown_once_and_kfps_own_are_not(
    kubeflow: FakeKubeflow, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kubeflow.states = ["RUNNING", "RUNNING", "SUCCEEDED"]
    kubeflow.task_states = [("root-driver", "SUCCEEDED"), ("prepare-driver", "SUCCEEDED"),
                            ("prepare", "SUCCEEDED"), ("generation", "RUNNING"),
                            ("generation", "SUCCEEDED"), ("generation", "RUNNING")]  # fmt: skip
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-4:] == ["run r1: running", "  generation: 2 running, 1 succeeded",
                         "  prepare: succeeded", "run r1: succeeded"]  # fmt: skip


def test_a_token_is_taken_from_the_environment_alone(
    kubeflow: FakeKubeflow, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINES_TOKEN", "opaque")
    assert main([*words, "--token-env", "PIPELINES_TOKEN"]) == 0
    assert kubeflow.tokens == {"Bearer opaque"}
    assert main([*words, "--token-env", "NO_SUCH_TOKEN"]) == 2


def test_a_version_that_the_chart_installed_is_run_as_it_is(
    kubeflow: FakeKubeflow, given: list[str]
) -> None:
    kubeflow.pipelines = [{"pipeline_id": "p1", "display_name": "cosalign"}]
    kubeflow.versions = [{"pipeline_version_id": "v7", "display_name": "cosalign-0.1.0-abc"}]
    assert main([*given, "--version", "cosalign-0.1.0-abc"]) == 0
    (run,) = kubeflow.runs
    assert run["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v7"}
    assert run["runtime_config"]["parameters"].keys() == {"run_config_uri", "run_config_digest"}
    assert kubeflow.packages == []


def test_a_version_that_is_not_there_is_not_uploaded(
    kubeflow: FakeKubeflow, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, "--version", "cosalign-9"]) == 2
    assert "no version 'cosalign-9'" in capsys.readouterr().err
    assert (kubeflow.packages, kubeflow.runs) == ([], [])


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["-p", "scoring_image=registry/cosalign-scoring:0.1.0"],
        ["--version", "cosalign-0.1.0-abc", "-p", "scoring_image=registry/cosalign-scoring:0.1.0"],
    ],
)
def test_an_image_without_registry_and_digest_is_refused(
    more: list[str], kubeflow: FakeKubeflow, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, *more]) == 2
    said = capsys.readouterr().err
    assert "names no registry and digest" in said
    assert "--images FILE" in said
    assert kubeflow.requests == []


def test_images_by_tag_can_be_tried_out(kubeflow: FakeKubeflow, given: list[str]) -> None:
    assert main([*given, "--allow-tags"]) == 0
    assert len(kubeflow.runs) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("images: {synthesis: {digest: x}}", "names no images.registry"),
        ("[1]", "expected a mapping"),
        ("images: {registry: r.example, evaluation: {tag: 1.0}}", "images.evaluation.digest"),
    ],
)
def test_a_wrong_file_of_images_is_named(
    text: str | None, said: str, kubeflow: FakeKubeflow, given: list[str], images: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    images.unlink() if text is None else images.write_text(text)
    assert main([*given, "evaluate", "-p", "model_uri=gs://b/m", "--images", str(images)]) == 2
    message = capsys.readouterr().err
    assert str(images) in message
    assert said in message
    assert kubeflow.requests == []


def _commands(beginning: str) -> Iterator[list[str]]:
    """README's command lines that begin so, as words; a command in them stands for a digest."""
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith(f"    {beginning}"):
            yield shlex.split(re.sub(r"\$\(.*?\)", "0" * 64, line), comments=True)


def test_readmes_commands_for_a_cluster_start_runs_that_a_cluster_can_pull(
    kubeflow: FakeKubeflow, gcs_root: str, images: Path
) -> None:
    kubeflow.pipelines = [{"pipeline_id": "p1", "display_name": "cosalign"}]
    kubeflow.versions = [{"pipeline_version_id": "v7", "display_name": "cosalign-0.1.0-DIGEST"}]
    here = {"URL": kubeflow.url, "dist/images.yaml": str(images)}
    commands = list(_commands("cosalign submit --host"))
    assert len(commands) == 2
    for _, *rest in commands:
        given = [here.get(word, word.replace("gs://bucket/prefix", gcs_root)) for word in rest]
        assert main([*given, "--poll-seconds", "0.01"]) == 0
    assert [run["service_account"] for run in kubeflow.runs] == ["cosalign-pipeline"] * 2
    versions = [run["pipeline_version_reference"]["pipeline_version_id"] for run in kubeflow.runs]
    assert versions == ["v7", "v2"]
    assert kubeflow.runs[1]["runtime_config"]["parameters"]["tolerations"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--version", "cosalign-0.1.0-abc"], "has images of its own"),
        (["-p", "shard=3"], "did you mean 'shards'"),
        (["-p", "shards=three"], "NUMBER_INTEGER wants JSON"),
        (["-p", "shards"], "write NAME=VALUE"),
        (["--label", "team"], "write NAME=VALUE"),
        (["--set", "storage.root=/home/me"], "which pods cannot read"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(
    more: list[str], message: str, kubeflow: FakeKubeflow, words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err
    assert kubeflow.requests == []


def test_a_model_is_named_for_its_evaluation(kubeflow: FakeKubeflow, words: list[str]) -> None:
    assert main([words[0], "evaluate", *words[1:]]) == 2
    model = ["-p", "model_uri=gs://bucket/model"]
    assert main([words[0], "evaluate", *words[1:], *model]) == 0
    assert kubeflow.runs[0]["runtime_config"]["parameters"]["model_uri"] == "gs://bucket/model"


def test_kfps_own_command_starts_what_is_compiled_with_images_as_the_readme_says(
    kubeflow: FakeKubeflow, tmp_path: Path, images: Path
) -> None:
    package = str(tmp_path / "cosalign.yaml")
    here = {"cosalign.yaml": package, "dist/images.yaml": str(images), "URL": kubeflow.url}
    ((_, *compiling),) = _commands("cosalign compile")
    assert main([here.get(word, word) for word in compiling]) == 0
    ((kfp, *creating),) = _commands("kfp --endpoint")
    given = [here.get(word, word) for word in creating]
    done = subprocess.run(
        [str(Path(sys.executable).parent / kfp), *given, "shards=2"],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = kubeflow.runs
    sent = run["runtime_config"]["parameters"]
    assert sent["shards"] == 2
    assert sent["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    spec = run["pipeline_spec"]
    assert spec["platform_spec"] == shipped_pipeline("cosalign").platform
    found = defaults(spec["pipeline_spec"])
    assert {n: v for n, v in found.items() if n.endswith("_image")} == {
        f"{name}_image": by_digest(name) for name in COMPONENTS
    }
