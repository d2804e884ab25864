from __future__ import annotations

import json
from typing import Any

import pytest

from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import MODES, RunConfig, TrainingGroup
from cosalign.domain.validation import validated


def config(**groups: Any) -> RunConfig:
    return validated(RunConfig, groups, "run.yaml", ConfigError)


def test_the_groups_of_the_run_config() -> None:
    assert list(RunConfig.model_fields) == [
        "storage",
        "models",
        "taxonomy",
        "prompts",
        "configs",
        "synthesis",
        "judging",
        "scoring",
        "pairing",
        "training",
        "evaluation",
        "gate",
        "prices",
        "increment",
    ]


def test_defaults_fill_everything_in() -> None:
    found = config()
    assert found == RunConfig()
    assert found.synthesis.modes == MODES == ("exact", "superset", "safe", "not_superset")
    assert (found.pairing.alpha, found.pairing.beta, found.pairing.gamma) == (1, 30, 10)
    assert (found.training.optimizer, found.training.dpo.beta) == ("rmsprop", 0.1)
    assert (found.training.sft.learning_rate, found.training.sft.max_length) == (5e-7, 640)
    assert found.evaluation.system_names == ("base", "ica", "sft", "dpo")


def test_plain_is_json_that_gives_the_same_config_back() -> None:
    found = config(prompts={"files": ["a.jsonl"]}, synthesis={"modes": ["safe"]})
    assert config(**json.loads(json.dumps(found.plain()))) == found


def test_the_judge_is_the_base_model_unless_it_is_given() -> None:
    assert config(models={"base": "a"}).models.judge_uri == "a"
    assert config(models={"base": "a", "judge": "b"}).models.judge_uri == "b"


def test_pairing_weights_as_the_arithmetic_takes_them() -> None:
    weights = config(pairing={"alpha": 0, "gamma": 5, "beta": 9}).pairing.weights
    assert (weights.alpha, weights.gamma, weights.beta) == (0, 5, 9)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"trainning": {}}, "trainning: unknown field; did you mean 'training'"),
        ({"training": {"stf": {}}}, "training.stf: unknown field; did you mean 'sft'"),
        (
            {"models": {"engine": {"dtpye": "auto"}}},
            "models.engine.dtpye: unknown field; did you mean 'dtype'",
        ),
        (
            {"synthesis": {"generators": [{"temprature": 1.0}]}},
            r"synthesis.generators\[0\].temprature: unknown field; did you mean 'temperature'",
        ),
        ({"synthesis": {"modes": ["save"]}}, r"synthesis.modes\[0\]: .*'safe'.*found 'save'"),
        ({"synthesis": {"generators": []}}, "synthesis.generators: at least one generator"),
        (
            {"synthesis": {"generators": [{"name": "a"}, {"name": "a"}]}},
            r"synthesis.generators: .*found \['a', 'a'\]",
        ),
        ({"synthesis": {"generators": [{"name": "A b"}]}}, "name: .*found 'A b'"),
        (
            {"synthesis": {"generators": [{"replies": "r.jsonl", "weight": 1.0}]}},
            r"synthesis.generators\[0\]: .*authored replies are all taken; leave weight out",
        ),
        ({"synthesis": {"regional_share": 1.0}}, "synthesis.regional_share: .*less than 1"),
        (
            {"synthesis": {"regional_share": 0.5, "regional_freeform_share": 0.5}},
            "synthesis: .*must leave a share for the drawn configs",
        ),
        (
            {"synthesis": {"rewrites": {"min_words": 9, "max_words": 8}}},
            "synthesis.rewrites: max_words is 8, and min_words 9; no text fits",
        ),
        ({"configs": {"as_of": "tomorrow"}}, "configs.as_of: 'tomorrow' is no ISO 8601 date"),
        ({"prompts": {"limit": 0}}, "prompts.limit: .*greater than or equal to 1; found 0"),
        ({"prompts": {"held_out_share": 1.0}}, "prompts.held_out_share: .*less than 1"),
        ({"prompts": {"limit": "60"}}, "prompts.limit: .*integer; found '60'"),
        ({"prompts": {"files": "a.jsonl"}}, "prompts.files: .*found 'a.jsonl'"),
        ({"prompts": {"sources": [{}]}}, r"prompts.sources\[0\]: give either 'hub'"),
        (
            {"prompts": {"sources": [{"hub": "a/b", "files": ["c"]}]}},
            r"prompts.sources\[0\]: give either 'hub'",
        ),
        (
            {"prompts": {"sources": [{"files": ["c"], "split": "train"}]}},
            "'split' belongs to a source with 'hub'",
        ),
        ({"prompts": {"sources": [{"hub": "a/b", "format": "csv"}]}}, "'format' belongs to"),
        ({"prompts": {"sources": [{"hub": "a/b", "feld": "x"}]}}, "did you mean 'field'"),
        ({"prompts": {"use": "war"}}, "prompts.use: .*'research' or 'commercial'"),
        ({"prompts": {"near_duplicates": {"threshold": 0.1}}}, "near_duplicates.threshold"),
        ({"pairing": {"gamma": 40}}, "pairing: error weights must hold .*gamma=40"),
        (
            {"training": {"sft": {"batch_size": 8, "micro_batch_size": 3}}},
            "training.sft: batch_size 8 is no multiple of micro_batch_size 3",
        ),
        ({"training": {"dpo": {"beta": 0}}}, "training.dpo.beta: .*greater than 0"),
        ({"training": {"optimizer": "sgd"}}, "training.optimizer: .*'rmsprop'.*found 'sgd'"),
        ({"scoring": {"threshold": float("nan")}}, "scoring.threshold: "),
        ({"evaluation": {"systems": ["sfd"]}}, r"evaluation.systems\[0\]: .*found 'sfd'"),
    ],
)
def test_wrong_values_name_file_field_and_value(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^run\.yaml: .*{message}"):
        config(**groups)


def _training(**settings: object) -> TrainingGroup:
    stage = {"batch_size": 8, "micro_batch_size": 2}
    return config(training={"sft": stage, "dpo": stage, **settings}).training


def test_where_a_model_is_trained_is_no_part_of_what_it_is() -> None:
    job = {"nodes": 2, "processes_per_node": 2, "queue": "a100"}
    assert _training(backend="train_job", train_job=job).identity() == _training().identity()


@pytest.mark.parametrize(("settings", "said"), [
    ({"backend": "train_job", "train_job": {"nodes": 3}}, "no multiple of 6"),
    ({"backend": "train_job", "processes": 2}, "train_job.nodes"),
    ({"backend": "pods"}, "train_job"),
    ({"train_job": {"nodes": 0}}, "nodes"),
])  # fmt: skip
def test_a_train_job_that_cannot_be_is_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        _training(**settings)


PREVIOUS = f"gs://bucket/root/steps/evaluation/{'a' * 64}/manifest.json"
NEW = {"previous": PREVIOUS, "configs": ["b" * 64], "model": f"gs://bucket/m@sha256:{'c' * 64}"}


def test_an_increment_goes_on_from_the_promoted_model_unless_told_otherwise() -> None:
    found = config(increment=NEW).increment
    assert found is not None
    assert (found.start, found.responses, found.replay_share) == ("promoted", 1, 0.5)
    assert config(increment={**NEW, "start": "sft", "model": None}).increment is not None
    assert config().increment is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"previous": "gs://bucket/root/runs/7"}, "name the manifest"),
        ({"previous": PREVIOUS.replace("evaluation", "scoring")}, "name the manifest"),
        ({"configs": []}, "configs"),
        ({"configs": ["b" * 12]}, "64 hex digits"),
        ({"configs": ["b" * 64, "b" * 64]}, "once"),
        ({"model": None}, "promoted model with its digest"),
        ({"model": "gs://bucket/m"}, "promoted model with its digest"),
        ({"start": "sft"}, "leave model out"),
        ({"replay_share": 1.0}, "replay_share"),
        ({"prompts": 0}, "prompts"),
    ],
)
def test_a_wrong_increment_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(increment={**NEW, **change})
