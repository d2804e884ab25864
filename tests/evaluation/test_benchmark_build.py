"""Built benchmarks: the composition that was asked, of held-out prompts only."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests.evaluation.evaluation_world import TAXONOMY, prompts_table

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import content_sha256, prompt_id_of
from cosalign.domain.schemas import PROMPTS, with_metadata
from cosalign.evaluation.benchmark import read_benchmark
from cosalign.evaluation.benchmark_build import (
    benchmark_bytes,
    build_benchmark,
    parse_composition,
)
from cosalign.evaluation.benchmark_commands import benchmark

MONEY, ABUSE, FIGHT, DRUGS = (TAXONOMY.names[bit] for bit in range(4))
# Of 40 held-out prompts, 8 each are benign, {money}, {abuse}, {money, fight}, {drugs}.
HELD_OUT = prompts_table(40)


def composition(*configs: dict[str, Any], seed: int = 0) -> str:
    return json.dumps({"configs": list(configs), "seed": seed})


def built(text: str, prompts: pa.Table = HELD_OUT) -> tuple[list[dict[str, Any]], list[Any]]:
    done = build_benchmark(parse_composition(text, "c.yaml"), prompts, TAXONOMY)
    return done.rows, done.short


def test_it_has_the_composition_that_was_asked() -> None:
    rows, short = built(
        composition(
            {"allowed": [MONEY], "prompts": {"allowed": 10, "partial": 5, "disallowed": 12}},
            {"allowed": [], "split": "seen", "label_sets": [{"risks": [DRUGS], "count": 3},
                                                            {"risks": [], "count": 2}]},
        )
    )  # fmt: skip
    assert short == []
    first = [row for row in rows if row["allowed"]]
    assert Counter(row["type"] for row in first) == {"allowed": 10, "partial": 5, "disallowed": 12}
    assert Counter(map(str, (row["risks"] for row in rows if not row["allowed"]))) == {
        str([DRUGS]): 3, "[]": 2,
    }  # fmt: skip
    assert {row.get("split") for row in first} == {None}


def test_what_it_writes_is_a_benchmark_that_evaluation_reads() -> None:
    rows, _ = built(composition({"allowed": [MONEY], "prompts": {"allowed": 6, "partial": 6}}))
    read = read_benchmark(benchmark_bytes(rows, parquet=False), "b", TAXONOMY)
    assert Counter(row.prompt_type for row in read.rows) == {"allowed": 6, "partial": 6}
    assert {row.text for row in read.rows} == {row["prompt"] for row in rows}


def test_only_held_out_prompts_with_all_labels_are_taken() -> None:
    table = prompts_table(10, unknown=4, trained=9)
    rows, short = built(
        composition({"allowed": [], "prompts": {"allowed": 99, "disallowed": 99}}), table
    )
    fit = {
        row["prompt_id"]
        for row in table.to_pylist()
        if row["split"] == "held_out" and row["known_mask"] == TAXONOMY.full_mask
    }
    assert {prompt_id_of(row["prompt"]) for row in rows} == fit
    assert sum(missing for *_, missing in short) == 2 * 99 - len(fit)


def test_the_choice_depends_on_the_seed_and_on_no_order() -> None:
    asked = {"allowed": [MONEY], "prompts": {"disallowed": 4}}
    rows, _ = built(composition(asked))
    turned = HELD_OUT.take(pa.array(range(HELD_OUT.num_rows - 1, -1, -1)))
    assert built(composition(asked), turned)[0] == rows
    assert any(built(composition(asked, seed=s))[0] != rows for s in range(1, 6))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"allowed": ["beer"], "prompts": {"allowed": 1}}, r"configs\[0\].allowed: .*beer"),
        ({"allowed": [TAXONOMY.names[-1]], "prompts": {"allowed": 1}}, "catch-all"),
        ({"allowed": []}, "either prompts .* or label_sets"),
        ({"allowed": [], "prompts": {"alowed": 1}}, "prompts"),
        ({"allowed": [], "prompts": {"allowed": -1}}, "0 or more"),
    ],
)
def test_a_wrong_table_is_refused_by_field(config: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        built(composition(config))


def test_prompts_of_another_taxonomy_are_refused() -> None:
    tagged = HELD_OUT.cast(with_metadata(PROMPTS, "f" * 64))
    with pytest.raises(DataError, match="another taxonomy"):
        built(composition({"allowed": [], "prompts": {"allowed": 1}}), tagged)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_the_command_writes_file_and_manifest(tmp_path: Path, suffix: str) -> None:
    pq.write_table(HELD_OUT, tmp_path / "prompts.parquet")
    (tmp_path / "c.yaml").write_text(
        composition({"allowed": [MONEY], "prompts": {"allowed": 5, "partial": 99}}), "utf-8"
    )
    out = tmp_path / f"b.{suffix}"
    arguments = ["build", "--composition", str(tmp_path / "c.yaml"), "--out", str(out),
                 "--prompts", str(tmp_path / "prompts.parquet")]  # fmt: skip
    refused = CliRunner().invoke(benchmark, arguments)
    assert isinstance(refused.exception, DataError)
    assert "91 prompts are missing" in str(refused.exception)
    assert not out.exists()
    done = CliRunner().invoke(benchmark, [*arguments, "--allow-short"], catch_exceptions=False)
    manifest = json.loads((tmp_path / f"b.{suffix}.manifest.json").read_text("utf-8"))
    assert manifest["rows"] == 13
    assert manifest["sha256"] == content_sha256(out.read_bytes())
    assert manifest["short"] == [[MONEY, "partial", 91]]
    assert "Held out" not in done.output
    assert HELD_OUT["text"][0].as_py() not in json.dumps(manifest)
