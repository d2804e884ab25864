"""Increments through the compiled graph: what engines are asked, and what becomes of old tables.

On the engine double, whose every request is written down by the task that made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from tests.e2e.increment_world import (
    LATER,
    NEW,
    PROSE,
    REGIONS,
    Meter,
    World,
    judged_anew,
    tables,
)

from cosalign.domain.pair_identity import pair_id_of
from cosalign.pipelines.command_line import cosalign
from cosalign.pipelines.failures import TaskFailed
from cosalign.runtime.run_record import RunRecord
from cosalign.store.model_pointer import ModelPointer

IDS = ("prompt_id", "config_id", "chosen_id", "rejected_id")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world after its full run, its engines under a meter."""
    meter = Meter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cosalign.inference.engine_host.open_engine", meter.open)
        yield World(tmp_path_factory.mktemp("increment") / "w", meter).made()


@pytest.fixture
def world(made: World) -> World:
    return made.restored()


@pytest.fixture
def meter(world: World) -> Meter:
    return world.meter


def extend(world: World, configs: dict[str, Any], shards: int = 0, **changes: Any) -> RunRecord:
    digests = world.write(configs)
    world.run(shards=shards, increment=world.increment(digests, **changes))
    return world.record()


def keys(world: World, record: RunRecord, step: str, table: str, *names: str) -> set[Any]:
    rows = world.rows(record.manifests[step], table)
    return {tuple(row[name] for name in names) for row in rows}


def test_a_new_config_costs_what_stands_under_it_and_nothing_else(
    world: World, meter: Meter
) -> None:
    full = world.record()
    before = world.files()
    record = extend(world, NEW)
    # The tables of the run before, and all else it left, are what they were.
    assert {path: data for path, data in world.files().items() if path in before} == before
    new = keys(world, record, "synthesis", "new_draws", "prompt_id", "config_id")
    texts = {
        r["config_id"]: r["text"] for r in world.rows(record.manifests["synthesis"], "configs")
    }
    # Twelve prompts get a response under the config; one that chance had written before counts.
    asked = meter.generated["synthesis"]
    under = keys(world, record, "synthesis", "responses", "prompt_id", "config_id")
    assert len(new & under) == len(new) == 12
    own = {texts[config] for _, config in new}
    assert all("Alcohol" in text for text in own)
    assert all(any(text in request for text in own) for request in asked)
    # One judgement a new response; none of one that was judged, no label, no canary.
    assert len(meter.labelled["scoring"]) == judged_anew(world, record, full) > 0
    assert "prepare" not in meter.labelled
    assert "synthesis" not in meter.labelled
    old = keys(world, full, "synthesis", "responses", "response_id")
    assert len(keys(world, record, "synthesis", "responses", "response_id") - old) == len(asked)
    assert len(asked) in (11, 12)
    # Pairs of the new draws alone, behind all pairs that there were.
    pairs = world.rows(record.manifests["pairing"], "pairs")
    earlier = world.rows(full.manifests["pairing"], "pairs")
    assert pairs[: len(earlier)] == earlier
    added = {(pair["prompt_id"], pair["config_id"]) for pair in pairs[len(earlier) :]}
    assert added
    assert added <= new
    assert record.manifests["pairing"].counts["pairs"] == len(pairs)
    assert record.manifests["pairing"].counts["pairs_added"] == len(pairs) - len(earlier)


def test_tables_are_whole_and_keep_what_was_known(world: World) -> None:
    full = world.record()
    record = extend(world, NEW)
    synthesis, before = record.manifests["synthesis"], full.manifests["synthesis"]
    assert synthesis.tables["prompts"] == before.tables["prompts"]
    for name in ("draws", "responses", "configs"):
        assert synthesis.tables[name].rows > before.tables[name].rows
    verdicts = world.rows(full.manifests["scoring"], "verdicts")
    now = {row["response_id"]: row for row in world.rows(record.manifests["scoring"], "verdicts")}
    assert len(now) == synthesis.tables["responses"].rows
    for row in verdicts:
        assert str(now[row["response_id"]]) == str(row)
    counts = record.manifests["pairing"].counts
    assert counts["draws"] == synthesis.tables["draws"].rows
    assert counts["verdicts"] == len(now)
    assert synthesis.counts["split_held_out"] == before.counts["split_held_out"]


def test_the_gate_holds_all_regions_against_the_promoted_model(world: World) -> None:
    full = world.record()
    record = extend(world, NEW)
    rows = world.rows(record.manifests["evaluation"], "evaluation")
    assert {row["config"] for row in rows if row["suite"] == "control"} == {*REGIONS, *NEW}
    systems = {row["system"]: row for row in rows}
    assert {"current", "dpo"} <= set(systems)
    seen = {r["config"]: r["seen"] for r in world.rows(record.manifests["evaluation"],
                                                      "evaluated_configs")}  # fmt: skip
    assert seen["pub-ie"]
    first, second = ModelPointer(world.storage, "main").history()
    assert first.uri == full.manifests["training"].models["dpo"]
    assert second.uri == record.manifests["training"].models["dpo"]


def test_training_joins_new_pairs_and_replayed_old_ones(world: World) -> None:
    full = world.record()
    record = extend(world, NEW)
    counts, before = record.manifests["training"].counts, full.manifests["training"]
    trained = keys(world, record, "training", "dpo_records", *IDS)
    old = keys(world, full, "training", "dpo_records", *IDS)
    assert counts["increment_pairs_new"] == len(trained - old) > 0
    # Half of what is trained on is old.
    assert counts["increment_pairs_replayed"] == len(trained & old) == len(trained - old)
    models = record.manifests["training"].models
    assert models["sft"] == before.models["sft"]
    assert models["dpo"] != before.models["dpo"]
    assert record.manifests["training"].tables["sft_records"] == before.tables["sft_records"]
    paid = keys(world, record, "training", "referenced_pairs", *IDS)
    assert paid == old | trained


def test_nothing_is_generated_or_judged_where_no_responses_are_wanted(
    world: World, meter: Meter
) -> None:
    record = extend(world, NEW, responses=0)
    assert meter.total("synthesis") == meter.total("scoring") == meter.total("prepare") == 0
    assert record.manifests["synthesis"].counts["draws_new"] == 12
    assert record.manifests["pairing"].counts["pairs_added"] > 0


def test_a_config_in_prose_is_judged_with_its_text_once_a_response(
    world: World, meter: Meter
) -> None:
    full, record = world.record(), extend(world, {"market-nl": PROSE}, prompts=5)
    met = keys(world, record, "synthesis", "new_freeform_draws", "prompt_id")
    responses = world.rows(record.manifests["synthesis"], "responses")
    held = [row for row in responses if (row["prompt_id"],) in met]
    # Nobody had written under this text before.
    assert len(met) == len(meter.generated["synthesis"]) == 5
    assert all(PROSE in request for request in meter.generated["synthesis"])
    # Each response of these prompts once under the text, and each new one once without it.
    under = [request for request in meter.labelled["scoring"] if PROSE in request]
    assert len(under) == len(held)
    assert len(meter.labelled["scoring"]) - len(under) == judged_anew(world, record, full)
    follows = keys(world, record, "scoring", "follows", "response_id")
    assert follows == {(row["response_id"],) for row in held}


def test_a_pair_is_traced_to_the_run_that_made_it(world: World) -> None:
    runs = [world.record(), extend(world, NEW)]
    pairs = world.rows(runs[1].manifests["pairing"], "pairs")
    for pair, run in zip((pairs[0], pairs[-1]), runs, strict=True):
        pair_id = pair_id_of(*(pair[n] for n in IDS))
        shown = CliRunner().invoke(cosalign, ["trace", pair_id, "--root", f"{world.root}/out"])
        assert f"pairing {run.manifests['pairing'].fingerprint[:12]}" in shown.output


def test_an_increment_extends_an_increment(world: World, meter: Meter) -> None:
    full = world.record()
    first = extend(world, NEW)
    meter.clear()
    files = world.files()
    second = extend(world, LATER)
    new = second.manifests["synthesis"].counts["responses_new"]
    assert len(meter.generated["synthesis"]) == new > 0
    assert len(meter.labelled["scoring"]) == judged_anew(world, second, first)
    assert {path: data for path, data in world.files().items() if path in files} == files
    pairs = [world.rows(run.manifests["pairing"], "pairs") for run in (full, first, second)]
    assert pairs[2][: len(pairs[1])] == pairs[1]
    assert len(pairs[2]) > len(pairs[1]) > len(pairs[0])
    assert (
        second.manifests["synthesis"].tables["prompts"]
        == (full.manifests["synthesis"].tables["prompts"])
    )
    # The reference is the full run's SFT model still, and what the first one paid for counts.
    assert second.manifests["training"].models["sft"] == full.manifests["training"].models["sft"]
    paid = keys(world, second, "training", "referenced_pairs", *IDS)
    assert keys(world, first, "training", "referenced_pairs", *IDS) < paid
    again = extend(world, {"bar-es": ["alcohol", "gambling"]}, replay_share=0.9)
    trained = keys(world, again, "training", "dpo_records", *IDS)
    configs = {r["config_id"]: r["region"] for r in world.rows(again.manifests["synthesis"],
                                                             "configs")}  # fmt: skip
    regions = {configs[config] for _, config, _, _ in trained}
    # Pairs that the increments added are replayed like any.
    assert {"ie", "at", "es"} <= regions


def test_an_increment_done_again_does_nothing(world: World, meter: Meter) -> None:
    digests = world.write(NEW)
    group = world.increment(digests)
    world.run(increment=group)
    files, record = world.files(), world.record()
    meter.clear()
    reports = world.run(increment=group)
    assert all(report.reused for report in reports)
    assert not meter.generated
    assert not meter.labelled
    assert world.files() == files
    assert world.record() == record


@pytest.fixture(scope="module")
def undisturbed(made: World) -> tuple[dict[str, str], int]:
    """The tables of an increment that nothing happened to, and how many requests it made."""
    record = extend(made.restored(), NEW)
    return tables(record), made.meter.total("")


@pytest.mark.parametrize("answers", [3, 15, 30])
def test_a_killed_increment_goes_on_and_ends_in_the_same_bytes(
    answers: int, undisturbed: tuple[dict[str, str], int], world: World, meter: Meter
) -> None:
    group = world.increment(world.write(NEW))
    meter.fails_after = answers
    with pytest.raises(TaskFailed) as failure:
        world.run(increment=group)
    assert failure.value.exit_code == 70
    meter.fails_after = None
    world.run(increment=group)
    # What was answered before the kill was stored, and is not asked for again.
    assert (tables(world.record()), meter.total("")) == undisturbed


def test_shares_of_an_increment_give_the_same_tables(
    undisturbed: tuple[dict[str, str], int], world: World, meter: Meter
) -> None:
    full, record = world.record(), extend(world, NEW, shards=3)
    assert tables(record) == undisturbed[0]
    assert meter.total("generation") == record.manifests["synthesis"].counts["responses_new"]
    assert meter.total("judging") == judged_anew(world, record, full)
    assert meter.total("synthesis") == meter.total("scoring") == 0


def test_a_removed_config_is_used_no_more(world: World) -> None:
    full = world.record()
    world.remove("casino-mc")
    record = extend(world, NEW, replay_share=0.95)
    gone = {
        row["config_id"]
        for row in world.rows(record.manifests["synthesis"], "configs")
        if row["region"] == "mc"
    }
    regional = {
        row["config_id"]
        for row in world.rows(full.manifests["synthesis"], "draws")
        if row["mode"] == "regional"
    }
    assert gone & regional
    draws = world.rows(record.manifests["synthesis"], "draws")
    drawn = {(row["prompt_id"], row["config_id"]) for row in draws}
    assert not [row for row in draws if row["mode"] == "regional" and row["config_id"] in gone]
    pairs = world.rows(record.manifests["pairing"], "pairs")
    assert {(row["prompt_id"], row["config_id"]) for row in pairs} <= drawn
    counts = record.manifests["pairing"].counts
    assert counts["pairs"] == len(pairs)
    assert counts["draws"] == len(draws)
    assert sum(n for name, n in counts.items() if name.startswith("contrast_")) == len(pairs)
    assert sum(n for name, n in counts.items() if name.startswith("mode_")) == len(pairs)
    trained = world.rows(record.manifests["training"], "dpo_records")
    assert {(row["prompt_id"], row["config_id"]) for row in trained} <= drawn
    assert "casino-mc" not in {row["config"] for row in world.rows(record.manifests["evaluation"],
                                                                  "evaluation")}  # fmt: skip
    # What was generated for it stays: other configs are paired over these responses.
    assert record.manifests["synthesis"].counts["increment_configs_removed"] == 1


def test_an_increment_may_start_at_the_sft_model(world: World) -> None:
    promoted = extend(world, NEW)
    group = world.increment(world.write(LATER))
    world.run(increment={**group, "start": "sft", "model": None})
    assert (
        world.record().manifests["training"].models["sft"]
        == (promoted.manifests["training"].models["sft"])
    )


Change = Callable[[World, dict[str, Any]], dict[str, Any]]


def _another_root(world: World, group: dict[str, Any]) -> dict[str, Any]:
    path = f"steps/evaluation/{'0' * 64}/manifest.json"
    return {"increment": {**group, "previous": f"gs://elsewhere/root/{path}"}}


def _no_such_run(world: World, group: dict[str, Any]) -> dict[str, Any]:
    missing = world.storage.uri_of(f"steps/evaluation/{'0' * 64}/manifest.json")
    return {"increment": {**group, "previous": missing}}


def _unknown_config(world: World, group: dict[str, Any]) -> dict[str, Any]:
    world.remove("pub-ie")
    return {"increment": group}


def _evaluate_only(world: World, group: dict[str, Any]) -> dict[str, Any]:
    world.write(NEW, training="evaluateOnly")
    return {"increment": group}


def _old_config(world: World, group: dict[str, Any]) -> dict[str, Any]:
    return {"increment": {**group, "configs": world.write({"casino-mc": ["gambling"]})}}


def _other_judge(world: World, group: dict[str, Any]) -> dict[str, Any]:
    return {"increment": group, "overrides": ["models.judge=double:other"]}


def _other_base(world: World, group: dict[str, Any]) -> dict[str, Any]:
    return {"increment": group, "overrides": ["models.base=double:other"]}


def _other_weights(world: World, group: dict[str, Any]) -> dict[str, Any]:
    return {"increment": group, "overrides": ["pairing.alpha=2"]}


def _other_model(world: World, group: dict[str, Any]) -> dict[str, Any]:
    return {"increment": {**group, "model": f"double:other@sha256:{'0' * 64}"}}


def _other_taxonomy(world: World, group: dict[str, Any]) -> dict[str, Any]:
    from tests.e2e import increment_world

    changed = increment_world.TAXONOMY.replace("Beer and wine", "Beer, wine and spirits")
    (world.root / "other.yaml").write_text(changed)
    return {"increment": group, "overrides": [f"taxonomy.files=[{world.root}/other.yaml]"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_root, "not below"),
        (_no_such_run, "no such manifest"),
        (_unknown_config, "not among configs.files"),
        (_evaluate_only, "evaluate_only"),
        (_old_config, "is not new"),
        (_other_judge, "another setting of models.judge"),
        (_other_base, "another setting of models.base"),
        (_other_weights, "another setting of pairing"),
        (_other_model, "another one was meant"),
        (_other_taxonomy, "another setting of taxonomy"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_paid(
    change: Change, message: str, world: World, meter: Meter, capfd: pytest.CaptureFixture[str]
) -> None:
    changed = change(world, world.increment(world.write(NEW)))
    with pytest.raises(TaskFailed) as failure:
        world.run(*changed.get("overrides", ()), increment=changed["increment"])
    assert failure.value.exit_code == 2
    assert message in capfd.readouterr().err
    assert not meter.generated
    assert not meter.labelled
