from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.task_world import TaskWorld, Tasting

from cosalign.domain.errors import DataError
from cosalign.runtime.result_notes import note_result
from cosalign.runtime.run_end import main
from cosalign.runtime.shared_step import prepared_main
from cosalign.store.storage import open_storage


@pytest.fixture
def world(tmp_path: Path) -> TaskWorld:
    return TaskWorld(tmp_path)


def end(world: TaskWorld, status: object) -> dict[str, Any]:
    words = world.words(artifact="outcome", parameters={"status": status})
    assert main([*words, "--run-id", "run-7"]) == 0
    found: dict[str, Any] = json.loads((world.root / "out/runs/run-7/outcome.json").read_text())
    return found


def page(world: TaskWorld) -> str:
    return (world.root / "task/outcome").read_text()


def test_a_run_that_went_well_is_reported(world: TaskWorld) -> None:
    outcome = end(world, {"state": "SUCCEEDED"})
    assert (outcome["run_id"], outcome["state"]) == ("run-7", "SUCCEEDED")
    assert (outcome["message"], outcome["failures"]) == ("", [])
    assert "SUCCEEDED" in page(world)
    assert "To be mended" not in page(world)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_failed_run_says_what_is_to_be_mended(world: TaskWorld, as_text: bool) -> None:
    broken = Tasting(failure=DataError("glass <3> is broken"))
    for run in ("run-7", "run-8"):
        uri = f"gs://bucket/root/cosalign/{run}/tasting/paid"
        prepared_main(broken, world.words("share", uri=uri, parameters={"share": "0/1"}))
    status = {"state": "FAILED", "error": {"code": 13, "message": "a <pod> failed"}}
    outcome = end(world, json.dumps(status) if as_text else status)
    assert outcome["message"] == "a <pod> failed"
    assert [failure["reason"] for failure in outcome["failures"]] == ["glass <3> is broken"]
    assert "glass &lt;3&gt; is broken" in page(world)
    assert "<pod>" not in page(world)


def test_the_end_of_a_run_names_the_record_of_its_results(world: TaskWorld) -> None:
    storage = open_storage(str(world.root / "out"))
    assert end(world, {"state": "FAILED"})["record"] is None
    note_result(storage, world.digest, f"steps/training/{'a' * 64}")
    assert end(world, {})["record"] == storage.uri_of(f"steps/training/{'a' * 64}/manifest.json")
    note_result(storage, world.digest, f"steps/evaluation/{'b' * 64}")
    assert end(world, {})["record"] == storage.uri_of(f"steps/evaluation/{'b' * 64}/manifest.json")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"run_config_uri": "/no/such/config.yaml"}, "/no/such/config.yaml"),
        ({"run_config_digest": "0" * 64}, "a run&#x27;s config must not change"),
    ],
)
def test_a_run_whose_config_cannot_be_read_is_reported_on_the_page(
    world: TaskWorld, parameters: dict[str, str], said: str
) -> None:
    status = {"state": "FAILED", "error": {"message": "prepare failed"}}
    words = world.words(artifact="outcome", parameters={"status": status, **parameters})
    assert main([*words, "--run-id", "run-7"]) == 0
    for part in ("FAILED", "prepare failed", "To be mended", said):
        assert part in page(world)
    assert world.metadata("outcome") == {}
    assert not (world.root / "out").exists()


def test_a_storage_that_cannot_be_written_is_reported_on_the_page(world: TaskWorld) -> None:
    (world.root / "out").write_text("a file, where a folder should be")
    words = world.words(artifact="outcome", parameters={"status": {"state": "SUCCEEDED"}})
    assert main([*words, "--run-id", "run-7"]) == 0
    assert "SUCCEEDED" in page(world)
    assert f"{world.root}/out" in page(world)


def test_a_run_without_a_status_is_reported_as_unknown(world: TaskWorld) -> None:
    assert end(world, None)["state"] == "UNKNOWN"
