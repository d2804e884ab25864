from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.world import Running, World, world

from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.inference.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    folder = build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    return resolve_model(str(folder), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def installation(tmp_path: Path, tiny: ModelFolder) -> Iterator[World]:
    """An installation of a test's own, to change at will."""
    with world(tmp_path / "installation", tiny) as made:
        yield made


@pytest.fixture(scope="session")
def shared(tiny: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A running gateway that tests only ask."""
    with world(tmp_path_factory.mktemp("shared"), tiny) as made, made.gateway() as found:
        yield found
