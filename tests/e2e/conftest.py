"""Fixtures of the whole graph: a tiny real model, profiles that point at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.graph_world import PROFILE, Graph
from tests.e2e.mild_prompts import write_mild_prompts


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny random model, made on the fly."""
    from cosalign.inference.tiny_model import build_tiny_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_model(folder)
    return folder


@pytest.fixture
def graph_at(tmp_path: Path, tiny_model: Path) -> Callable[[str], Graph]:
    """Makes a graph for a storage root."""
    prompts = write_mild_prompts(tmp_path / "prompts.jsonl")
    configs = Path(__file__).parents[2] / "manifests" / "safety-configs"
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE.format(model=tiny_model, prompts=prompts, configs=configs))

    def make(root: str) -> Graph:
        return Graph(root, profile, tmp_path / root.rpartition("/")[2])

    return make
