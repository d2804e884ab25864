"""The chart's life on a real API server: dry run, install, upgrade, rollback, uninstall."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.charts.rendering import CHART, VALUE_SETS, objects_in, run_helm
from tests.cluster.live_cluster import (
    Failed,
    as_this_server_knows,
    chart_crds,
    install_crds,
    install_safety_config_crd,
    names,
    namespace,
    on_cluster,
    read,
    release,
    server_minor,
)

pytestmark = pytest.mark.cluster
VALUES = str(CHART / "ci" / "gke-values.yaml")
# Cluster-wide, so that two runs of these tests would meet.
APART = ("--set", "priorityClass.create=false", "--set", "priorityClass.name=")
OTHER = "sha256:" + "9" * 64


@pytest.fixture(scope="module", autouse=True)
def kinds() -> None:
    install_crds(*chart_crds())
    install_safety_config_crd()


@pytest.fixture
def space() -> Iterator[str]:
    with namespace() as name:
        yield name


@pytest.mark.parametrize("values", VALUE_SETS)
def test_the_server_would_take_everything(values: str, space: str) -> None:
    done = run_helm(
        "template", "rel", str(CHART), "-n", space, "--skip-tests",
        "-f", str(CHART / "ci" / values), "--set", f"pipelines.namespace={space}",
        "--kube-version", f"1.{server_minor()}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The text as helm wrote it: another writer of YAML would quote otherwise.
    text = as_this_server_knows(done.stdout)
    taken = on_cluster("apply", "--server-side", "--dry-run=server", "-f", "-", text=text)
    assert len(taken.splitlines()) == len(objects_in(done.stdout))


def test_from_install_to_uninstall(space: str) -> None:
    common = (str(CHART), "-n", space, "-f", VALUES, *APART)
    release("install", "cosalign", *common)
    (first,) = [n for n in names("pipelineversions", space) if n.startswith("cosalign-")][:1]
    before = names("pipelineversions", space)
    accounts = {"cosalign-pipeline", "cosalign-submitter", "cosalign-trainer"}
    assert accounts <= names("serviceaccounts", space)
    assert names("safetyconfigs", space) == {"school-no"}
    assert names("networkpolicies", space) >= {"cosalign-default-deny", "cosalign-run"}
    stored = read("configmap", "cosalign-run-weekly", "-n", space)
    assert '"limit": 1000000' in stored["data"]["run-config.yaml"]

    release("upgrade", "cosalign", *common, "--set", f"images.synthesis.digest={OTHER}")
    after = names("pipelineversions", space)
    assert before < after
    assert len(after) == 2 * len(before)

    release("rollback", "cosalign", "1", "-n", space)
    assert names("pipelineversions", space) == after

    release("uninstall", "cosalign", "-n", space)
    assert names("pipelineversions", space) == after
    assert names("safetyconfigs", space) == set()
    assert accounts.isdisjoint(names("serviceaccounts", space))

    release("install", "cosalign", *common)
    assert first in names("pipelineversions", space)


def test_an_upgrade_that_changes_nothing_makes_no_version(space: str) -> None:
    common = (str(CHART), "-n", space, "-f", VALUES, *APART)
    release("install", "cosalign", *common)
    before = names("pipelineversions", space)
    release("upgrade", "cosalign", *common, "--set", "resourceQuota.enabled=false")
    assert names("pipelineversions", space) == before


def test_wrong_values_reach_no_cluster(space: str) -> None:
    with pytest.raises(Failed, match="does not match pattern"):
        release(
            "install", "cosalign", str(CHART), "-n", space, "-f", VALUES,
            "--set", "images.scoring.digest=sha256:abc",
        )  # fmt: skip
    assert "cosalign" not in release("list", "-n", space, "-q")
