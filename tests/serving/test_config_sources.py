"""The three sources: a published set, Kubernetes objects, trusted files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.serving.world import config_document, running

from cosalign.domain.config_rendering import render_safety_config
from cosalign.domain.errors import CosalignError
from cosalign.domain.safety_config import SafetyConfig, parse_safety_config
from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.serving.config_sources import AcceptedConfigSource, FileConfigSource, Reading
from cosalign.serving.kubernetes_configs import KubernetesConfigSource, read_object
from cosalign.store.accepted_configs import AcceptedSet, accepted_config
from cosalign.store.storage import Storage

TAXONOMIES = known_taxonomies()
TEXT = "Speak freely of beer."


def parsed(document: dict[str, Any]) -> SafetyConfig:
    return parse_safety_config(json.dumps(document), "test", TAXONOMIES)


def publish(storage: Storage, *documents: dict[str, Any]) -> None:
    configs = [accepted_config(parsed(d), d, "2026-11-01T00:00:00+00:00") for d in documents]
    AcceptedSet(storage).publish(configs, "test", "2026-11-01T00:00:00+00:00")


def test_the_published_set_is_what_is_served(storage: Storage) -> None:
    source = AcceptedConfigSource(storage.uri, "main", TAXONOMIES)
    assert source.read() == Reading()
    document = config_document("pub", "ie", TEXT, expires="2027-01-01")
    publish(storage, document)
    (found,) = source.read().servable.values()
    config = parsed(document)
    assert (found.name, found.region, found.digest) == ("pub", "ie", config.digest)
    taxonomy = TAXONOMIES["cosa 1"]
    assert found.text == render_safety_config(config, taxonomy).text
    assert found.ends == 1798761600.0
    publish(storage)
    assert source.read() == Reading()


def test_a_torn_set_is_not_read_and_no_older_one_in_its_place(storage: Storage) -> None:
    source = AcceptedConfigSource(storage.uri, "main", TAXONOMIES)
    publish(storage, config_document("pub", "ie", TEXT))
    path = "accepted/main/current.json"
    whole = storage.read_bytes(path)
    for torn in (whole[: len(whole) // 2], b"", whole.replace(b"beer", b"wine")):
        storage.write_bytes(path, torn)
        with pytest.raises(CosalignError):
            source.read()


def test_a_config_in_an_unknown_taxonomy_breaks_alone(storage: Storage) -> None:
    documents = [config_document("pub", "ie", TEXT), config_document("school", "no", TEXT)]
    publish(storage, *documents)
    few = dict(TAXONOMIES)
    source = AcceptedConfigSource(storage.uri, "main", few)
    assert len(source.read().servable) == 2
    few.clear()
    reading = source.read()
    assert not reading.servable
    assert set(reading.broken.values()) == {"ie", "no"}


def test_files_are_read_each_for_itself(tmp_path: Path) -> None:
    source = FileConfigSource([str(tmp_path)], TAXONOMIES)
    (tmp_path / "a.yaml").write_text(json.dumps(config_document("a", "ie", TEXT)))
    (tmp_path / "torn.yaml").write_text(json.dumps(config_document("b", "no", TEXT))[:60])
    (tmp_path / "allows.yaml").write_text(
        json.dumps(config_document("c", "se", TEXT)).replace('"text"', '"allowed"')
    )
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "notes.txt").write_text("no config")
    reading = source.read()
    assert [config.name for config in reading.servable.values()] == ["a"]
    assert {Path(uri).name for uri in reading.broken} == {"torn.yaml", "allows.yaml", "bytes.yaml"}


def stored_object(generation: int = 3, **condition: Any) -> dict[str, Any]:
    """An object as a reconciler that accepted it leaves it."""
    document = config_document("pub", "ie", TEXT)
    accepted = {"type": "Accepted", "status": "True", "observedGeneration": generation, **condition}
    return {
        **document,
        "metadata": {"name": "pub", "namespace": "eu", "generation": generation, "uid": "u",
                     "managedFields": [{"manager": "kubectl"}], "selfLink": "/old"},
        "status": {"digest": parsed(document).digest, "conditions": [
            {"type": "Ready", "status": "True", "observedGeneration": generation}, accepted]},
    }  # fmt: skip


def outcome(item: dict[str, Any]) -> str:
    reading = Reading()
    read_object(item, reading, TAXONOMIES)
    kinds = {"servable": reading.servable, "refused": reading.refused, "broken": reading.broken}
    return next((kind for kind, found in kinds.items() if found), "gone")


def test_an_accepted_object_is_served() -> None:
    reading = Reading()
    read_object(stored_object(), reading, TAXONOMIES)
    assert reading.servable["pub"].text == TEXT


@pytest.mark.parametrize(
    ("edit", "becomes"),
    [
        (lambda o: o["metadata"].update(generation=4), "broken"),
        (lambda o: o["spec"].update(text="Speak of anything."), "broken"),
        (lambda o: o["spec"].update(taxonomy={"name": "cosa", "version": "9"}), "broken"),
        (lambda o: o["spec"].update(surprise=1), "broken"),
        (lambda o: o["spec"].pop("region"), "broken"),
        (lambda o: o.pop("spec"), "broken"),
        (lambda o: o["status"].update(digest="0" * 64), "broken"),
        (lambda o: o["status"].pop("digest"), "broken"),
        (lambda o: o["status"]["conditions"][1].update(status="False"), "refused"),
        (lambda o: o["status"]["conditions"][1].update(status="Unknown"), "refused"),
        (lambda o: o["status"]["conditions"][1].update(status="true"), "refused"),
        (lambda o: o["status"]["conditions"][1].update(observedGeneration=2), "broken"),
        (lambda o: o["status"]["conditions"].pop(1), "broken"),
        (lambda o: o["status"].update(conditions=None), "broken"),
        (lambda o: o.pop("status"), "broken"),
        (lambda o: o["metadata"].pop("generation"), "broken"),
        (lambda o: o["metadata"].update(deletionTimestamp="2026-11-01T00:00:00Z"), "gone"),
    ],
)
def test_no_object_is_served_that_its_status_does_not_accept_as_it_stands(
    edit: Any, becomes: str
) -> None:
    item = stored_object()
    edit(item)
    assert outcome(item) == becomes


@given(
    generation=st.integers(1, 3),
    observed=st.one_of(st.none(), st.integers(1, 3)),
    status=st.sampled_from(["True", "False", "Unknown"]),
    same_digest=st.booleans(),
)
def test_served_if_and_only_if_all_agrees(
    generation: int, observed: int | None, status: str, same_digest: bool
) -> None:
    item = stored_object(generation, status=status, observedGeneration=observed)
    if not same_digest:
        item["status"]["digest"] = "f" * 64
    right = observed == generation and status == "True" and same_digest
    assert (outcome(item) == "servable") == right


@pytest.fixture
def api_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An API server that lists what a test puts into it."""
    items: list[dict[str, Any]] = []

    async def listed(_: Any) -> JSONResponse:
        # A list's items have no kind.
        plain = [{k: v for k, v in o.items() if k not in ("apiVersion", "kind")} for o in items]
        return JSONResponse({"kind": "SafetyConfigList", "items": plain})

    path = "/apis/cosalign.dev/v1alpha1/namespaces/eu/safetyconfigs"
    with running(Starlette(routes=[Route(path, listed)])) as url:
        yield url, items


def test_objects_are_listed_over_the_api(
    api_server: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    url, items = api_server
    cluster = Cluster(url, "eu", tmp_path / "token", None)
    with KubernetesApi(cluster, patience=1.0) as api:
        source = KubernetesConfigSource(api, "eu", TAXONOMIES)
        assert source.read() == Reading()
        items.append(stored_object())
        assert source.read().servable["pub"].region == "ie"
        items[0]["metadata"]["generation"] = 4
        assert source.read().broken == {"pub": "ie"}
