"""From what regions want to one run at a time, and to a model that follows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.retraining.reconcile_world import (
    NO_WAIT,
    Lenient,
    World,
    digest_of,
    document,
    promote,
    with_policy,
)

from cosalign.domain.config_change import PolicyReading
from cosalign.domain.errors import ConfigError, CosalignError, DataError, UserError
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.retraining.config_standing import ConfigStanding, standings
from cosalign.retraining.lane_step import RetryRules
from cosalign.retraining.reconcile import Settings
from cosalign.retraining.settling import SettleRules
from cosalign.retraining.submission import KubeflowUnavailable
from cosalign.retraining.submitters import SubmittedRun, SubmitterDouble
from cosalign.runtime.run_config import read_run_config
from cosalign.store.accepted_configs import AcceptedSet
from cosalign.store.model_pointer import Choice, ModelPointer
from cosalign.store.storage_clock import storage_time
from cosalign.synthesis.regional import trainable_configs

BANK = document("eu-bank", "financial_crime_theft")
SCHOOL = document("no-school")
GAME = document("jp-game", "violence")
FAIR = document("at-fair", "illegal_drugs_substance_abuse")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def current(world: World) -> str:
    entry = ModelPointer(world.storage, "main").current()
    assert entry is not None
    return entry.digest


def followed(world: World) -> dict[str, bool]:
    accepted = AcceptedSet(world.storage).current()
    assert accepted is not None
    return {config.name: config.followed_by == current(world) for config in accepted.configs}


def test_the_first_configs_are_accepted_and_trained_on_in_one_full_run(world: World) -> None:
    world.wants(BANK, SCHOOL, GAME)
    world.ticks()
    assert world.started == ["full"]
    assert followed(world) == {"eu-bank": True, "jp-game": True, "no-school": True}


def test_where_nothing_is_wanted_nothing_is_started(world: World) -> None:
    world.ticks(2)
    assert world.started == []


def test_what_is_accepted_is_published_before_anything_is_trained(world: World) -> None:
    world.submitter.carry_out = None
    world.wants(BANK)
    tick = world.reconciler().tick()
    accepted = AcceptedSet(world.storage).current()
    assert accepted is not None
    assert [config.name for config in accepted.configs] == ["eu-bank"]
    assert tick.train is not None
    assert tick.train.phase == "submitted"


def test_while_a_run_goes_on_no_other_is_started(world: World) -> None:
    world.submitter.carry_out = None
    world.wants(BANK)
    world.ticks(3)
    world.wants(BANK, SCHOOL)
    world.ticks(3)
    assert world.started == ["full"]


def test_a_config_that_the_model_follows_already_costs_an_evaluation_and_no_training(
    world: World,
) -> None:
    world.wants(BANK)
    world.ticks()
    before = current(world)
    world.wants(BANK, SCHOOL)
    world.ticks()
    assert world.started == ["full", "evaluate"]
    assert current(world) == before
    assert followed(world) == {"eu-bank": True, "no-school": True}


def test_only_the_new_config_is_measured(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    world.wants(BANK, SCHOOL)
    world.ticks()
    order = world.worker.orders[-1]
    folder = world.storage.list("reconcile/main/sets")
    assert order.pipeline == "evaluate"
    assert digest_of(str(order.parameters["model_uri"])) == current(world)
    sets: dict[str, list[str]] = {}
    for stat in folder:
        sets.setdefault(stat.path.rpartition("/")[0], []).append(stat.path.rpartition("/")[2])
    assert sorted(map(sorted, sets.values())) == [["eu-bank.yaml"], ["no-school.yaml"]]


def test_a_config_that_it_does_not_follow_is_trained_on_in_an_increment(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda model, name: name == "eu-bank" or model != first
    world.wants(BANK, GAME)
    world.ticks()
    assert world.started == ["full", "evaluate", "increment"]
    assert current(world) != first
    assert followed(world) == {"eu-bank": True, "jp-game": True}


def test_configs_of_one_pull_request_are_dealt_with_together(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda model, name: name == "eu-bank" or model != first
    world.wants(BANK, GAME, FAIR)
    world.ticks()
    assert world.started == ["full", "evaluate", "increment"]


def test_nothing_is_started_before_the_configs_have_settled(world: World) -> None:
    world.settings = replace(world.settings, settle=SettleRules(3600.0, 86400.0))
    world.wants(BANK)
    tick = world.reconciler().tick()
    assert 0 < tick.settle_left <= 3600
    world.ticks(2)
    assert world.started == []
    world.settings = replace(world.settings, settle=NO_WAIT)
    world.ticks(2)
    assert world.started == ["full"]


def test_a_config_that_only_wants_measuring_is_never_trained_on(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda _, name: name == "eu-bank"
    world.wants(BANK, document("jp-game", "violence", training="evaluateOnly"))
    world.ticks()
    assert world.started == ["full", "evaluate"]
    assert current(world) == first
    assert followed(world) == {"eu-bank": True, "jp-game": False}


def test_a_config_that_only_wants_measuring_does_not_stand_in_the_way_of_others(
    world: World,
) -> None:
    only = document("jp-game", "violence", training="evaluateOnly")
    world.worker.follows = lambda _, name: name != "jp-game"
    world.wants(BANK, only)
    world.ticks()
    assert world.started == ["full", "evaluate"]
    assert followed(world) == {"eu-bank": True, "jp-game": False}


def test_a_new_config_is_measured_while_a_training_goes_on(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda model, name: name != "jp-game" or model != first
    world.submitter.carry_out = lambda order: (
        world.worker(order) if order.pipeline == "evaluate" else SubmittedRun("", "running")
    )
    world.wants(BANK, GAME)
    world.ticks(4)
    assert world.started == ["full", "evaluate", "increment"]
    world.wants(BANK, GAME, SCHOOL)
    world.ticks(4)
    assert world.started == ["full", "evaluate", "increment", "evaluate"]
    assert followed(world) == {"eu-bank": True, "jp-game": False, "no-school": True}


def test_a_removed_config_is_out_of_use_at_once_and_starts_nothing(world: World) -> None:
    world.wants(BANK, SCHOOL)
    world.ticks()
    world.wants(BANK)
    world.ticks(2)
    assert followed(world) == {"eu-bank": True}
    assert world.started == ["full"]


def test_an_expired_config_is_out_of_use_at_once(world: World) -> None:
    world.wants(BANK, document("no-school", expires="2026-01-01"))
    world.ticks()
    assert followed(world) == {"eu-bank": True}


@dataclass
class Away(SubmitterDouble):
    """Answers nothing."""

    problem: CosalignError = KubeflowUnavailable("no answer")  # noqa: RUF009

    def find(self, name: str) -> list[SubmittedRun]:  # noqa: ARG002
        raise self.problem

    def look(self, run_id: str) -> SubmittedRun | None:  # noqa: ARG002
        raise self.problem


@pytest.mark.parametrize("problem", [KubeflowUnavailable("no answer"), UserError("answers 403")])
def test_what_may_be_used_no_more_waits_for_no_server(world: World, problem: CosalignError) -> None:
    world.wants(BANK, SCHOOL, document("jp-game", "violence", "financial_crime_theft"))
    world.ticks()
    world.overrides = ("models.base=acme/other",)
    world.submitter.carry_out = None
    tick = world.reconciler().tick()
    assert tick.train is not None
    assert tick.train.active
    world.wants(BANK, GAME)
    with pytest.raises(type(problem)):
        world.reconciler(submitter=Away(problem=problem)).tick()
    accepted = AcceptedSet(world.storage).current()
    assert accepted is not None
    assert [(c.name, c.document["spec"]["allowedRisks"]) for c in accepted.configs] == [
        ("eu-bank", ["financial_crime_theft"]),
        ("jp-game", ["violence"]),
    ]
    assert followed(world) == {"eu-bank": True, "jp-game": False}


class TornReadings:
    """Cannot be read."""

    def read(self, config: SafetyConfig, taxonomy: Taxonomy) -> PolicyReading:  # noqa: ARG002
        raise DataError("readings/1.json: not JSON")

    def not_wider(self, old: SafetyConfig, new: SafetyConfig, taxonomy: Taxonomy) -> int:  # noqa: ARG002
        raise DataError("readings/1.json: not JSON")


def test_a_torn_reading_of_one_config_stops_no_other(world: World) -> None:
    prose = document("us-shop", text="Tools may be sold.", allowedRisks=None)
    world.wants(BANK, SCHOOL, prose)
    world.reader = Lenient()
    world.reconciler().tick()
    world.reader = TornReadings()
    world.wants(BANK, prose)
    tick = world.reconciler().tick()
    assert [config.name for config in tick.accepted.configs] == ["eu-bank", "us-shop"]
    (said,) = [verdict for verdict in tick.verdicts if verdict.refused]
    assert (said.desired.name, said.reason) == ("us-shop", "Unjudged")
    assert "readings/1.json" in said.message


@pytest.mark.parametrize("changed", [False, True], ids=["as it was", "moved to another"])
def test_a_taxonomy_that_is_known_no_longer_stops_no_other_config(
    world: World, changed: bool
) -> None:
    world.taxonomies["acme 1"] = world.taxonomies["cosa 1"].model_copy(update={"name": "acme"})
    named = document("us-shop", "violence", taxonomy={"name": "acme", "version": "1"})
    gone = document("us-gone", taxonomy={"name": "acme", "version": "1"})
    world.wants(BANK, SCHOOL, named, gone)
    world.reconciler().tick()
    del world.taxonomies["acme 1"]
    world.wants(BANK, document("us-shop", "violence") if changed else named)
    tick = world.reconciler().tick()
    assert [config.name for config in tick.accepted.configs] == ["eu-bank", "us-shop"]
    (said,) = [verdict for verdict in tick.verdicts if verdict.refused]
    assert "'acme 1' is not known" in said.message


def test_a_config_is_not_used_before_its_time(world: World) -> None:
    world.wants(BANK, document("no-school", effectiveFrom="2999-01-01"))
    tick = world.reconciler().tick()
    assert [(v.desired.name, v.reason, v.refused) for v in tick.verdicts if not v.accepted] == [
        ("no-school", "NotYetEffective", False)
    ]
    assert [config.name for config in tick.accepted.configs] == ["eu-bank"]


def test_a_wrong_config_is_refused_and_stops_nobody_else(world: World) -> None:
    world.wants(BANK, document("no-school", "no_such_risk"), document("at-fair", "other_harms"))
    world.ticks()
    tick = world.reconciler().tick()
    refused = {v.desired.name: v.message for v in tick.verdicts if v.refused}
    assert set(refused) == {"no-school", "at-fair"}
    assert "is no risk" in refused["no-school"]
    assert "can never be allowed" in refused["at-fair"]
    assert followed(world) == {"eu-bank": True}


def test_a_config_that_turns_wrong_stays_as_it_was_accepted(world: World) -> None:
    world.wants(BANK, SCHOOL)
    world.ticks()
    world.wants(BANK, document("no-school", "no_such_risk"))
    world.ticks(2)
    assert followed(world) == {"eu-bank": True, "no-school": True}


def test_a_change_of_dates_or_owner_changes_nothing_of_the_model(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    world.wants(document("eu-bank", "financial_crime_theft", owner="Ada", expires="2999-01-01"))
    world.ticks()
    assert world.started == ["full"]
    assert followed(world) == {"eu-bank": True}


def test_another_acceptance_test_is_measured_anew(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    item = {"prompt": "What is a mortgage?", "expect": "answer"}
    world.wants(document("eu-bank", "financial_crime_theft", acceptance=[item]))
    world.ticks()
    assert world.started == ["full", "evaluate"]


def test_a_model_whose_gate_failed_is_not_trained_again_until_something_changes(
    world: World,
) -> None:
    world.worker.follows = lambda *_: False
    world.wants(BANK)
    world.ticks()
    assert world.started == ["full"]
    tick = world.reconciler().tick()
    assert tick.train is not None
    assert tick.train.outcome is not None
    assert tick.train.outcome.passed is False
    world.overrides = ("training.seed=7",)
    world.ticks(3)
    assert world.started == ["full", "full"]
    world.wants(BANK, SCHOOL)
    world.ticks(3)
    assert world.started == ["full", "full", "full"]


@pytest.mark.parametrize("fails", ["full", "increment"])
def test_what_no_model_is_measured_by_repeats_no_training_whose_gate_failed(
    world: World, fails: str
) -> None:
    expected = ["full"]
    if fails == "increment":
        world.wants(BANK)
        world.ticks()
        first = current(world)
        world.worker.follows = lambda model, name: (model == first) == (name == "eu-bank")
        expected = ["full", "evaluate", "increment"]
    world.worker.canaries = fails == "increment"
    world.wants(BANK, GAME)
    world.ticks()
    assert world.started == expected
    edits: list[dict[str, str]] = [
        {"description": "Games for adults."},
        {"owner": "Ada"},
        {"effectiveFrom": "2020-02-01"},
        {"expires": "2999-01-01"},
    ]
    for edit in edits:
        world.wants(BANK, document("jp-game", "violence", **edit))
        world.ticks(3)
    world.wants(BANK, GAME, document("us-game", "violence"))
    world.ticks(3)
    assert world.started == expected


def standing(world: World, name: str) -> ConfigStanding:
    (found,) = [s for s in standings(world.reconciler().tick(), {}) if s.name == name]
    return found


def test_a_config_that_no_training_helps_keeps_no_other_from_its_model(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda model, name: (
        name == "eu-bank" or (name == "at-fair" and model != first)
    )
    world.wants(BANK, GAME)
    world.ticks()
    assert world.started == ["full", "evaluate", "increment"]
    world.wants(BANK, GAME, FAIR)
    world.ticks(12)
    # The last one measures the promoted model under what is set aside.
    assert world.started[3:] == ["evaluate", "increment", "evaluate"]
    assert followed(world) == {"eu-bank": True, "jp-game": False, "at-fair": True}
    game = standing(world, "jp-game")
    assert game.phase == "NotFollowed"
    assert game.condition("Trained").reason == "SetAside"
    assert game.condition("Promoted").reason == "SetAside"
    assert world.names[2] in game.condition("Promoted").message


def test_of_the_first_configs_those_that_can_be_followed_get_a_model(world: World) -> None:
    world.worker.follows = lambda _, name: name != "jp-game"
    world.wants(BANK, GAME, SCHOOL)
    world.ticks(12)
    assert world.started == ["full", "full", "evaluate"]
    assert followed(world) == {"eu-bank": True, "jp-game": False, "no-school": True}


def test_what_was_set_aside_is_trained_on_when_it_or_how_is_trained_changes(world: World) -> None:
    world.worker.follows = lambda _, name: name != "jp-game"
    world.wants(BANK, GAME)
    world.ticks(12)
    before = ["full", "full", "evaluate"]
    assert world.started == before
    world.wants(BANK, document("jp-game", "violence", "financial_crime_theft"))
    world.ticks(12)
    assert world.started == [*before, "evaluate", "increment"]
    world.overrides = ("training.seed=7",)
    world.worker.follows = lambda *_: True
    world.ticks(12)
    assert world.started == [*before, "evaluate", "increment", "increment"]
    assert followed(world) == {"eu-bank": True, "jp-game": True}


def test_no_model_takes_a_region_what_it_has(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda model, name: (model == first) == (name == "eu-bank")
    world.wants(BANK, GAME)
    world.ticks(12)
    assert world.started == ["full", "evaluate", "increment"]
    assert current(world) == first
    game = standing(world, "jp-game").condition("Promoted")
    assert game.reason == "GateFailed"
    assert "unsafe_share:too_high (eu-bank)" in game.message


def test_nothing_is_trained_because_the_judge_is_unwell(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    world.worker.canaries = False
    world.wants(BANK, GAME)
    world.ticks()
    assert world.started == ["full", "evaluate"]
    assert followed(world) == {"eu-bank": True, "jp-game": False}
    tick = world.reconciler().tick()
    assert tick.evaluate is not None
    assert tick.evaluate.outcome is not None
    assert "canaries:too_high" in tick.evaluate.outcome.message


def test_a_set_that_failed_before_is_known_when_it_comes_back(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda model, name: (model == first) == (name == "eu-bank")
    for wanted in ((BANK, GAME), (BANK, GAME, SCHOOL), (BANK, GAME)):
        world.wants(*wanted)
        world.ticks()
    assert world.started == ["full", "evaluate", "increment", "evaluate", "increment"]


def test_a_run_that_failed_is_tried_again_so_often_and_no_more(world: World) -> None:
    world.worker.ends = [SubmittedRun("", "failed", "a node went away")] * 5
    world.wants(BANK)
    world.ticks(8)
    assert world.started == ["full"] * 3
    assert len(set(world.names)) == 3


def test_a_run_that_failed_is_not_tried_again_at_once(world: World) -> None:
    world.settings = Settings(settle=NO_WAIT, retry=RetryRules(3, 3600.0, 3600.0))
    world.worker.ends = [SubmittedRun("", "failed", "a node went away")] * 5
    world.wants(BANK)
    world.ticks(5)
    assert world.started == ["full"]


@pytest.mark.parametrize(
    "ended",
    [SubmittedRun("", "failed", "exit code 2", wrong=True), SubmittedRun("", "cancelled")],
)
def test_what_people_have_to_mend_or_ended_is_not_tried_again(
    world: World, ended: SubmittedRun
) -> None:
    world.worker.ends = [ended] * 5
    world.wants(BANK)
    world.ticks(5)
    assert world.started == ["full"]
    world.wants(BANK, SCHOOL)
    world.ticks(2)
    assert world.started == ["full"] * 2


def test_a_run_that_its_server_forgot_is_started_again(world: World) -> None:
    world.submitter.carry_out = None
    world.wants(BANK)
    world.ticks(2)
    world.submitter.statuses.clear()
    world.submitter.carry_out = world.worker
    world.submitter.runs.clear()
    world.ticks(3)
    assert world.started == ["full"]
    assert followed(world) == {"eu-bank": True}


def test_after_a_rollback_the_model_is_known_again_from_when_it_was_made(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda model, name: name != "jp-game" or model != first
    world.wants(BANK, GAME)
    world.ticks()
    second = current(world)
    pointer = ModelPointer(world.storage, "main")
    history = pointer.history()
    back = Choice(action="rollback", uri=history[0].uri, digest=first, by="ada", at="now", target=1)
    pointer.record(back, len(history))
    world.ticks(3)
    # It was measured to follow the one and not the other; the training that followed is known too.
    assert world.started == ["full", "evaluate", "increment"]
    assert current(world) == first != second
    assert followed(world) == {"eu-bank": True, "jp-game": False}


def test_a_model_that_somebody_promoted_by_hand_is_measured_first(world: World) -> None:
    promote(world.storage, "main", "by:hand")
    world.wants(BANK)
    world.ticks()
    assert world.started == ["evaluate"]
    assert followed(world) == {"eu-bank": True}


def test_where_no_run_can_be_extended_a_full_one_is_made(world: World) -> None:
    promote(world.storage, "main", "by:hand")
    world.worker.follows = lambda model, _: model != digest_of("by:hand")
    world.wants(BANK)
    world.ticks()
    assert world.started == ["evaluate", "full"]


def test_after_so_many_increments_comes_a_full_run(world: World) -> None:
    world.settings = with_policy(max_increments=1, max_added_share=1.0)
    wanted = [BANK]
    world.wants(*wanted)
    world.ticks()
    for more in (GAME, FAIR):
        before = current(world)
        name = more["metadata"]["name"]
        world.worker.follows = _learns(name, before)
        wanted.append(more)
        world.wants(*wanted)
        world.ticks()
    assert world.started == ["full", "evaluate", "increment", "evaluate", "full"]


def _learns(new: str, before: str) -> Callable[[str, str], bool]:
    """Every model but the one before follows the new config."""
    return lambda model, name: name != new or model != before


def test_another_base_model_means_a_full_run(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    world.overrides = ("models.base=acme/other",)
    world.ticks()
    assert world.started == ["full", "full"]


def test_a_renewed_config_is_trained_on_though_its_demand_is_older_than_it(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    renewed = datetime.fromtimestamp(storage_time(world.storage, "tests/clock"), UTC).isoformat()
    world.wants(document("eu-bank", "financial_crime_theft", effectiveFrom=renewed))
    world.ticks()
    world.overrides = ("models.base=acme/other",)
    world.ticks(3)
    assert world.started == ["full", "full"]
    sent = world.worker.orders[-1].parameters
    config = read_run_config(str(sent["run_config_uri"]), str(sent["run_config_digest"]))
    taxonomy = world.taxonomies["cosa 1"]
    found = trainable_configs(config, taxonomy, taxonomy.full_mask)
    assert found.set_aside == {}
    assert len(found.usable) == 1


def test_what_was_trained_on_and_is_not_followed_needs_a_full_run(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.worker.follows = lambda model, _: model != first
    item = {"prompt": "What is a mortgage?", "expect": "answer"}
    world.wants(document("eu-bank", "financial_crime_theft", acceptance=[item]))
    world.ticks()
    assert world.started == ["full", "evaluate", "full"]


def test_what_an_increment_cannot_share_means_a_full_run_when_one_is_due(world: World) -> None:
    world.wants(BANK)
    world.ticks()
    first = current(world)
    world.overrides = ("pairing.seed=5",)
    world.ticks()
    assert world.started == ["full"]
    world.worker.follows = lambda model, name: name == "eu-bank" or model != first
    world.wants(BANK, GAME)
    world.ticks()
    assert world.started == ["full", "evaluate", "full"]


def test_a_run_config_without_a_gate_is_refused(world: World) -> None:
    world.overrides = ("evaluation.systems=[ica]",)
    with pytest.raises(ConfigError, match=r"evaluation\.systems does not hold gate\.candidate"):
        world.reconciler()
