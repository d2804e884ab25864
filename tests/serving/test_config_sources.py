"""The three sources: a published set, Kubernetes objects, trusted files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.serving.world import config_document, running

from cosalign.domain.config_rendering import render_safety_config
from cosalign.domain.errors import CosalignError
from cosalign.domain.safety_config import SafetyConfig, parse_safety_config
from cosalign.runtime.kubernetes_api import Cluster, KubernetesApi
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.serving.config_registry import ConfigRegistry
from cosalign.serving.config_sources import AcceptedConfigSource, FileConfigSource, Reading
from cosalign.serving.kubernetes_configs import KubernetesConfigSource
from cosalign.serving.refusals import Refusal
from cosalign.store.accepted_configs import AcceptedSet, accepted_config
from cosalign.store.storage import Storage

TAXONOMIES = known_taxonomies()
TEXT = "Speak freely of beer."
NOW = "2026-11-01T00:00:00+00:00"


def parsed(document: dict[str, Any]) -> SafetyConfig:
    return parse_safety_config(json.dumps(document), "test", TAXONOMIES)


def publish(storage: Storage, *documents: dict[str, Any]) -> None:
    configs = [accepted_config(parsed(d), d, NOW) for d in documents]
    AcceptedSet(storage).publish(configs, "test", NOW)


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


def stored_object(text: str = TEXT, **status: Any) -> dict[str, Any]:
    """An object of a cluster, as a list gives it: without a kind."""
    return {
        "metadata": {"name": "pub", "namespace": "eu", "generation": 3, "uid": "u"},
        "spec": config_document("pub", "ie", text)["spec"],
        "status": status,
    }


@pytest.fixture
def cluster(storage: Storage, tmp_path: Path) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """The source of a cluster, and the objects that its API server lists."""
    items: list[dict[str, Any]] = []

    async def listed(_: Any) -> JSONResponse:
        return JSONResponse({"kind": "SafetyConfigList", "items": items})

    path = "/apis/cosalign.dev/v1alpha1/namespaces/eu/safetyconfigs"
    accepted = AcceptedConfigSource(storage.uri, "main", TAXONOMIES)
    with (
        running(Starlette(routes=[Route(path, listed)])) as url,
        KubernetesApi(Cluster(url, "eu", tmp_path / "token", None), patience=1.0) as api,
    ):
        yield KubernetesConfigSource(accepted, api, "eu"), items


def accept_object(storage: Storage, **spec: Any) -> None:
    """What a reconcile publishes that accepted the object."""
    document = config_document("pub", "ie", TEXT, **spec)
    document["metadata"]["namespace"] = "eu"
    config = accepted_config(parsed(config_document("pub", "ie", TEXT, **spec)), document, NOW)
    AcceptedSet(storage).publish([config], "test", NOW)


REFUSED = {"type": "Accepted", "status": "False", "observedGeneration": 3}


@pytest.mark.parametrize(
    "edited",
    [
        stored_object("Speak of anything.", conditions=[REFUSED], digest="0" * 64),
        stored_object("Speak of anything."),
        stored_object("Speak of anything.", conditions=[{**REFUSED, "observedGeneration": 2}]),
        {**stored_object(), "spec": {"surprise": 1}},
        {"metadata": {"name": "pub"}},
    ],
    ids=["refused", "not judged", "judged before", "wrong", "empty"],
)
def test_an_edit_leaves_the_accepted_version_in_force(
    cluster: tuple[Any, list[dict[str, Any]]], storage: Storage, edited: dict[str, Any]
) -> None:
    source, items = cluster
    accept_object(storage)
    items.append(edited)
    moments = iter([0.0, 0.0, 10_000.0])
    for _ in range(2):  # the second is a replica that starts after the edit
        registry = ConfigRegistry(source, 300.0, clock=lambda: next(moments, 10_000.0))
        registry.take(source.read())
        assert registry.find("ie").text == TEXT


def test_a_deleted_object_ends_its_config_whatever_is_accepted(
    cluster: tuple[Any, list[dict[str, Any]]], storage: Storage
) -> None:
    source, items = cluster
    accept_object(storage)
    items.append(stored_object())
    registry = ConfigRegistry(source, 300.0)
    registry.take(source.read())
    assert registry.find("ie").name == "pub"
    items[0]["metadata"]["deletionTimestamp"] = "2026-11-01T00:00:00Z"
    for gone in (items[0], None):
        items[:] = [gone] if gone else []
        registry.take(source.read())
        with pytest.raises(Refusal) as refused:
            registry.find("ie")
        assert refused.value.code == "config_not_accepted"


@pytest.mark.parametrize("status", [{}, {"conditions": [{**REFUSED, "status": "True"}]}])
def test_an_object_that_is_not_in_the_set_is_not_served_whatever_its_status_says(
    cluster: tuple[Any, list[dict[str, Any]]], storage: Storage, status: dict[str, Any]
) -> None:
    source, items = cluster
    items.append(stored_object(**status))
    assert source.read() == Reading(refused={"eu/pub": "ie"})
    accept_object(storage)
    assert source.read().servable["eu/pub"].text == TEXT
    AcceptedSet(storage).publish([], "test", NOW)
    assert source.read() == Reading(refused={"eu/pub": "ie"})


@pytest.mark.parametrize(
    ("dates", "code"),
    [
        ({"effectiveFrom": "2027-01-01"}, "config_not_yet_effective"),
        ({"expires": "2026-01-01"}, "config_expired"),
    ],
)
def test_accepted_dates_hold_for_objects_too(
    cluster: tuple[Any, list[dict[str, Any]]], storage: Storage, dates: dict[str, Any], code: str
) -> None:
    source, items = cluster
    accept_object(storage, **dates)
    items.append(stored_object())
    registry = ConfigRegistry(source, 300.0, calendar=lambda: 1795000000.0)
    registry.take(source.read())
    with pytest.raises(Refusal) as refused:
        registry.find("ie")
    assert refused.value.code == code


def test_where_the_set_cannot_be_read_objects_are_no_set(
    cluster: tuple[Any, list[dict[str, Any]]], storage: Storage
) -> None:
    source, items = cluster
    accept_object(storage)
    items.append(stored_object())
    storage.write_bytes("accepted/main/current.json", b"")
    with pytest.raises(CosalignError):
        source.read()


def test_a_set_that_breaks_one_config_breaks_it_here(storage: Storage, cluster: Any) -> None:
    source, items = cluster
    accept_object(storage)
    items.append(stored_object())
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(TAXONOMIES, "cosa 1")
        assert source.read().broken == {"eu/pub": "ie"}
        items.clear()
        assert source.read() == Reading(refused={"eu/pub": "ie"})
