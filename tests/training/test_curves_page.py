"""The page of training curves, from histories written by hand."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest

from cosalign.store.storage import open_storage
from cosalign.training.curves_page import MOST_ROWS, render_curves, stage_curves
from cosalign.training.outcome import SKIPPED, Outcome
from cosalign.training.stage_history import CHECKPOINT, StageHistory, read_history


def _history(steps: int = 6, skipped: int | None = None) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        entry: dict[str, Any] = {
            "step": step, "epoch": 0.1, "loss": 0.7 / step, "grad_norm": 2.0, "seconds": 0.5,
            "learning_rate": 5e-7, "rewards/margins": 0.1 * step, "rewards/accuracies": 0.5,
            "tokens": 1000, "tokens_per_second": 2000.0, "mfu": None, "memory_gib": 1.25,
        }  # fmt: skip
        if step == skipped:
            del entry["loss"], entry["grad_norm"]
            entry[SKIPPED] = ["p1/c1"]
        entries.append(entry)
    entries += [
        {"step": step, "eval_loss": 0.8 - 0.1 * abs(step - 4), "eval_rewards/accuracies": 0.75}
        for step in (2, 4, 6)
    ]
    return [*entries, *({"step": s, CHECKPOINT: s} for s in (2, 4, 6))]


def test_the_page_shows_every_figure_and_mark() -> None:
    page = render_curves([stage_curves("dpo", _history(skipped=3), kept_step=4)])
    assert page.count("<polyline") == 8
    assert page.count('class="skipped"') == 6
    assert "Step 3 was left out for 1 row" in page
    assert "<code>p1/c1</code>" in page
    rows = re.findall(r"<tr><td>.*?</tr>", page)
    assert len(rows) == 6
    assert "left out" in rows[2]
    assert "checkpoint kept" in rows[3]
    assert "<span>MFU, median</span><span>unknown</span>" in page


def test_the_page_is_one_file_of_well_formed_drawings() -> None:
    page = render_curves([stage_curves(n, _history(), kept_step=6) for n in ("sft", "dpo")])
    assert "<script" not in page
    assert not re.search(r'(src|href)="', page)
    for drawing in re.findall(
        r"<figure>\s*<strong>.*?</strong>\s*(<svg.*?</svg>)\s*(?:<figc|</f)", page, re.S
    ):
        ElementTree.fromstring(drawing)  # noqa: S314 our own page
    assert page.count("<h2>") == 2


def test_of_a_long_training_the_table_keeps_what_is_special() -> None:
    history = _history(10 * MOST_ROWS, skipped=7)
    curves = stage_curves("sft", history, kept_step=10 * MOST_ROWS)
    assert curves.every == 10
    steps = [row["step"] for row in curves.rows]
    assert {2, 4, 6, 7} <= set(steps)
    assert len(steps) <= MOST_ROWS + 4
    assert "every 10th step" in render_curves([curves])


def test_a_stage_of_one_step_is_not_drawn() -> None:
    assert "Too few steps" in render_curves([stage_curves("sft", [{"step": 1, "loss": 1.0}], 1)])


@pytest.fixture
def history(tmp_path: Any) -> StageHistory:
    return StageHistory(open_storage(str(tmp_path)), "training/sft/0/history.jsonl")


def test_a_history_is_read_as_it_was_written(history: StageHistory, tmp_path: Any) -> None:
    history.saved(4)
    history.saved(2)
    entries: list[dict[str, Any]] = [{"step": 1, "loss": 0.5}]
    entries.append({"step": 4, "loss": float("nan"), "mfu": None})
    history.write([*entries, {"step": 4, "train_runtime": 3.0}])
    found = read_history(open_storage(str(tmp_path)), history.path)
    assert found == [
        {"step": 1, "loss": 0.5},
        {"step": 4, "mfu": None},
        {"step": 2, CHECKPOINT: 2},
        {"step": 4, CHECKPOINT: 4},
    ]


def test_a_resumed_history_knows_the_checkpoints_of_before(
    history: StageHistory, tmp_path: Any
) -> None:
    history.saved(2)
    history.write([{"step": 2, "loss": 0.5}])
    resumed = StageHistory(open_storage(str(tmp_path)), history.path)
    resumed.saved(4)
    resumed.write([{"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.4}])
    found = read_history(open_storage(str(tmp_path)), history.path)
    assert [e[CHECKPOINT] for e in found if CHECKPOINT in e] == [2, 4]


class _State:
    """What a trainer's state says, as far as an outcome is read from it."""

    def __init__(self, steps: int, best: int | None) -> None:
        self.global_step, self.best_global_step = steps, best
        self.log_history = [e for e in _history(steps, skipped=3) if CHECKPOINT not in e]


@pytest.mark.parametrize(
    ("keep", "best", "kept"), [("last", 4, 6), ("best", 4, 4), ("best", None, 6), ("best", 6, 6)]
)
def test_an_outcome_says_which_model_was_kept_and_why(
    keep: Any, best: int | None, kept: int
) -> None:
    outcome = Outcome.of(_State(6, best), keep)
    assert (outcome.steps, outcome.kept_step, outcome.skipped) == (6, kept, 1)
    assert [entry["step"] for entry in outcome.curve] == [1, 2, 4, 5, 6]
    assert outcome.dev["last"] == {
        "step": 6,
        "loss": pytest.approx(0.6),
        "rewards/accuracies": 0.75,
    }
    assert ("best" in outcome.dev) is (best is not None)
    assert "tokens_per_second" not in outcome.curve[0]
