"""Adapters are trained, merged, stored as a whole model, and survive an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.training.stage_process import stage_of
from tests.training.training_world import TRAINING

from cosalign.domain.errors import CosalignError
from cosalign.domain.run_config import TrainingGroup
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import open_storage
from cosalign.training.checkpoints import COMPLETE
from cosalign.training.stage import Stage, run_stage

pytestmark = pytest.mark.training

FATAL = 8  # in step 4; checkpoints are made after steps 2 and 4


class Interruption:
    """A row observer that raises at a micro batch."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def __call__(self, _rows: list[int]) -> None:
        self._left -= 1
        if not self._left:
            raise InterruptedError


def lora_stage(model: Path, root: Path, name: str, observer: object = None) -> Stage:
    group = TrainingGroup.model_validate({**TRAINING, "lora": {"rank": 4, "alpha": 8}})
    return replace(stage_of(model, root, name, observer), group=group)


def tensors(stage: Stage) -> dict[str, Any]:
    from safetensors.torch import load

    storage = stage.storage
    model = run_stage(stage).model
    return dict(load(storage.read_bytes(f"{model}/model.safetensors")))


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_adapters_are_merged_into_a_whole_model(
    name: str, tiny: ModelFolder, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    calm = tensors(lora_stage(tiny.path, tmp_path / "calm", name))
    before = load_file(tiny.path / "model.safetensors")
    assert calm.keys() == before.keys()
    moved = {k for k in before if not torch.equal(before[k].float(), calm[k].float())}
    assert moved
    # Blocks' linear layers are adapted; embeddings, norms and the output layer stay as they are.
    assert all(".layers." in k and k.endswith("_proj.weight") for k in moved)

    with pytest.raises(InterruptedError):
        run_stage(lora_stage(tiny.path, tmp_path / "rough", name, Interruption(FATAL)))
    assert open_storage(str(tmp_path / "rough" / "out")).list(f"training/{name}")
    seen: list[list[int]] = []
    resumed = tensors(lora_stage(tiny.path, tmp_path / "rough", name, seen.append))
    assert seen
    for key in before:
        torch.testing.assert_close(resumed[key].float(), calm[key].float(), atol=1e-6, rtol=0)


def test_a_checkpoint_without_weights_never_counts(
    tiny: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As libraries that find no adapters under the names they expect write it."""
    from safetensors.torch import save_file

    def save_none(_trainer: object, output_dir: str, **_: object) -> None:
        Path(output_dir).mkdir(parents=True)
        save_file({}, f"{output_dir}/adapter_model.safetensors")

    monkeypatch.setattr("transformers.Trainer.save_model", save_none)
    with pytest.raises(CosalignError, match=r"checkpoint-2 holds 0 of \d+ trained weights"):
        run_stage(lora_stage(tiny.path, tmp_path, "sft"))
    assert not list((tmp_path / "out").rglob(COMPLETE))
