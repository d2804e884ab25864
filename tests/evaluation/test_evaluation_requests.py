"""What engines are asked: one start a model for all configs, and one more region's share only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.evaluation.evaluation_world import inputs, run_config, write_region

from cosalign.domain.run_config import EngineGroup
from cosalign.evaluation.step import EvaluationStep
from cosalign.inference import engine_host
from cosalign.inference.double import DoubleEngine
from cosalign.inference.models import ModelFolder
from cosalign.inference.open_engine import open_engine
from cosalign.runtime.step import run_step

SYSTEMS = ("base", "ica", "cascade_oracle", "sft")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, DoubleEngine]]:
    """Every engine that was started, by its model's address, in order."""
    engines: list[tuple[str, DoubleEngine]] = []

    def opening(model: ModelFolder, settings: EngineGroup) -> DoubleEngine:
        engine = open_engine(model, settings)
        assert isinstance(engine, DoubleEngine)
        engines.append((model.uri, engine))
        return engine

    monkeypatch.setattr(engine_host, "open_engine", opening)
    return engines


def asked(opened: list[tuple[str, DoubleEngine]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for uri, engine in opened:
        found[uri] += engine.requests
    opened.clear()
    return found


def test_one_more_region_asks_for_its_own_answers_and_judgements(
    tmp_path: Path, opened: list[tuple[str, DoubleEngine]]
) -> None:
    # All 20 held-out prompts under each config, so that regions have prompts in common.
    config = run_config(tmp_path, systems=SYSTEMS, prompts_per_config=50)
    for number, risk in enumerate(("financial_crime_theft", "violence", "privacy_violations")):
        write_region(tmp_path / "regions", f"region-{number}", [risk])
    run_step(EvaluationStep(), config, inputs(config))
    assert [uri for uri, _ in opened] == ["double:base", "double:sft", "double:judge"]
    # 20 base answers serve all configs; the cascade asks what ica asked.
    assert asked(opened) == {"double:base": 20 + 60, "double:sft": 60, "double:judge": 140}
    write_region(tmp_path / "regions", "region-3", ["weapons_explosives_arson"])
    run_step(EvaluationStep(), config, inputs(config))
    assert asked(opened) == {"double:base": 20, "double:sft": 20, "double:judge": 40}
    # A further region that demands what another does asks for nothing, and starts nothing.
    write_region(tmp_path / "regions", "region-4", ["violence"])
    run_step(EvaluationStep(), config, inputs(config))
    assert opened == []
