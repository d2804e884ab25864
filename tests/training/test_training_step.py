"""The step as the graph runs it: real training of the tiny model, reuse, and refusals."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.training.training_world import manifests, run_config, sources

from cosalign.inference.model_manifest import ModelRef, read_model_manifest, verify_model
from cosalign.inference.models import ModelFolder
from cosalign.runtime.run_config import dump_run_config
from cosalign.runtime.step import StepManifest, run_step
from cosalign.store.storage import open_storage
from cosalign.training.step import TrainingStep


@pytest.mark.training
def test_trains_both_stages_and_reports(tiny: ModelFolder, tmp_path: Path) -> None:
    config = run_config(tmp_path, str(tiny.path))
    manifest, reused = run_step(TrainingStep(), config, manifests(config, sources()))
    assert not reused
    assert manifest.counts["sft_rows"] == 16
    assert manifest.counts["dpo_rows"] == manifest.tables["dpo_records"].rows == 96
    assert (manifest.counts["sft_steps"], manifest.counts["dpo_steps"]) == (4, 6)
    assert manifest.metrics["first_dpo_loss"] == pytest.approx(math.log(2), abs=1e-5)
    last = manifest.metrics["dpo_last_loss"]
    assert last is not None
    assert last < math.log(2)
    curve = json.loads(open_storage(config.storage.root).read_bytes(manifest.files["curve"]))
    assert [entry["step"] for entry in curve["dpo"]] == [1, 2, 3, 4, 5, 6]
    _check_release(config.storage.root, manifest, tiny)


def _check_release(root: str, manifest: StepManifest, base: ModelFolder) -> None:
    """The model's folder is verified, tells what happened, and holds no text of prompts."""
    folder = open_storage(manifest.models["dpo"])
    released = read_model_manifest(folder)
    verify_model(folder, released)
    assert manifest.models["dpo"].endswith(released.digest)
    assert released.base == ModelRef(uri=str(base.path), digest=base.digest)
    assert manifest.models["sft"].endswith(released.reference)
    assert released.template_argument == "safety_config"
    assert released.tables["dpo_records"].sha256 == manifest.tables["dpo_records"].sha256
    assert [(p.kind, p.pairs, p.renderings) for p in released.configs] == [("categorical", 96, 2)]
    assert [(s.name, s.licence, s.prompts) for s in released.sources] == [("test", None, 8)]
    dpo = released.stages["dpo"]
    assert (dpo.start, dpo.model) == (released.reference, released.digest)
    assert dpo.first["loss"] == manifest.metrics["first_dpo_loss"]
    assert dpo.last["loss"] == manifest.metrics["dpo_last_loss"]
    storage = open_storage(root)
    for name, file in (("model_card", "README.md"), ("model_manifest", "model-manifest.json")):
        data = storage.read_bytes(manifest.files[name])
        assert data == folder.read_bytes(file)
        world = sources()
        texts = [*world.prompts["text"].to_pylist(), *world.configs["text"].to_pylist()]
        assert not [text for text in texts if text in data.decode()]


@pytest.mark.training
def test_a_changed_dpo_setting_does_not_train_sft_anew(tiny: ModelFolder, tmp_path: Path) -> None:
    first = run_config(tmp_path, str(tiny.path))
    inputs = manifests(first, sources())
    before, _ = run_step(TrainingStep(), first, inputs)
    trained = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/training/sft").rglob("*.json")}
    dpo = first.training.dpo.model_copy(update={"beta": 0.5})
    training = first.training.model_copy(update={"dpo": dpo})
    after, reused = run_step(
        TrainingStep(), first.model_copy(update={"training": training}), inputs
    )
    assert not reused
    assert after.models["sft"] == before.models["sft"]
    assert after.models["dpo"] != before.models["dpo"]
    assert trained == {p: p.stat().st_mtime_ns for p in trained}
    assert run_step(TrainingStep(), first, inputs) == (before, True)


def test_a_double_is_trained_without_torch(tmp_path: Path) -> None:
    """In a process of its own, since other tests have imported torch here."""
    config = run_config(tmp_path, "double:base")
    inputs = manifests(config, sources())
    manifest, _ = run_step(TrainingStep(), config, inputs)
    assert manifest.models["sft"].startswith("double:")
    assert len({"double:base", *manifest.models.values()}) == 3
    assert manifest.counts["dpo_rows"] == 96
    other, _ = run_step(TrainingStep(), config, manifests(config, sources(topics=3)))
    assert other.models["dpo"] != manifest.models["dpo"]
    script = (
        "import sys; from pathlib import Path;"
        "from training_world import *; from cosalign.runtime.step import run_step;"
        "from cosalign.training.step import TrainingStep;"
        f"config = run_config(Path({str(tmp_path / 'own')!r}), 'double:base');"
        "run_step(TrainingStep(), config, manifests(config, sources()));"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)


def test_the_container_entry_refuses_no_pairs_in_one_message(tmp_path: Path) -> None:
    config = run_config(tmp_path, "double:base")
    world = sources()
    inputs = manifests(config, replace(world, pairs=world.pairs.slice(0, 0)))
    (tmp_path / "run.yaml").write_text(dump_run_config(config), encoding="utf-8")
    arguments = ["--run-config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "m.json")]
    for name, manifest in inputs.items():
        (tmp_path / f"{name}.json").write_text(manifest.model_dump_json(), encoding="utf-8")
        arguments += [f"--{name}", str(tmp_path / f"{name}.json")]
    command = [sys.executable, "-m", "cosalign.training", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there are no pairs to train on" in done.stderr
    assert "Traceback" not in done.stderr
