"""Everything that the chart renders, over every value set under ci/, against the real schemas."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from tests.charts.object_schemas import VERSIONS, problems
from tests.charts.pod_security import pod_specs, violations
from tests.charts.rendering import (
    CHART,
    VALUE_SETS,
    Object,
    objects_in,
    of_kind,
    render,
    render_set,
    run_helm,
    the,
)

NAMES = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
LABEL = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")
DOTTED = ("SafetyConfig", "PipelineVersion")


def test_there_are_value_sets() -> None:
    assert len(VALUE_SETS) >= 5


@pytest.mark.parametrize("values", VALUE_SETS)
def test_lint(values: str) -> None:
    done = run_helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / values))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUE_SETS)
def test_schemas_of_every_version(values: str) -> None:
    objects = render_set(values)
    assert objects
    found = {f"{o['kind']} {o['metadata']['name']}": problems(o) for o in objects}
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize("values", VALUE_SETS)
def test_pods_meet_restricted_and_cannot_write_their_root(values: str) -> None:
    for item in render_set(values):
        for where, spec in pod_specs(item):
            assert violations(spec) == [], f"{item['kind']} {where}"
            assert isinstance(spec["securityContext"]["runAsUser"], int)
            # What reconciles asks the Kubernetes API for safety configs; no other pod asks it.
            assert spec["automountServiceAccountToken"] is ("reconcile" in item["metadata"]["name"])
            for container in spec["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                assert container["resources"]["limits"]["memory"]
                assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("values", VALUE_SETS)
def test_names_and_labels(values: str) -> None:
    for item in render_set(values):
        metadata = item["metadata"]
        name = metadata["name"]
        assert len(name) <= 63, name
        assert NAMES.match(name.replace(".", "-") if item["kind"] in DOTTED else name), name
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "cosalign"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        for label, value in metadata["labels"].items():
            assert isinstance(value, str), label
            assert len(value) <= 63, label
            assert LABEL.match(value), (label, value)


@pytest.mark.parametrize("values", VALUE_SETS)
def test_no_object_stands_twice(values: str) -> None:
    seen = [
        (o["apiVersion"], o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"])
        for o in render_set(values)
    ]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("values", VALUE_SETS)
def test_every_object_names_its_namespace_unless_it_has_none(values: str) -> None:
    given = yaml.safe_load((CHART / "ci" / values).read_text("utf-8"))
    of_pipelines = given.get("pipelines", {}).get("namespace") or "space"
    for item in render_set(values):
        namespace = item["metadata"].get("namespace")
        if item["kind"] == "PriorityClass":
            assert namespace is None
        elif item["kind"] in ("Pipeline", "PipelineVersion"):
            assert namespace == of_pipelines
        elif item["kind"] in ("Role", "RoleBinding"):
            assert namespace in ("space", of_pipelines), item["metadata"]["name"]
        else:
            assert namespace == "space", item["metadata"]["name"]


@pytest.mark.parametrize("values", VALUE_SETS)
def test_it_holds_no_secret(values: str) -> None:
    assert of_kind(render_set(values), "Secret") == {}


@pytest.mark.parametrize("values", VALUE_SETS)
def test_rendering_is_the_same_each_time(values: str) -> None:
    arguments = ("template", "rel", str(CHART), "--values", str(CHART / "ci" / values))
    assert run_helm(*arguments).stdout == run_helm(*arguments).stdout


def test_two_releases_share_pipelines_alone() -> None:
    def identities(release: str) -> set[tuple[str, str]]:
        done = run_helm("template", release, str(CHART), "-f", str(CHART / "ci/tags-values.yaml"))
        return {(o["kind"], o["metadata"]["name"]) for o in objects_in(done.stdout)}

    both = identities("one") & identities("two")
    assert {kind for kind, _ in both} == {"Pipeline", "PipelineVersion"}


@pytest.mark.parametrize("word", ["no", "y", "on", "1e3", "0042", "12345", "null"])
def test_names_that_yaml_misreads(word: str) -> None:
    values = str(CHART / "ci/gke-values.yaml")
    done = run_helm("template", word, str(CHART), "--namespace", word, "--values", values)
    assert done.returncode == 0, done.stderr
    for item in objects_in(done.stdout):
        metadata = item["metadata"]
        assert metadata.get("namespace", word) == word
        assert metadata["labels"]["app.kubernetes.io/instance"] == word
        assert isinstance(metadata["name"], str)
        assert problems(item) == []


# The checks themselves: each must see what it is there to see.


def test_a_wrong_field_is_seen_in_every_version() -> None:
    policy = the(render(), "NetworkPolicy", "rel-cosalign-run")
    wrong = copy.deepcopy(policy)
    wrong["spec"]["egres"] = wrong["spec"].pop("egress")
    assert problems(policy) == []
    assert len({line.split(":")[0] for line in problems(wrong)}) == len(VERSIONS)


def test_an_unknown_kind_is_seen() -> None:
    assert problems({"apiVersion": "batch/v1", "kind": "Cronjob2", "metadata": {"name": "x"}})
    assert problems({"apiVersion": "example.dev/v1", "kind": "Thing", "metadata": {"name": "x"}})


@pytest.mark.parametrize("change", ["unknown", "typed", "rule"])
def test_a_wrong_custom_object_is_seen(change: str) -> None:
    values = {"trainer": {"enabled": True}}
    runtime: Object = the(render(values), "TrainingRuntime", "rel-cosalign")
    assert problems(runtime) == []
    policy = runtime["spec"]["mlPolicy"]
    changes: dict[str, Object] = {
        "unknown": {"nodes": 2},
        "typed": {"numNodes": "two"},
        "rule": {"jax": {}},
    }
    policy.update(changes[change])
    assert problems(runtime)
