from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from cosalign.domain.errors import ModelError
from cosalign.inference.hf_tokenizer import load_tokenizer
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.tiny_model import CONTROLS, LABELS, build_tiny_model


def test_a_seed_names_a_model(tiny: ModelFolder, tmp_path: Path) -> None:
    same = resolve_model(str(build_tiny_model(tmp_path / "same")), tmp_path)
    other = resolve_model(str(build_tiny_model(tmp_path / "other", seed=1)), tmp_path)
    assert same.digest == tiny.digest != other.digest
    assert other.tokenizer_digest == tiny.tokenizer_digest


def test_building_leaves_the_random_state_alone(tmp_path: Path) -> None:
    import torch

    before = torch.random.get_rng_state()
    build_tiny_model(tmp_path / "model")
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_finished_folder_is_left_alone(tmp_path: Path) -> None:
    out = build_tiny_model(tmp_path / "model")
    before = (out / "model.safetensors").stat()
    assert build_tiny_model(out, seed=7) == out
    assert (out / "model.safetensors").stat() == before
    assert list(tmp_path.iterdir()) == [out]


def test_another_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="no model folder"):
        build_tiny_model(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_impossible_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        build_tiny_model(tmp_path / "file" / "model")


def test_it_is_small_and_answers_vary(tiny: ModelFolder) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(tiny)
    model = AutoModelForCausalLM.from_pretrained(tiny.path, dtype=torch.float32)
    assert sum(weights.numel() for weights in model.parameters()) < 300_000
    yes, no, *_ = (tokenizer.encode_trusted(label)[0] for label in LABELS)
    odds, inside = [], []
    for index in range(40):
        chat = tokenizer.encode_chat([("user", f"Reply {index} tells the age of {index} swords.")])
        ids = (*chat, *tokenizer.encode_trusted("Answers: Y N"))
        with torch.no_grad():
            masses = torch.softmax(model(torch.tensor([ids])).logits[0, -1], -1)
        inside.append(float(masses[yes] + masses[no]))
        odds.append(float(masses[yes] / (masses[yes] + masses[no])))
    assert statistics.stdev(odds) > 0.1
    assert statistics.median(inside) > 0.02


def test_its_tokenizer_round_trips_and_has_labels(tiny: ModelFolder) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.path)
    text = "Grüße, 世界! Is beer allowed? \n\n Yes\t\U0001f37a"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    for token in (*LABELS, *CONTROLS):
        assert len(tokenizer.encode(token)) == 1
    assert tokenizer.eos_token == CONTROLS[2]
