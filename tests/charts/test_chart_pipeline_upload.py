"""templates/pipeline-upload.yaml: the objects of the other kind of store, uploaded by a Job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.charts.object_schemas import problems
from tests.charts.pod_security import violations
from tests.charts.rendering import Object, Values, merged, of_kind, render, the
from tests.pipelines.kfp_server import FakeKubeflow, kfp_server

from cosalign.pipelines.command_line import main

UPLOAD: Values = {"pipelines": {"store": "upload"}}
NAME = "rel-cosalign-pipeline-upload"


def _job(values: Values | None = None) -> Object:
    job: Object = the(render(merged(UPLOAD, values or {})), "Job", NAME)["spec"]
    return job


def _container(values: Values | None = None) -> Object:
    (container,) = _job(values)["template"]["spec"]["containers"]
    found: Object = container
    return found


def _files(values: Values, folder: Path) -> Path:
    """The ConfigMap's content, as the Job finds it."""
    folder.mkdir()
    for name, text in the(render(values), "ConfigMap", "rel-cosalign-pipelines")["data"].items():
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture
def kubeflow() -> Iterator[FakeKubeflow]:
    with kfp_server() as fake:
        yield fake
        assert fake.violations == []


def test_the_objects_are_those_of_the_other_store(tmp_path: Path) -> None:
    objects = {n: v["spec"] for n, v in of_kind(render(), "PipelineVersion").items()}
    uploaded = [json.loads(f.read_text()) for f in _files(UPLOAD, tmp_path / "p").iterdir()]
    assert {item["metadata"]["name"]: item["spec"] for item in uploaded} == objects
    assert all(problems(item) == [] for item in uploaded)
    assert of_kind(render(UPLOAD), "PipelineVersion") == {}


def test_the_job_s_command_uploads_them_under_their_names(
    kubeflow: FakeKubeflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = merged(UPLOAD, {"pipelines": {"upload": {"host": kubeflow.url, "tokenAudience": ""}}})
    container = _container(values)
    assert container["command"][:3] == ["python", "-m", "cosalign.pipelines.command_line"]
    folder = _files(values, tmp_path / "p")
    words = [str(folder) if word == "/etc/cosalign/pipelines" else word
             for word in container["command"][3:] + container["args"]]  # fmt: skip
    for _ in range(2):
        assert main(words) == 0
    names = {version["display_name"] for version in kubeflow.versions}
    assert names == set(of_kind(render(), "PipelineVersion"))
    assert len(kubeflow.packages) == 2
    (spec, platform) = yaml.safe_load_all(kubeflow.packages[0])
    assert spec["pipelineInfo"]["name"] == "cosalign"
    assert "registry.example/cosalign/cosalign-scoring" in json.dumps(spec)
    assert "kubernetes" in platform["platforms"]
    said = capsys.readouterr().out
    assert all(name in said for name in names)


def test_it_signs_in_with_a_token_for_kfp_alone() -> None:
    pod = _job()["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    (projected,) = [v["projected"] for v in pod["volumes"] if "projected" in v]
    (source,) = projected["sources"]
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"
    assert "--token-file=/var/run/secrets/kubeflow/pipelines/token" in _container()["args"]
    assert pod["serviceAccountName"] == "rel-cosalign-submitter"


def test_without_an_audience_it_sends_no_token() -> None:
    values: Values = {"pipelines": {"upload": {"tokenAudience": ""}}}
    assert not [v for v in _job(values)["template"]["spec"]["volumes"] if "projected" in v]
    assert not [word for word in _container(values)["args"] if "token" in word]


def test_it_asks_kfp_in_the_cluster_unless_told_otherwise() -> None:
    assert "--host=http://ml-pipeline.kubeflow:8888" in _container()["args"]
    other: Values = {"kfp": {"namespace": "0042"}, "pipelines": {"namespace": "1e3"}}
    assert "--host=http://ml-pipeline.0042:8888" in _container(other)["args"]
    assert "--namespace=1e3" in _container(other)["args"]


def test_it_runs_after_the_release_and_a_mistake_ends_it_at_once() -> None:
    job = the(render(UPLOAD), "Job", NAME)
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert violations(job["spec"]["template"]["spec"]) == []
    assert problems(job) == []


def test_servers_too_old_for_failure_policies_get_none() -> None:
    job = the(render(UPLOAD, "--kube-version", "v1.25.3"), "Job", NAME)
    assert "podFailurePolicy" not in job["spec"]


@pytest.mark.parametrize("store", ["kubernetes", "none"])
def test_no_job_where_nothing_is_to_be_uploaded(store: str) -> None:
    objects = render({"pipelines": {"store": store}})
    assert of_kind(objects, "Job") == {}
    assert "rel-cosalign-pipelines" not in of_kind(objects, "ConfigMap")
    assert NAME not in of_kind(objects, "NetworkPolicy")
