"""Plans against published sizes, arithmetic done by hand, and a model counted weight by weight."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.errors import ConfigError, ModelError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.training.commands import plan
from cosalign.training.model_shape import ModelShape, read_model_shape
from cosalign.training.planner import DataLengths, hardware, plan_training, stage_memory

LLAMA_8B = ModelShape(4096, 14336, 32, 4096, 1024, 128_256, tied=False)
PAPER = TrainingGroup.model_validate(
    {
        "sft": {"batch_size": 32, "micro_batch_size": 4},
        "dpo": {"batch_size": 32, "micro_batch_size": 4},
    }
)
LENGTHS = DataLengths(78_800, 121_823, 180, 190)


def _config(folder: Path, **changes: object) -> Path:
    sizes = {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**sizes, **changes}), encoding="utf-8")
    return folder


def test_llama_3_1_8b_has_its_published_size(tmp_path: Path) -> None:
    shape = read_model_shape(_config(tmp_path))
    assert shape == LLAMA_8B
    assert shape.parameters == 8_030_261_248


def test_a_models_weights_are_counted_to_the_last(tiny: ModelFolder) -> None:
    from safetensors import safe_open

    with safe_open(str(tiny.path / "model.safetensors"), framework="numpy") as file:
        sizes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    stored = sum(math.prod(size) for size in sizes)
    assert read_model_shape(tiny.path).parameters == stored


def test_a_config_without_sizes_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="intermediate_size"):
        read_model_shape(_config(tmp_path, intermediate_size=None))


def test_forward_work_is_about_15_gflop_a_token_for_8b() -> None:
    assert LLAMA_8B.forward_flops(1, 1, 0) == pytest.approx(15.0e9, rel=0.01)
    # Attention: 2 (scores and values) * 2 * query * half the length, in each block.
    more = LLAMA_8B.forward_flops(1, 1, 640) - LLAMA_8B.forward_flops(1, 1, 0)
    assert more == 32 * 2 * 2 * 4096 * 320


def test_the_papers_dpo_epoch_takes_about_an_hour_at_the_limit() -> None:
    # 91 million plain tokens an epoch; all scored, no shared context, as the paper computes.
    rows = 122_000
    tokens = 91e6 / rows / 2
    lengths = DataLengths(1, rows, 1, tokens)
    made = plan_training(LLAMA_8B, PAPER, lengths, hardware("a100-80gb", 4), 1.0)
    dpo = next(stage for stage in made.stages if stage.name == "dpo")
    reference = next(stage for stage in made.stages if stage.name == "reference")
    assert dpo.hours == pytest.approx(0.92, rel=0.05)
    assert dpo.flops == pytest.approx(3 * reference.flops, rel=0.01)


def _group(**changes: object) -> TrainingGroup:
    return TrainingGroup.model_validate(changes)


def test_states_are_sharded_and_counted_by_optimizer() -> None:
    rmsprop = stage_memory(LLAMA_8B, _group(), 4, 1000, 300)
    adamw = stage_memory(LLAMA_8B, _group(optimizer="adamw_torch"), 4, 1000, 300)
    weights = LLAMA_8B.parameters
    assert rmsprop.states == pytest.approx(12 * weights / 4 / 1024**3)
    assert adamw.states - rmsprop.states == pytest.approx(4 * weights / 4 / 1024**3)
    assert stage_memory(LLAMA_8B, _group(), 8, 1000, 300).states == rmsprop.states / 2


def test_replicas_hold_all_states_and_the_gradients_that_they_exchange() -> None:
    one = stage_memory(LLAMA_8B, _group(), 1, 1000, 300)
    replica = stage_memory(LLAMA_8B, _group(sharding="none"), 4, 1000, 300)
    assert replica.states == pytest.approx(one.states * 16 / 12)
    group = PAPER.model_copy(update={"sharding": "none"})
    with pytest.raises(ConfigError, match=r"set training\.sharding to full"):
        plan_training(LLAMA_8B, group, LENGTHS, hardware("a100-80gb", 4), 0.4)


def test_adapters_of_8b_fit_one_gpu() -> None:
    """Frozen weights take 4 bytes each, and 84 million of the adapters 16."""
    group = _group(recipe="lora", layout="1-gpu")
    made = plan_training(LLAMA_8B, group, LENGTHS, hardware("a100-80gb", 1), 0.4)
    assert LLAMA_8B.adapter_parameters(32) == 83_886_080
    assert made.memory.states == pytest.approx((4 * 8.030e9 + 16 * 83.886e6) / 1024**3, rel=1e-3)
    full = _group(recipe="adamw", layout="1-gpu")
    with pytest.raises(ConfigError, match="more than 1 GPUs"):
        plan_training(LLAMA_8B, full, LENGTHS, hardware("a100-80gb", 1), 0.4)


@pytest.mark.parametrize(
    ("gpus", "changes", "advice"),
    [
        (1, {}, "more than 1 GPUs"),
        (4, {"micro_batch_size": 64, "batch_size": 64}, "training.dpo.micro_batch_size"),
        (4, {"micro_batch_size": 1, "max_length": 200_000}, "training.dpo.max_length"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_setting_to_change(
    gpus: int, changes: dict[str, int], advice: str
) -> None:
    settings = {"batch_size": 32, "max_length": 2000, **changes}
    group = TrainingGroup.model_validate({"sft": settings, "dpo": settings})
    with pytest.raises(ConfigError, match="do not fit") as refusal:
        plan_training(LLAMA_8B, group, LENGTHS, hardware("a100-80gb", gpus), 0.4)
    assert advice in str(refusal.value)


@given(gpus=st.integers(4, 64), mfu=st.floats(0.05, 1), rows=st.integers(1, 10**6))
def test_hours_scale_as_they_should(gpus: int, mfu: float, rows: int) -> None:
    lengths = DataLengths(rows, rows, 100, 50)
    made = plan_training(LLAMA_8B, PAPER, lengths, hardware("a100-80gb", gpus), mfu, 2.0)
    double = plan_training(LLAMA_8B, PAPER, lengths, hardware("a100-80gb", 2 * gpus), mfu, 2.0)
    assert double.hours == pytest.approx(made.hours / 2)
    assert double.price == pytest.approx(made.price)
    assert made.gpu_hours == pytest.approx(made.hours * gpus)
    for stage in made.stages:
        if stage.name != "reference":
            assert (stage.steps - 1) * 32 < rows <= stage.steps * 32


def test_a_limit_on_steps_limits_the_work() -> None:
    limited = {"batch_size": 32, "micro_batch_size": 4, "max_steps": 10}
    group = TrainingGroup.model_validate({"sft": limited, "dpo": limited})
    made = plan_training(LLAMA_8B, group, LENGTHS, hardware("a100-80gb", 4), 0.4)
    assert [stage.steps for stage in made.stages] == [10, 0, 10]
    assert made.stages[0].tokens == 10 * 32 * (180 + 190)


def test_the_command_prints_a_plan_and_refuses_unknown_gpus(tmp_path: Path) -> None:
    model = str(_config(tmp_path / "model"))
    done = CliRunner().invoke(plan, ["training", "--model", model, "--price", "2", "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.output)
    assert made["price"] == pytest.approx(2 * made["gpu_hours"])
    table = CliRunner().invoke(plan, ["training", "--model", model])
    assert "GiB a GPU" in table.output
    assert "GPU hours" in table.output
    refused = CliRunner().invoke(plan, ["training", "--model", model, "--gpu", "a100-80g"])
    assert isinstance(refused.exception, ConfigError)
    assert "a100-80gb" in str(refused.exception)
