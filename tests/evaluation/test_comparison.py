"""Runs side by side: what is paired, what is not, and what a reader is warned of."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.evaluation.evaluation_world import inputs, run_config, write_region
from tests.evaluation.item_world import config_row, item_row

from cosalign.domain.schemas import EVALUATED_CONFIGS, EVALUATION
from cosalign.evaluation.comparison import Compared, compare
from cosalign.evaluation.comparison_page import comparison_lines, render_comparison
from cosalign.evaluation.step import EvaluationStep
from cosalign.pipelines.command_line import main as cosalign
from cosalign.runtime.step import run_step

SETTINGS = {"bootstrap": 100, "confidence": 0.95, "seed": 0, "max_tokens": 64}


def run(
    label: str,
    values: dict[str, float],
    *,
    configs: list[dict[str, Any]] | None = None,
    judge: str = "j",
    rules: str | None = "r",
    **more: Any,
) -> Compared:
    """A run whose system dpo made these scores of these prompts."""
    rows = [item_row("dpo", prompt, value, **more) for prompt, value in values.items()]
    rows += [item_row("base", prompt, -1.0, **more) for prompt in values]
    models = {
        "dpo": {"uri": f"double:{label}", "digest": label},
        "judge": {"uri": judge, "digest": judge, **({"rules": rules} if rules else {})},
    }
    card = {"settings": SETTINGS, "models": models, "systems": ["base", "dpo"], "gate": None}
    return Compared(
        label, "dpo", card, pa.Table.from_pylist(rows, schema=EVALUATION),
        pa.Table.from_pylist(configs or [config_row()], schema=EVALUATED_CONFIGS),
    )  # fmt: skip


def test_differences_are_paired_over_the_items_that_runs_share() -> None:
    found = compare(
        [run("a", {"p": 0.2, "q": 0.4, "r": 1.0}), run("b", {"p": 0.6, "q": 0.4, "s": -1.0})]
    )
    scores = {label: s["score"] for label, s in found["overall"]["scores"].items()}
    assert scores == {"a": pytest.approx(1.6 / 3, abs=1e-6), "b": 0.0}
    difference = found["overall"]["differences"]["b"]["a"]
    assert (difference["mean"], difference["pairs"]) == (0.2, 2)
    assert list(found["overall"]["differences"]) == ["b"]
    assert found["warnings"] == []


def test_one_label_for_two_demands_is_two_configs() -> None:
    changed = [config_row(digest="another-demand")]
    found = compare([run("a", {"p": 0.2}), run("b", {"p": 0.6}, configs=changed)])
    assert [config["label"] for config in found["configs"]] == ["eu", "eu (another-)"]
    (warning,) = found["warnings"]
    assert "b shares no judged item with a" in warning


def test_one_demand_under_two_names_is_one_config() -> None:
    renamed = [config_row("europe", digest="digest-eu")]
    found = compare([run("a", {"p": 0.2}), run("b", {"p": 0.6}, configs=renamed, config="europe")])
    (config,) = found["configs"]
    assert config["differences"]["b"]["a"]["mean"] == 0.4


def test_other_judges_are_pointed_out() -> None:
    found = compare([run("a", {"p": 0.2}), run("b", {"p": 0.6}, judge="other")])
    assert found["warnings"] == [
        "b was measured with another judge than a: its scores and theirs are not on one scale"
    ]


def test_other_rules_for_one_judges_answers_are_pointed_out() -> None:
    found = compare([run("a", {"p": 0.2}), run("b", {"p": 0.6}, rules="others")])
    (warning,) = found["warnings"]
    assert "b was measured with other rules" in warning
    # A scorecard of an earlier release does not say, and is not accused.
    assert not compare([run("a", {"p": 0.2}, rules=None), run("b", {"p": 0.6})])["warnings"]


def test_any_number_of_runs_stands_against_the_first() -> None:
    found = compare([run(name, {"p": i / 5}) for i, name in enumerate("abcd")])
    changes = {n: refs["a"]["mean"] for n, refs in found["overall"]["differences"].items()}
    assert changes == {"b": 0.2, "c": 0.4, "d": 0.6}
    lines = comparison_lines(found)
    assert len(lines) == 5
    assert "+0.600" in lines[4]


class Rows(HTMLParser):
    """Counts the cells of each row of each table."""

    def __init__(self) -> None:
        super().__init__()
        self.widths: list[list[int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.widths.append([])
        elif tag == "tr":
            self.widths[-1].append(0)
        elif tag in ("td", "th"):
            self.widths[-1][-1] += int(dict(attrs).get("colspan") or 1)


def test_every_row_of_the_page_is_as_wide_as_its_table() -> None:
    changed = [config_row("us", digest="x"), config_row("b", "benchmark:b")]
    runs = [run("a", {"p": 0.2}), run("b", {"p": 0.6}),
            run("<c>", {"p": 0.1}, configs=changed, config="us")]  # fmt: skip
    page = render_comparison(compare(runs))
    assert "&lt;c&gt;" in page
    assert "<c>" not in page
    parser = Rows()
    parser.feed(page)
    assert len(parser.widths) == 4
    for table in parser.widths:
        assert len(set(table)) == 1, table


def test_the_command_writes_a_page_and_its_figures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_region(tmp_path / "regions", "eu-bank", ["financial_crime_theft"])
    config = run_config(tmp_path, systems=("ica", "dpo"))
    named = []
    for name in "ab":
        given = inputs(config)
        models = {"sft": "double:sft", "dpo": f"double:{name}"}
        given["training"] = given["training"].model_copy(update={"models": models})
        named.append(run_step(EvaluationStep(), config, given)[0].fingerprint[:10])
    page = tmp_path / "side.html"
    command = ["report", "compare", *named, f"{named[0]}:ica", "--root", config.storage.root]
    assert cosalign([*command, "--output", str(page)]) == 0
    assert named[1] in capfd.readouterr().out
    assert "Evaluations side by side" in page.read_text(encoding="utf-8")
    found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert [r["system"] for r in found["runs"]] == ["dpo", "dpo", "ica"]
    assert found["overall"]["differences"][f"{named[0]}:ica"][named[0]]["pairs"] > 0
    assert cosalign([*command[:3], f"{named[0]}:nobody", *command[-2:]]) == 2
    assert "has no system 'nobody'" in capfd.readouterr().err
    assert cosalign(["report", "compare", named[0], named[0], *command[-2:]]) == 2
