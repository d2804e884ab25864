"""Recipes: each is a valid training on each machine, the same on all, and can be overridden."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import RunConfig, TrainingGroup
from cosalign.domain.training_recipe import shipped_recipe, shipped_recipes, with_recipe
from cosalign.runtime.run_config import load_run_config
from cosalign.training.recipe_commands import recipes

MACHINES = ("cpu", "1-gpu", "4-gpu", "8-gpu")
EACH = [(name, machine) for name in shipped_recipes() for machine in MACHINES]


def _training(**given: Any) -> TrainingGroup:
    return TrainingGroup.model_validate(given)


@pytest.mark.parametrize(("name", "machine"), EACH)
def test_every_recipe_is_a_training_on_every_machine(name: str, machine: str) -> None:
    recipe = shipped_recipe(name)
    assert set(recipe.layouts) == set(MACHINES)
    assert len(recipe.reason.split()) > 20
    made = _training(recipe=name, layout=machine)
    assert made.processes == (None if machine == "cpu" else int(machine.removesuffix("-gpu")))
    # The machine decides how fast, and not what is learnt.
    assert made.identity() == _training(recipe=name).identity()


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_says_what_may_be_lost_and_measures_the_development_split(name: str) -> None:
    settings = shipped_recipe(name).settings
    for stage in ("sft", "dpo"):
        assert settings[stage]["save_minutes"] == 10
        assert settings[stage]["eval_steps"] % settings[stage]["save_steps"] == 0
        # Without a development split such a recipe trains all the same.
        assert getattr(_training(recipe=name), stage).keep == "last"


def test_the_paper_recipe_holds_the_papers_values() -> None:
    paper = _training(recipe="paper")
    assert (paper.optimizer, paper.precision, paper.lora) == ("rmsprop", "bf16", None)
    for stage in (paper.sft, paper.dpo):
        assert (stage.learning_rate, stage.warmup_steps, stage.batch_size) == (5e-7, 150, 32)
        assert (stage.max_grad_norm, stage.schedule) == (10.0, "constant")
    assert paper.dpo.beta == 0.1


def test_what_is_given_goes_over_the_recipe() -> None:
    made = _training(recipe="lora", layout="cpu", lora=None, dpo={"beta": 0.3})
    assert made.lora is None
    assert made.dpo.beta == 0.3
    assert made.dpo.learning_rate == shipped_recipe("lora").settings["dpo"]["learning_rate"]


def test_a_name_is_no_part_of_the_identity() -> None:
    named = _training(recipe="sft-anchored", layout="4-gpu")
    written = named.model_dump(mode="json", exclude={"recipe", "layout"})
    assert TrainingGroup.model_validate_json(_json(written)).identity() == named.identity()
    assert named.identity() != _training(recipe="adamw").identity()
    assert "recipe" not in named.identity()


def _json(value: dict[str, Any]) -> str:
    import json

    return json.dumps(value)


def test_a_resolved_config_reads_back_as_itself() -> None:
    paper = load_run_config("paper")
    assert RunConfig.model_validate_json(paper.model_dump_json()) == paper


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "papr"}, "no training recipe 'papr' ships; did you mean 'paper'"),
        ({"recipe": "paper", "layout": "4-gpus"}, "did you mean '4-gpu'"),
        ({"layout": "cpu"}, "name training.recipe too"),
    ],
)
def test_wrong_names_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_recipe(given)
    with pytest.raises(ValidationError, match=message):
        TrainingGroup.model_validate(given)


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(ValidationError, match="batch_size 32 is no multiple of 40"):
        _training(recipe="paper", layout="8-gpu", processes=10)


def test_the_command_lists_and_shows() -> None:
    listed = CliRunner().invoke(recipes, ["list"], catch_exceptions=False)
    assert {line.split("\t")[0] for line in listed.output.splitlines()} == set(shipped_recipes())
    shown = CliRunner().invoke(
        recipes, ["show", "lora", "--layout", "4-gpu"], catch_exceptions=False
    )
    assert "rank: 32" in shown.output
    assert "processes: 4" in shown.output
    assert "0.320" in shown.output
