from __future__ import annotations

import os
from pathlib import Path

import pytest

from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.tiny_model import build_tiny_model

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return resolve_model(str(tiny_folder), tmp_path_factory.mktemp("cache"))
