"""``cosalign pipelines upload``: what is uploaded, under which name, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.pipelines.kfp_server import FakeKubeflow, kfp_server

from cosalign.pipelines.command_line import main
from cosalign.retraining.shipped_pipelines import PIPELINES, shipped_pipeline
from cosalign.retraining.submission import version_name

WORDS = ["pipelines", "upload"]


@pytest.fixture
def kubeflow() -> Iterator[FakeKubeflow]:
    with kfp_server() as fake:
        yield fake
        assert fake.violations == []


def manifest(**changed: object) -> dict[str, object]:
    shipped = shipped_pipeline("evaluate")
    spec = {"pipelineName": "evaluate", "pipelineSpec": shipped.pipeline,
            "platformSpec": shipped.platform}  # fmt: skip
    return {
        "apiVersion": "pipelines.kubeflow.org/v2beta1",
        "kind": "PipelineVersion",
        "metadata": {"name": "evaluate-9"},
        "spec": {**spec, **changed},
    }


def test_what_ships_is_uploaded_under_the_names_that_submit_uses(kubeflow: FakeKubeflow) -> None:
    assert main([*WORDS, "--host", kubeflow.url]) == 0
    names = {version["display_name"] for version in kubeflow.versions}
    assert names == {version_name(name, shipped_pipeline(name)) for name in PIPELINES}


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_an_object_is_uploaded_under_its_own_name_once(
    suffix: str, kubeflow: FakeKubeflow, tmp_path: Path
) -> None:
    file = tmp_path / f"pipeline.{suffix}"
    text: str = json.dumps(manifest()) if suffix == "json" else yaml.safe_dump(manifest())
    file.write_text(text)
    for given in (file, tmp_path):
        assert main([*WORDS, str(given), "--host", kubeflow.url]) == 0
    (version,) = kubeflow.versions
    assert version["display_name"] == "evaluate-9"
    shipped = shipped_pipeline("evaluate")
    assert list(yaml.safe_load_all(kubeflow.packages[0])) == [shipped.pipeline, shipped.platform]


def test_a_token_is_read_from_a_file(kubeflow: FakeKubeflow, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("opaque\n")
    assert main([*WORDS, "--host", kubeflow.url, "--token-file", str(token)]) == 0
    assert kubeflow.tokens == {"Bearer opaque"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Pipeline", "holds no PipelineVersion"),
        ("just words", "holds no PipelineVersion"),
        ("a: [", "neither JSON nor one YAML document"),
        ("a: 1\n---\nb: 2", "neither JSON nor one YAML document"),
        ("{kind: PipelineVersion, metadata: {name: x}, spec: {pipelineName: y}}", "'pipelineSpec'"),
    ],
)
def test_a_wrong_file_is_named_before_anything_is_sent(
    text: str, said: str, kubeflow: FakeKubeflow, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    assert main([*WORDS, str(file), "--host", kubeflow.url]) == 2
    message = capsys.readouterr().err
    assert str(file) in message
    assert said in message
    assert kubeflow.requests == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["missing.json"], "No such file"),
        (["--token-file", "missing"], "No such file"),
        (["--token-file", "missing", "--token-env", "X"], "give one"),
    ],
)
def test_what_is_not_there_is_said(
    more: list[str], said: str, kubeflow: FakeKubeflow, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, *more, "--host", kubeflow.url]) == 2
    assert said in capsys.readouterr().err


def test_an_empty_folder_is_a_mistake(
    kubeflow: FakeKubeflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, str(tmp_path), "--host", kubeflow.url]) == 2
    assert "no *.json or *.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "code"), [(503, 75), (403, 2)])
def test_the_exit_code_says_whether_another_attempt_may_help(
    status: int, code: int, kubeflow: FakeKubeflow
) -> None:
    kubeflow.answers = [status] * 9
    assert main([*WORDS, "--host", kubeflow.url]) == code
