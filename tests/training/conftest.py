"""The tiny model, built once a test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A Llama of a hundred thousand weights with its own tokenizer."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    return resolve_model(str(build_tiny_model(folder / "model")), folder / "cache")
