"""templates/tests/install-check.yaml and NOTES.txt: what a person sees after an install."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.charts.rendering import (
    CHART,
    NEEDED,
    Object,
    Values,
    merged,
    of_kind,
    render,
    run_helm,
    the,
)


def _pod(values: Values) -> Object:
    return the(render(values), "Pod", "rel-cosalign-install-check")


VALUES: Values = {
    "storage": {"root": "gs://bucket/root"},
    "runConfigs": {"weekly": {}, "small": {}},
}


def test_it_reads_every_run_config_from_where_it_is_mounted() -> None:
    spec = _pod(VALUES)["spec"]
    (container,) = spec["containers"]
    files = [argument for argument in container["args"] if argument.startswith("/")]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    configs = of_kind(render(VALUES), "ConfigMap")
    assert len(files) == len(configs) == 2
    for file in map(Path, files):
        source = volumes[mounts[str(file.parent)]]["configMap"]["name"]
        assert file.name in configs[source]["data"]


def test_it_tries_the_release_s_storage_under_the_runs_account() -> None:
    spec = _pod(VALUES)["spec"]
    assert "--storage=gs://bucket/root" in spec["containers"][0]["args"]
    assert spec["serviceAccountName"] == "rel-cosalign-pipeline"


def test_its_program_exists_and_takes_these_arguments() -> None:
    from cosalign.runtime.install_check import parser

    (container,) = _pod(VALUES)["spec"]["containers"]
    assert container["command"] == ["python", "-m", "cosalign.runtime.install_check"]
    given = parser().parse_args(container["args"])
    assert given.storage == "gs://bucket/root"
    assert len(given.files) == 2


def test_it_gets_the_environment_of_all_pods() -> None:
    given = {"pods": {"environment": {"HTTPS_PROXY": "http://proxy:3128"}}}
    (container,) = _pod(given)["spec"]["containers"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in container["env"]


def test_without_anything_to_check_it_still_starts() -> None:
    assert not _pod({})["spec"]["containers"][0]["args"]


def test_it_is_a_test_and_no_part_of_the_release() -> None:
    notes = _pod({})["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "test"


def _notes(values: Values, tmp_path: Path) -> str:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(merged(NEEDED, values)), "utf-8")
    done = run_helm(
        "install", "rel", str(CHART), "-n", "space", "--dry-run=client", "-f", str(file)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def test_notes_name_versions_accounts_and_the_next_commands(tmp_path: Path) -> None:
    notes = _notes({**VALUES, "images": {"allowTags": True}}, tmp_path)
    (version, *_) = of_kind(render(VALUES), "PipelineVersion")
    assert version in notes
    assert "rel-cosalign-pipeline" in notes
    assert "helm test rel --namespace space" in notes
    assert "rel-cosalign-run-weekly" in notes
    assert "for a try-out only" in notes


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"pipelines": {"store": "none"}}, "upload them"),
        ({"pipelines": {"store": "upload"}}, "uploaded, named by content"),
        ({"networkPolicy": {"enabled": False}}, "Network policies are off"),
        ({}, "there are no run configs yet"),
    ],
)
def test_notes_say_what_is_missing(values: Values, what: str, tmp_path: Path) -> None:
    assert what in _notes(values, tmp_path)
