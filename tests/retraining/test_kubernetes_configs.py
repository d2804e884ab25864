"""SafetyConfig objects are read as they are wanted and told what became of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.retraining.config_server import ConfigServer, config_server
from tests.retraining.reconcile_world import World, document

from cosalign.retraining.kubernetes_configs import KubernetesReporter, KubernetesSource
from cosalign.retraining.reporting import Outside, report
from cosalign.retraining.submitters import SubmittedRun
from cosalign.runtime import kubernetes_api
from cosalign.runtime.kubernetes_api import KubernetesApi

BANK = document("eu-bank", "financial_crime_theft")
SCHOOL = document("no-school")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ConfigServer]:
    with config_server(tmp_path) as state:
        yield state
        assert state.problems == []


@pytest.fixture
def api(server: ConfigServer) -> Iterator[KubernetesApi]:
    with KubernetesApi(server.cluster, patience=5.0) as opened:
        yield opened


@pytest.fixture
def world(tmp_path: Path, api: KubernetesApi) -> World:
    made = World(str(tmp_path / "root"))
    made.source = KubernetesSource(api, ("regions",), made.taxonomies)  # type: ignore[assignment]
    return made


def reconcile(world: World, api: KubernetesApi, count: int = 1) -> None:
    for _ in range(count):
        tick = world.reconciler().tick()
        report(world.storage, tick, "main", Outside(KubernetesReporter(api)))


def reasons(server: ConfigServer) -> list[tuple[str, str]]:
    return sorted((e["involvedObject"]["name"], e["reason"]) for e in server.events.values())


def test_a_config_is_followed_from_wanted_to_promoted(
    world: World, server: ConfigServer, api: KubernetesApi
) -> None:
    world.submitter.carry_out = None
    server.apply(BANK)
    reconcile(world, api)
    assert server.status("eu-bank")["phase"] == "Training"
    assert server.condition("eu-bank", "Accepted") == ("True", "ApprovalsWaived")
    assert server.condition("eu-bank", "Trained") == ("Unknown", "Running")
    run_id, order = world.submitter.runs[0]
    world.worker(order)
    world.submitter.statuses[run_id] = SubmittedRun(run_id, "succeeded")
    reconcile(world, api)
    status = server.status("eu-bank")
    assert (status["phase"], status["form"], status["score"]) == ("Promoted", "categorical", 0.4)
    assert status["observedGeneration"] == 1
    assert len(status["digest"]) == len(status["model"]) == 64
    for kind in ("Accepted", "Evaluated", "Trained", "Promoted"):
        assert server.condition("eu-bank", kind)[0] == "True"
    assert server.condition("eu-bank", "Refused")[0] == "False"
    told = reasons(server)
    assert told == [("eu-bank", reason) for reason in ("Accepted", "Promoted", "Trained")]


def test_what_is_refused_says_why(world: World, server: ConfigServer, api: KubernetesApi) -> None:
    server.apply(document("no-school", "no_such_risk"))
    reconcile(world, api)
    status = server.status("no-school")
    assert status["phase"] == "Refused"
    assert server.condition("no-school", "Refused") == ("True", "Invalid")
    (refused,) = [c for c in status["conditions"] if c["type"] == "Refused"]
    assert "is no risk" in refused["message"]
    assert {e["type"] for e in server.events.values() if e["reason"] == "Refused"} == {"Warning"}


def test_a_look_that_finds_nothing_new_writes_nothing(
    world: World, server: ConfigServer, api: KubernetesApi
) -> None:
    server.apply(BANK)
    server.apply(SCHOOL)
    reconcile(world, api, 3)
    patches, events = server.patches, dict(server.events)
    before = json.dumps(server.status("eu-bank"))
    reconcile(world, api, 2)
    assert (server.patches, server.events) == (patches, events)
    assert json.dumps(server.status("eu-bank")) == before


def test_times_of_conditions_stay_while_their_status_does(
    world: World, server: ConfigServer, api: KubernetesApi
) -> None:
    server.apply(BANK)
    reconcile(world, api, 3)
    (first,) = [c for c in server.status("eu-bank")["conditions"] if c["type"] == "Accepted"]
    server.apply(document("eu-bank", "financial_crime_theft", owner="Ada"))
    reconcile(world, api, 1)
    (then,) = [c for c in server.status("eu-bank")["conditions"] if c["type"] == "Accepted"]
    assert then["lastTransitionTime"] == first["lastTransitionTime"]
    assert (first["observedGeneration"], then["observedGeneration"]) == (1, 2)


def test_a_conflict_is_looked_at_again_and_what_others_wrote_stays(
    world: World, server: ConfigServer, api: KubernetesApi
) -> None:
    server.apply(BANK)
    other = {"type": "Reviewed", "status": "True", "reason": "ByHand", "message": "seen",
             "lastTransitionTime": "2026-11-01T00:00:00Z"}  # fmt: skip
    conflicts: list[str] = []

    def meddle(namespace: str, name: str) -> None:
        if len(conflicts) < 2:
            conflicts.append(name)
            server.configs[namespace, name]["status"] = {"conditions": [other]}
            server.touch(namespace, name)

    server.before_patch = meddle
    reconcile(world, api)
    assert len(conflicts) == 2
    assert other in server.status("eu-bank")["conditions"]
    assert server.condition("eu-bank", "Accepted")[0] == "True"
    reconcile(world, api)
    assert other in server.status("eu-bank")["conditions"]


def test_an_object_that_goes_meanwhile_is_no_error(
    world: World, server: ConfigServer, api: KubernetesApi
) -> None:
    server.apply(BANK)
    server.before_patch = server.touch
    tick = world.reconciler().tick()
    del server.configs["regions", "eu-bank"]
    report(world.storage, tick, "main", Outside(KubernetesReporter(api)))
    reconcile(world, api)


def test_what_is_being_deleted_is_wanted_no_more(
    world: World, server: ConfigServer, api: KubernetesApi
) -> None:
    server.apply(BANK)
    reconcile(world, api)
    metadata = server.configs["regions", "eu-bank"]["metadata"]
    metadata["deletionTimestamp"] = "2026-11-29T00:00:00Z"
    tick = world.reconciler().tick()
    assert tick.accepted.configs == ()


def test_many_configs_come_in_pages(
    world: World, server: ConfigServer, api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "PAGE", 3)
    for number in range(8):
        server.apply(document(f"r{number}-x"))
    server.apply(document("elsewhere"), "another")
    assert [c.name for c in world.source.read().configs] == [f"r{n}-x" for n in range(8)]
    assert {c.namespace for c in world.source.read().configs} == {"regions"}
