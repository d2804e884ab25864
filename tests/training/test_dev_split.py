"""The development split is measured exactly, and tells which model is kept."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tests.training.stage_process import stage_of
from tests.training.training_world import TRAINING, encoded

from cosalign.domain.errors import DataError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import open_storage
from cosalign.training.checkpoints import COMPLETE
from cosalign.training.outcome import chosen_dev
from cosalign.training.preemption import Preempted
from cosalign.training.stage import Stage, run_stage, stage_trainer

DEV_ROWS = 7  # No multiple of the micro batch, and answers of unlike length: means of means differ.


def _group(**changes: object) -> TrainingGroup:
    stage = {
        "batch_size": 4, "micro_batch_size": 2, "save_steps": 4, "max_steps": 8, "epochs": 9,
        "eval_steps": 2, **changes,
    }  # fmt: skip
    return TrainingGroup.model_validate({**TRAINING, "sft": stage, "dpo": stage})


def _stage(tiny: ModelFolder, root: Path, name: str, group: TrainingGroup) -> Stage:
    stage = stage_of(tiny.path, root, name)
    dev = replace(stage.rows, table=stage.rows.table.slice(5, DEV_ROWS))
    return replace(stage, group=group, dev=dev)


FALLS_THEN_RISES: dict[str, object] = {
    "learning_rate": 1e-3, "max_steps": 10, "eval_steps": 3, "save_steps": 100,
}  # fmt: skip
"""Of answers read backwards the loss is least after six steps, by a third of a nat."""


def _backwards(tiny: ModelFolder, root: Path, group: TrainingGroup) -> Stage:
    """A development split whose tokens are learnt first, and then that they stand otherwise."""
    stage = _stage(tiny, root, "sft", group)
    assert stage.dev is not None
    table, name = stage.dev.table, "answer_ids"
    answers = [answer[::-1] for answer in table[name].to_pylist()]
    column = pa.array(answers, table.schema.field(name).type)
    place = table.schema.get_field_index(name)
    dev = replace(stage.dev, table=table.set_column(place, table.schema.field(name), column))
    return replace(stage, dev=dev)


def _dev_oracle(trainer: Any, stage: Stage) -> float:
    """The loss of each row alone, by plain log-softmax in float64, and their mean by hand."""
    model = trainer.model.double().eval()
    tokens, total = 0, 0.0
    for row in stage.dev.table.to_pylist() if stage.dev else []:
        context, answer = row["prompt_ids"], row["answer_ids"]
        logits = model(torch.tensor([context + answer])).logits[0]
        logs = torch.log_softmax(logits, dim=-1)
        for place, token in enumerate(answer):
            total -= float(logs[len(context) - 1 + place, token].detach())
        tokens += len(answer)
    return total / tokens


@pytest.mark.training
def test_the_loss_is_that_of_all_tokens(tiny: ModelFolder, tmp_path: Path) -> None:
    stage = _stage(tiny, tmp_path, "sft", _group())
    trainer = stage_trainer(stage, tmp_path / "trainer")
    figures = trainer.evaluate()
    assert figures["eval_loss"] == pytest.approx(_dev_oracle(trainer, stage), rel=1e-5)
    assert 0 <= figures["eval_mean_token_accuracy"] <= 1


@pytest.mark.training
def test_of_an_untrained_dpo_model_the_dev_loss_is_ln_2(tiny: ModelFolder, tmp_path: Path) -> None:
    trainer = stage_trainer(_stage(tiny, tmp_path, "dpo", _group()), tmp_path / "trainer")
    figures = trainer.evaluate()
    assert trainer.model.training
    assert figures["eval_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert figures["eval_rewards/margins"] == pytest.approx(0, abs=1e-4)


@pytest.mark.training
def test_the_best_model_is_kept_and_survives_an_interruption(
    tiny: ModelFolder, tmp_path: Path
) -> None:
    """The best is no last step, and no step of a save."""
    group = _group(keep="best", keep_checkpoints=1, **FALLS_THEN_RISES)
    calm = _backwards(tiny, tmp_path / "calm", group)
    result = run_stage(calm)
    best, last = result.dev["best"], result.dev["last"]
    assert best["loss"] < last["loss"]
    assert result.kept_step == best["step"] < result.steps == last["step"]
    assert result.best is None
    stored = open_storage(str(tmp_path / "calm/out"))
    manifest = json.loads(stored.read_bytes(f"{result.model}/cosalign.json"))
    assert (manifest["kept_step"], manifest["dev"]) == (result.kept_step, result.dev)
    trainer = stage_trainer(replace(calm, start=_model(calm, result.model)), tmp_path / "again")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best["loss"], rel=1e-4)
    _interrupted_after_the_best(tiny, tmp_path / "rough", group, int(best["step"]))
    rough = run_stage(_backwards(tiny, tmp_path / "rough", group))
    assert (rough.kept_step, rough.dev["best"]["step"]) == (result.kept_step, best["step"])
    assert rough.dev["best"]["loss"] == pytest.approx(best["loss"], rel=1e-4)


@pytest.mark.training
@pytest.mark.parametrize("last", [False, True], ids=["best step", "last step"])
def test_a_measurement_that_sigterm_took_the_place_of_is_made_up_for(
    last: bool, tiny: ModelFolder, tmp_path: Path
) -> None:
    """Else which model is kept, or what is said of the last, would hang on the signal."""
    group = _group(keep="best", **FALLS_THEN_RISES)
    calm = run_stage(_backwards(tiny, tmp_path / "calm", group))
    step = calm.steps if last else calm.kept_step
    left = [2 * (step - 1) + 1]

    def terminated(_rows: list[int]) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGTERM)

    rough = _backwards(tiny, tmp_path / "rough", group)
    with pytest.raises(Preempted, match=f"step {step} "):
        run_stage(replace(rough, observer=terminated))
    seen: list[list[int]] = []
    result = run_stage(replace(rough, observer=seen.append))
    assert len(seen) == 2 * (calm.steps - step)
    assert (result.kept_step, result.steps) == (calm.kept_step, calm.steps)
    for model in ("best", "last"):
        assert result.dev[model] == pytest.approx(calm.dev[model], rel=1e-4)
    assert [entry["step"] for entry in result.curve] == [entry["step"] for entry in calm.curve]


@pytest.mark.training
def test_where_the_last_model_is_left_the_best_is_stored_beside_it(
    tiny: ModelFolder, tmp_path: Path
) -> None:
    stage = _backwards(tiny, tmp_path, _group(keep_checkpoints=1, **FALLS_THEN_RISES))
    result = run_stage(stage)
    best = result.dev["best"]
    assert best["step"] < result.kept_step == result.steps
    assert result.best not in (None, result.model)
    for model, figures in ((result.best, best), (result.model, result.dev["last"])):
        manifest = json.loads(stage.storage.read_bytes(f"{model}/cosalign.json"))
        assert manifest["kept_step"] == figures["step"]
        trainer = stage_trainer(
            replace(stage, start=_model(stage, str(model))), tmp_path / "trainer"
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(figures["loss"], rel=1e-4)
    assert run_stage(stage) == result


def _model(stage: Stage, folder: str) -> ModelFolder:
    from cosalign.inference.models import resolve_model

    return resolve_model(stage.storage.uri_of(folder), stage.cache)


def _interrupted_after_the_best(
    tiny: ModelFolder, root: Path, group: TrainingGroup, best: int
) -> None:
    """Raises in the step after the best one's, whose checkpoint is then the newest."""
    left = [2 * best + 1]

    def observer(_rows: list[int]) -> None:
        left[0] -= 1
        if not left[0]:
            raise InterruptedError

    stage = replace(_backwards(tiny, root, group), observer=observer)
    with pytest.raises(InterruptedError):
        run_stage(stage)
    (marker,) = (root / "out").rglob(COMPLETE)
    assert json.loads(marker.read_bytes())["best"] == best


def test_the_best_without_a_split_is_refused_before_training(
    tiny: ModelFolder, tmp_path: Path
) -> None:
    stage = replace(_stage(tiny, tmp_path, "dpo", _group(keep="best")), dev=None)
    with pytest.raises(DataError, match=r"training.dpo.keep.*prompts.dev_share"):
        run_stage(stage)


def test_the_split_is_part_of_a_result_only_where_it_is_measured(
    tiny: ModelFolder, tmp_path: Path
) -> None:
    stage = _stage(tiny, tmp_path, "sft", _group())
    assert stage.fingerprint != replace(stage, dev=None).fingerprint
    unmeasured = replace(stage, group=_group(eval_steps=None))
    assert unmeasured.fingerprint == replace(unmeasured, dev=None).fingerprint
    saving = replace(stage, group=_group(save_minutes=1.5, keep_checkpoints=4, save_steps=9))
    assert saving.fingerprint == stage.fingerprint


def test_no_more_rows_are_measured_than_asked_for(tiny: ModelFolder) -> None:
    table = encoded(tiny).dpo.table
    few = chosen_dev(table, 10, seed=0)
    rows = few["row"].to_pylist()
    assert rows == sorted(set(rows))
    assert len(rows) == 10
    assert chosen_dev(table, 10, seed=0) == few
    assert chosen_dev(table, 10, seed=1) != few
    assert chosen_dev(table, 10_000, seed=0) == table


def test_keeping_the_best_needs_measurements() -> None:
    with pytest.raises(ValueError, match="keep: best needs eval_steps"):
        _group(keep="best", eval_steps=None)
