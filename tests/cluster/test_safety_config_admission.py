"""SafetyConfigs at a real API server's door: the examples get in, wrong ones do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.charts.rendering import ROOT
from tests.charts.test_safety_config_crd import ABSENT, GOOD, REFUSED, TAKEN
from tests.cluster.live_cluster import (
    Failed,
    install_safety_config_crd,
    namespace,
    on_cluster,
    read,
)

from cosalign.domain.safety_config import parse_safety_config
from cosalign.runtime.safety_config_files import known_taxonomies

pytestmark = pytest.mark.cluster
FILES = sorted((ROOT / "manifests" / "safety-configs").glob("*.yaml"))
# An unknown field is no error to a server, which drops it: kubectl asks it to be strict.
UNKNOWN = ("unknown field", "unknown field below")


@pytest.fixture(scope="module")
def space() -> Iterator[str]:
    install_safety_config_crd()
    with namespace() as name:
        yield name


def _document(space: str, change: dict[str, Any]) -> str:
    spec = {key: value for key, value in {**GOOD, **change}.items() if value is not ABSENT}
    return json.dumps(
        {
            "apiVersion": "cosalign.dev/v1alpha1",
            "kind": "SafetyConfig",
            "metadata": {"name": "example", "namespace": space},
            "spec": spec,
        }
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_comes_back_as_it_went_in(space: str, file: Any) -> None:
    on_cluster("apply", "-n", space, "-f", str(file))
    stored = read("safetyconfigs", file.stem, "-n", space)
    text = file.read_text("utf-8")
    assert stored["spec"] == yaml.safe_load(text)["spec"]
    taxonomies = known_taxonomies()
    from_server = parse_safety_config(json.dumps(stored), "server", taxonomies)
    assert from_server.digest == parse_safety_config(text, file.name, taxonomies).digest


@pytest.mark.parametrize("case", [name for name in REFUSED if name not in UNKNOWN])
def test_the_server_itself_refuses(space: str, case: str) -> None:
    text = _document(space, REFUSED[case])
    with pytest.raises(Failed, match="spec"):
        on_cluster("create", "--validate=false", "--dry-run=server", "-f", "-", text=text)


@pytest.mark.parametrize("case", UNKNOWN)
def test_kubectl_refuses_unknown_fields(space: str, case: str) -> None:
    text = _document(space, REFUSED[case])
    with pytest.raises(Failed, match="unknown field"):
        on_cluster("create", "--dry-run=server", "-f", "-", text=text)


@pytest.mark.parametrize("case", TAKEN)
def test_the_server_takes(space: str, case: str) -> None:
    on_cluster("create", "--dry-run=server", "-f", "-", text=_document(space, TAKEN[case]))
