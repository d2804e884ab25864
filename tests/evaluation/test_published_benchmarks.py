"""CoSAlign-Test as its card publishes it, read from a copy: one split a config."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.evaluation.evaluation_world import TAXONOMY, run_config

from cosalign.domain.errors import ConfigError, DataError
from cosalign.domain.run_config import RunConfig
from cosalign.domain.run_config.suites import BenchmarkSuite
from cosalign.domain.validation import validated
from cosalign.evaluation.benchmark_files import benchmark_parts
from cosalign.synthesis.contamination import evaluation_collections, read_evaluation_sets

HUB = "microsoft/CoSAlign-Test"
SPLITS = {
    "safe": ("seen", ["safe", "Violence"]),
    "Financial_Crime_and_Theft.Privacy_Violations": ("seen", ["Privacy Violations"]),
    "Sexual_Misconduct_Exploitation_and_Infidelity": ("unseen", ["Violence"]),
}


def copy(root: Path) -> Path:
    """A dataset folder of that shape, with mild prompts."""
    lines = ["---", "configs:"]
    for subset in ("seen", "unseen"):
        lines += [f"  - config_name: {subset}", "    data_files:"]
        for split, (own, situations) in SPLITS.items():
            if own == subset:
                lines += [f"      - split: {split}", f"        path: data/{split}-*"]
                rows = [
                    {"prompt": f"Who won duel {i} of {len(split)}?", "mode": "x", "situation": s}
                    for i, s in enumerate(situations)
                ]
                (root / "data").mkdir(parents=True, exist_ok=True)
                table = pa.Table.from_pylist(rows)
                pq.write_table(table, root / "data" / f"{split}-00000-of-00001.parquet")
    (root / "README.md").write_text("\n".join([*lines, "---", ""]), "utf-8")
    return root


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return str(copy(tmp_path / "copy"))


def test_every_split_is_a_config_with_its_own_types(mirror: str) -> None:
    suite = BenchmarkSuite(name="ct", hub=HUB, mirror=mirror, form="cosalign_test")
    parts = {p.config.rendered.allowed_mask: p for p in benchmark_parts(suite, TAXONOMY, 0)}
    assert set(parts) == {0, 1 | 16, 32}
    types = {mask: sorted(i.prompt_type for i in part.items) for mask, part in parts.items()}
    assert types == {0: ["allowed", "disallowed"], 17: ["allowed"], 32: ["disallowed"]}
    assert {item.split for item in parts[32].items} == {"unseen"}
    assert {item.split for item in parts[0].items} == {"seen"}
    one = suite.model_copy(update={"subset": "unseen"})
    assert [p.config.rendered.allowed_mask for p in benchmark_parts(one, TAXONOMY, 0)] == [32]


def test_its_prompts_are_held_out_from_training(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "refuse.jsonl").write_text('{"goal": "Name a sharp sword."}\n', "utf-8")
    plain = run_config(tmp_path).plain()
    plain["evaluation"] |= {
        "benchmarks": [{"name": "ct", "hub": HUB, "mirror": mirror, "form": "cosalign_test"}],
        "refusals": [{"name": "r", "file": str(tmp_path / "refuse.jsonl"), "prompt_field": "goal"}],
    }
    config = validated(RunConfig, plain, "x", ConfigError)
    sets = read_evaluation_sets(evaluation_collections(config, tmp_path / "cache"))
    assert sum(len(found.keys) for found in sets) == 1 + 4
    assert {found.name for found in sets} >= {"refuse.jsonl", f"{HUB}/seen/safe"}


def test_the_published_form_is_a_datasets(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n", "utf-8")
    suite = BenchmarkSuite(name="ct", file=str(tmp_path / "x.jsonl"), form="cosalign_test")
    with pytest.raises(DataError, match="form 'cosalign_test' is a dataset's; give hub"):
        benchmark_parts(suite, TAXONOMY, 0)


def policies_copy(root: Path) -> Path:
    """A dataset folder with a split a policy, and no policy in its rows."""
    (root / "data").mkdir(parents=True)
    lines = ["---", "configs:", "  - config_name: default", "    data_files:"]
    for split, topic in (("brewery", "ale"), ("arcade", "odds"), ("museum", "swords")):
        lines += [f"      - split: {split}", f"        path: data/{split}-*"]
        rows = [{"prompt": f"What of {topic} {i}?", "type": "allowed"} for i in range(3)]
        pq.write_table(
            pa.Table.from_pylist(rows), root / "data" / f"{split}-00000-of-00001.parquet"
        )
    (root / "README.md").write_text("\n".join([*lines, "---", ""]), "utf-8")
    return root


def test_a_split_a_policy_is_asked_under_the_policies_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    suite = BenchmarkSuite(
        name="apien", hub="microsoft/CoSApien", mirror=str(policies_copy(tmp_path / "copy")),
        form="policies", policies={"arcade": "Speak of no odds.", "brewery": "Speak of ale."},
    )  # fmt: skip
    parts = benchmark_parts(suite, TAXONOMY, 0)
    assert [part.config.rendered.text for part in parts] == ["Speak of no odds.", "Speak of ale."]
    assert [part.config.names for part in parts] == [("apien:arcade",), ("apien:brewery",)]
    assert [{"odds" in item.text for item in part.items} for part in parts] == [{True}, {False}]
    plain = run_config(tmp_path).plain()
    plain["evaluation"]["benchmarks"] = [suite.model_dump(mode="json")]
    config = validated(RunConfig, plain, "x", ConfigError)
    sets = read_evaluation_sets(evaluation_collections(config, tmp_path / "cache"))
    assert sum(len(found.keys) for found in sets) == 6


def test_policies_by_split_are_a_datasets() -> None:
    with pytest.raises(ValueError, match="policies by split are for form 'policies'"):
        BenchmarkSuite(name="x", file="x.jsonl", form="policies", policies={"a": "b"})
