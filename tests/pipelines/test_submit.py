"""``cosalign submit`` and ``kfp run create`` against the API's own definition."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.pipelines.kfp_server import FakeKubeflow, kfp_server

from cosalign.domain.fingerprint import content_sha256
from cosalign.pipelines.command_line import main
from cosalign.retraining.connection import open_kubeflow
from cosalign.retraining.shipped_pipelines import compiled_path, shipped_pipeline
from cosalign.retraining.submission import version_name
from cosalign.runtime.run_config import STORED_CONFIGS
from cosalign.store.storage import read_uri


@pytest.fixture
def kubeflow() -> Iterator[FakeKubeflow]:
    with kfp_server() as fake:
        yield fake
        assert fake.violations == []


@pytest.fixture
def words(kubeflow: FakeKubeflow, gcs_root: str) -> list[str]:
    root = f"storage.root={gcs_root}"
    return ["submit", "--host", kubeflow.url, "--profile", "small", "--set", root,
            "--poll-seconds", "0.01"]  # fmt: skip


def test_a_run_is_started_from_a_version_named_by_content(
    kubeflow: FakeKubeflow, words: list[str], gcs_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kubeflow.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
    more = ["-p", "shards=3", "-p", 'tolerations=[{"key": "gpu", "operator": "Exists"}]',
            "--label", "team=safety", "--experiment", "regions", "--run-name", "spring",
            "--pipeline-root", "gs://bucket/root", "--service-account", "runner"]  # fmt: skip
    assert main([*words, *more]) == 0
    shipped = shipped_pipeline("cosalign")
    (version,) = kubeflow.versions
    assert version["display_name"] == version_name("cosalign", shipped)
    ir, platform = yaml.safe_load_all(kubeflow.packages[0])
    assert (ir, platform) == (shipped.pipeline, shipped.platform)
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


@pytest.mark.parametrize(
    ("more", "message"),
    [
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


def test_kfps_own_command_starts_the_compiled_file(kubeflow: FakeKubeflow, tmp_path: Path) -> None:
    package = tmp_path / "cosalign.yaml"
    package.write_text(shipped_pipeline("cosalign").package())
    kfp = str(Path(sys.executable).parent / "kfp")
    done = subprocess.run(
        [kfp, "--endpoint", kubeflow.url, "run", "create", "-e", "regions", "-r", "spring",
         "-f", str(package), "run_config_uri=gs://bucket/config.yaml",
         f"run_config_digest={'0' * 64}", "shards=2"],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = kubeflow.runs
    assert run["runtime_config"]["parameters"]["shards"] == 2
    spec = run["pipeline_spec"]
    assert spec["platform_spec"] == shipped_pipeline("cosalign").platform
    assert (
        spec["pipeline_spec"]["root"] == json.loads(compiled_path("cosalign").read_text())["root"]
    )
