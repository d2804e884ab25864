"""Records against a brute-force writing of the join, and everything that a join must refuse."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.training.training_world import sources

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import seed_of
from cosalign.training.records import Sources, join_records

Row = dict[str, str]


def _texts(table: pa.Table, key: str) -> dict[str, str]:
    return {row[key]: row["text"] for row in table.to_pylist()}


def _oracle(world: Sources, seed: int) -> tuple[list[Row], list[Row]]:
    """The same records by plain loops."""
    prompts = _texts(world.prompts, "prompt_id")
    configs = _texts(world.configs, "config_id")
    responses = _texts(world.responses, "response_id")
    best: dict[tuple[str, str], tuple[int, int, str]] = {}
    dpo = []
    for pair in world.pairs.to_pylist():
        group = (pair["prompt_id"], pair["config_id"])
        rank = seed_of("sft", [seed, *group, pair["chosen_id"]])
        candidate = (pair["chosen_error"], rank, pair["chosen_id"])
        best[group] = min(best.get(group, candidate), candidate)
        ids = {n: pair[n] for n in ("prompt_id", "config_id", "chosen_id", "rejected_id")}
        texts = {"system": configs[group[1]], "prompt": prompts[group[0]]}
        answers = {n: responses[pair[f"{n}_id"]] for n in ("chosen", "rejected")}
        dpo.append({**ids, **texts, **answers})
    sft = [
        {
            "prompt_id": prompt,
            "config_id": config,
            "response_id": chosen,
            "system": configs[config],
            "prompt": prompts[prompt],
            "response": responses[chosen],
        }
        for (prompt, config), (_, _, chosen) in best.items()
    ]
    return sorted(sft, key=lambda r: list(r.values())), sorted(dpo, key=lambda r: list(r.values()))


def _with_errors(world: Sources, errors: list[int]) -> Sources:
    """The world with other chosen errors, ties among them."""
    column = pa.array([errors[i % len(errors)] for i in range(world.pairs.num_rows)], pa.int32())
    place = world.pairs.schema.get_field_index("chosen_error")
    return replace(world, pairs=world.pairs.set_column(place, "chosen_error", column))


@given(
    errors=st.lists(st.sampled_from([0, 1, 10]), min_size=1, max_size=13),
    seed=st.integers(0, 3),
    order=st.randoms(use_true_random=False),
)
def test_records_are_those_of_the_brute_force_join(
    errors: list[int], seed: int, order: Random
) -> None:
    world = _with_errors(sources(topics=4), errors)
    shuffled = list(range(world.pairs.num_rows))
    order.shuffle(shuffled)
    records = join_records(replace(world, pairs=world.pairs.take(shuffled)), seed)
    sft, dpo = _oracle(world, seed)
    assert records.sft.to_pylist() == sft
    assert records.dpo.to_pylist() == dpo


def test_the_sft_target_is_the_chosen_response_of_lowest_error() -> None:
    records = join_records(sources(), seed=0)
    assert set(records.sft["response"].to_pylist()) == {"A warm word."}


def test_the_target_may_be_that_of_the_last_pair_as_the_papers_code_takes_it() -> None:
    world = sources()
    last = {}
    ids = ("prompt_id", "config_id", "chosen_id", "rejected_id")
    for prompt, config, chosen, _ in sorted(
        tuple(r[n] for n in ids) for r in world.pairs.to_pylist()
    ):
        last[prompt, config] = chosen
    records = join_records(world, seed=0, sft_target="last")
    rows = records.sft.to_pylist()
    assert {(r["prompt_id"], r["config_id"]): r["response_id"] for r in rows} == last
    assert len(rows) == len(last)


def test_ties_between_targets_depend_on_the_seed() -> None:
    world = _with_errors(sources(), [0])
    targets = [join_records(world, seed).sft["response_id"].to_pylist() for seed in range(4)]
    assert any(other != targets[0] for other in targets[1:])


def test_responses_cut_by_a_length_limit_are_named() -> None:
    world = sources(topics=1)
    cut = {r["response_id"] for r in world.responses.to_pylist() if r["finish_reason"] == "length"}
    assert join_records(world, seed=0).cut == cut


@pytest.mark.parametrize("split", ["held_out", "dropped", "unlabelled"])
def test_a_prompt_that_is_not_for_training_is_refused_by_id(split: str) -> None:
    world = sources()
    rows = world.prompts.to_pylist()
    rows[2]["split"] = split
    world = replace(world, prompts=pa.Table.from_pylist(rows, schema=world.prompts.schema))
    with pytest.raises(DataError, match=rows[2]["prompt_id"]):
        join_records(world, seed=0)


def _split(world: Sources, splits: list[str]) -> Sources:
    """The world with other splits, one a prompt in turn."""
    place = world.prompts.schema.get_field_index("split")
    names = [splits[i % len(splits)] for i in range(world.prompts.num_rows)]
    field = world.prompts.schema.field(place)
    return replace(world, prompts=world.prompts.set_column(place, field, pa.array(names)))


@given(
    splits=st.lists(st.sampled_from(["train", "dev"]), min_size=1, max_size=6),
    seed=st.integers(0, 2),
)
def test_dev_records_are_those_of_dev_prompts_and_never_trained_on(
    splits: list[str], seed: int
) -> None:
    world = _split(sources(topics=6), ["train", *splits])
    records = join_records(world, seed)
    sft, dpo = _oracle(world, seed)
    split = {row["prompt_id"]: row["split"] for row in world.prompts.to_pylist()}
    for name, sft_records, dpo_records in (
        ("train", records.sft, records.dpo),
        ("dev", records.sft_dev, records.dpo_dev),
    ):
        assert sft_records.to_pylist() == [r for r in sft if split[r["prompt_id"]] == name]
        assert dpo_records.to_pylist() == [r for r in dpo if split[r["prompt_id"]] == name]


def test_dev_pairs_alone_are_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="there are no pairs to train on"):
        join_records(_split(sources(), ["dev"]), seed=0)


def test_a_response_that_no_table_holds_is_refused_by_id() -> None:
    world = sources()
    lost = world.responses["response_id"][0].as_py()
    with pytest.raises(DataError, match=lost):
        join_records(replace(world, responses=world.responses.slice(1)), seed=0)


def test_a_response_to_another_prompt_is_refused() -> None:
    world = sources()
    rows = world.responses.to_pylist()
    rows[0]["prompt_id"] = rows[-1]["prompt_id"]
    swapped = pa.Table.from_pylist(rows, schema=world.responses.schema)
    with pytest.raises(DataError, match="another prompt"):
        join_records(replace(world, responses=swapped), seed=0)


def test_no_pairs_says_which_setting_to_change() -> None:
    world = sources()
    with pytest.raises(DataError, match=r"prompts\.limit"):
        join_records(replace(world, pairs=world.pairs.slice(0, 0)), seed=0)


def test_one_pair_is_enough() -> None:
    world = sources()
    records = join_records(replace(world, pairs=world.pairs.slice(0, 1)), seed=0)
    assert (records.sft.num_rows, records.dpo.num_rows) == (1, 1)
