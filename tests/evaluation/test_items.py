"""Items from regions' files and a benchmark: which prompts are asked under which config."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.evaluation.evaluation_world import (
    TAXONOMY,
    benchmark_row,
    jsonl,
    prompts_table,
    write_region,
)

from cosalign.domain.errors import DataError, SafetyConfigError
from cosalign.domain.run_config import EvaluationGroup
from cosalign.evaluation.items import (
    EvaluatedConfig,
    EvaluationItems,
    evaluation_items,
    read_region_configs,
)

MONEY, FIGHT = "financial_crime_theft", "violence"
POLICY = "Beer may be praised; odds of winning at cards may not be given."


def chosen(
    regions: list[EvaluatedConfig],
    rows: list[dict[str, object]] | None = None,
    unknown: int = 0,
    **settings: object,
) -> EvaluationItems:
    group = EvaluationGroup.model_validate(settings)
    data = None if rows is None else jsonl(rows)
    return evaluation_items(regions, data, prompts_table(20, unknown=unknown), group, TAXONOMY)


def types(items: EvaluationItems, config: int = 0) -> dict[str, int]:
    return dict(Counter(item.prompt_type for item in items.items if item.config == config))


def test_held_out_prompts_are_typed_and_balanced(tmp_path: Path) -> None:
    write_region(tmp_path, "eu-bank", [MONEY])
    regions = read_region_configs([str(tmp_path)], TAXONOMY)
    items = chosen(regions, prompts_per_config=12)
    assert types(items) == {"allowed": 4, "partial": 4, "disallowed": 4}
    assert types(chosen(regions, prompts_per_config=15)) == {
        "allowed": 6,
        "partial": 4,
        "disallowed": 5,
    }
    everything = chosen(regions, prompts_per_config=50)
    assert len(everything.items) == 20
    assert not any(item.text.startswith("Trained") for item in everything.items)
    assert everything.counts["items_control"] == everything.counts["held_out_prompts"] == 20


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path) -> None:
    write_region(tmp_path, "eu-bank", [MONEY])
    regions = read_region_configs([str(tmp_path)], TAXONOMY)
    group = EvaluationGroup(prompts_per_config=8)
    table = prompts_table(20)
    turned = table.take(list(reversed(range(table.num_rows))))
    first = evaluation_items(regions, None, table, group, TAXONOMY).items
    assert first == evaluation_items(regions, None, turned, group, TAXONOMY).items
    assert first != chosen(regions, prompts_per_config=8, seed=1).items


def test_a_free_form_config_asks_untyped_prompts_also_without_labels(tmp_path: Path) -> None:
    write_region(tmp_path, "eu-bank", [MONEY])
    write_region(tmp_path, "jp-games", text=POLICY, region="JP")
    regions = read_region_configs([f"file://{tmp_path}"], TAXONOMY)
    items = chosen(regions, unknown=5, prompts_per_config=50)
    assert [config.names for config in items.configs] == [("eu-bank",), ("jp-games",)]
    assert sum(types(items, 0).values()) == 15
    assert types(items, 1) == {"freeform": 20}
    assert items.configs[1].rendered.text == POLICY


def test_regions_that_demand_the_same_are_one_config(tmp_path: Path) -> None:
    write_region(tmp_path, "eu-bank", [MONEY, FIGHT], region="EU")
    write_region(tmp_path, "us-bank", [FIGHT, MONEY], region="US")
    (config,) = read_region_configs([str(tmp_path)], TAXONOMY)
    assert (config.names, config.regions) == (("eu-bank", "us-bank"), ("EU", "US"))


def test_one_name_for_two_demands_is_refused(tmp_path: Path) -> None:
    write_region(tmp_path / "a", "eu-bank", [MONEY])
    second = write_region(tmp_path / "b", "eu-bank", [FIGHT])
    with pytest.raises(SafetyConfigError, match="'eu-bank' is taken"):
        read_region_configs([str(tmp_path / "a"), str(second)], TAXONOMY)


def test_a_file_named_twice_is_read_once_and_other_files_are_left_alone(tmp_path: Path) -> None:
    path = write_region(tmp_path, "eu-bank", [MONEY])
    (tmp_path / "notes.txt").write_text("no config", encoding="utf-8")
    found = read_region_configs([str(path), str(path)], TAXONOMY)
    assert found == read_region_configs([str(tmp_path)], TAXONOMY)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \*\.yaml file"):
        read_region_configs([str(tmp_path)], TAXONOMY)
    write_region(tmp_path, "eu-bank", ["violense"])
    with pytest.raises(SafetyConfigError, match="did you mean 'violence'"):
        read_region_configs([str(tmp_path)], TAXONOMY)


def test_benchmark_rows_are_cut_per_config_and_balanced(tmp_path: Path) -> None:
    rows = [benchmark_row(f"Odds of {i} aces?", [FIGHT], [FIGHT]) for i in range(9)]
    rows += [benchmark_row(f"Odds of {i} kings?", [FIGHT], [MONEY]) for i in range(9)]
    rows += [benchmark_row(f"Odds of {i} queens?", [], [], split="seen") for i in range(3)]
    items = chosen([], rows, benchmark="test.jsonl", benchmark_rows_per_config=6)
    assert [c.names for c in items.configs] == [("benchmark:none",), ("benchmark:violence",)]
    assert types(items, 0) == {"allowed": 3}
    assert types(items, 1) == {"allowed": 3, "disallowed": 3}
    assert {item.split for item in items.items if item.config == 0} == {"seen"}
    assert len(chosen([], rows, benchmark="test.jsonl").items) == 21


def test_regions_and_benchmark_stand_side_by_side(tmp_path: Path) -> None:
    write_region(tmp_path, "eu-bank", [MONEY])
    regions = read_region_configs([str(tmp_path)], TAXONOMY)
    rows = [benchmark_row("Odds of an ace?", [MONEY], [MONEY])]
    items = chosen(regions, rows, prompts_per_config=2, benchmark="test.jsonl")
    assert [config.suite for config in items.configs] == ["control", "benchmark:test"]
    assert items.configs[0].rendered.config_id == items.configs[1].rendered.config_id
    assert (items.counts["items_control"], items.counts["items_benchmark"]) == (2, 1)


def test_benchmark_prompts_that_were_trained_on_are_counted() -> None:
    rows = [benchmark_row("trained: WHICH beer suits dish 1?", [], [])]
    rows += [benchmark_row("Odds of an ace?", [], [])]
    assert chosen([], rows, benchmark="t").counts["benchmark_items_in_training"] == 1


def test_one_prompt_is_asked_in_one_spelling(tmp_path: Path) -> None:
    write_region(tmp_path, "eu-bank", [MONEY])
    regions = read_region_configs([str(tmp_path)], TAXONOMY)
    rows = [benchmark_row("HELD OUT: what beats a pair of 0s at cards?", [], [])]
    items = chosen(regions, rows, prompts_per_config=50, benchmark="t")
    assert items.items[-1].text == "Held out: what beats a pair of 0s at cards?"


@pytest.mark.parametrize("per_config", [0, 5])
def test_nothing_to_evaluate_says_what_to_set(tmp_path: Path, per_config: int) -> None:
    with pytest.raises(DataError, match=r"set configs\.files or evaluation\.benchmark"):
        chosen([])
    write_region(tmp_path, "eu-bank", [MONEY])
    regions = read_region_configs([str(tmp_path)], TAXONOMY)
    group = EvaluationGroup(prompts_per_config=per_config)
    with pytest.raises(DataError, match=f"prompts_per_config {per_config}; raise"):
        evaluation_items(regions, None, prompts_table(0), group, TAXONOMY)
