"""Preparation, shares and the step itself, as three kinds of task start them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runtime.task_world import TaskWorld, Tasting

from cosalign.runtime.shared_step import prepared_main


@pytest.fixture
def world(tmp_path: Path) -> TaskWorld:
    return TaskWorld(tmp_path)


def prepare(world: TaskWorld, step: Tasting, shards: int) -> int:
    words = world.words("prepare", parameters={"shards": shards}, outputs=("shares",))
    return prepared_main(step, words)


def share(world: TaskWorld, step: Tasting, which: str) -> int:
    words = world.words("share", parameters={"share": which}, outputs=("identity",))
    return prepared_main(step, words)


def assemble(world: TaskWorld, step: Tasting, identities: list[str]) -> int:
    words = world.words(artifact="tasting", parameters={"identities": identities})
    return prepared_main(step, words)


def test_preparation_pays_and_names_the_shares(world: TaskWorld) -> None:
    step = Tasting()
    assert prepare(world, step, 3) == 0
    assert step.done == ["prepare"]
    assert json.loads(world.output("shares")) == ["0/3", "1/3", "2/3"]
    assert world.metadata() == {"cosalign_reused": False, "glasses_made": 2}


def test_where_nothing_is_spread_preparation_pays_nothing(world: TaskWorld) -> None:
    step = Tasting()
    assert prepare(world, step, 0) == 0
    assert step.done == []
    assert json.loads(world.output("shares")) == []
    assert world.metadata() == {"cosalign_reused": True}


def test_shares_and_step_agree_on_what_was_paid_for(world: TaskWorld) -> None:
    step = Tasting()
    identities = []
    for which in ("0/2", "1/2"):
        assert share(world, step, which) == 0
        identities.append(world.output("identity"))
    assert len(set(identities)) == 1
    assert assemble(world, step, identities) == 0
    assert step.done == ["share 0/2", "share 1/2", "execute"]
    manifest = json.loads((world.root / "task/tasting").read_text())
    assert manifest["counts"] == {"glasses": 2}
    assert manifest["fingerprint"] == identities[0]


def test_a_finished_step_is_neither_prepared_nor_paid_for_again(world: TaskWorld) -> None:
    step = Tasting()
    assert assemble(world, step, []) == 0
    step.done.clear()
    assert prepare(world, step, 2) == share(world, step, "1/2") == assemble(world, step, []) == 0
    assert step.done == []
    assert json.loads(world.output("shares")) == ["0/2", "1/2"]


def test_a_step_refuses_what_shares_paid_for_something_else(
    world: TaskWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Tasting()
    assert share(world, step, "0/1") == 0
    paid = world.output("identity")
    step.identity_is = "sweet"
    assert assemble(world, step, [paid]) == 2
    assert "changed while its shares were paid for" in capsys.readouterr().err
    assert "execute" not in step.done


def test_a_share_without_its_number_says_so(
    world: TaskWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepared_main(Tasting(), world.words("share")) == 2
    assert "the input 'share' is missing" in capsys.readouterr().err


def test_a_task_may_name_another_base_model(world: TaskWorld) -> None:
    seen: list[str] = []

    class Watching(Tasting):
        def identity(self, context: object) -> str:
            seen.append(context.config.models.base)  # type: ignore[attr-defined]
            return "x"

    words = world.words(artifact="tasting", parameters={"base_model_uri": "double:other"})
    assert prepared_main(Watching(), words) == 0
    assert prepared_main(Watching(), world.words(parameters={"base_model_uri": ""})) == 0
    assert seen[0] == "double:other"
    assert seen[-1] != "double:other"
