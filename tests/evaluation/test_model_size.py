"""Counting a model's parameters without loading it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cosalign.evaluation.model_size import parameter_count, size_words
from cosalign.inference.models import ModelFolder, resolve_model


def test_all_tensors_of_all_files_are_counted(tmp_path: Path) -> None:
    first = {"a": np.zeros((3, 4), np.float16), "scalar": np.zeros((), np.float32)}
    save_file(first, tmp_path / "model-1.safetensors", metadata={"format": "pt"})
    save_file({"b": np.zeros(5, np.float32)}, tmp_path / "model-2.safetensors")
    assert parameter_count(ModelFolder("m", tmp_path, "d", "t")) == 12 + 1 + 5


def test_a_double_has_no_size(tmp_path: Path) -> None:
    assert parameter_count(resolve_model("double:base", tmp_path)) is None


@pytest.mark.parametrize(
    ("count", "words"),
    [(134_515_008, "135 million"), (1_711_376_384, "1.71 billion"), (640, "640")],
)
def test_sizes_are_said_as_people_say_them(count: int, words: str) -> None:
    assert size_words(count) == words
