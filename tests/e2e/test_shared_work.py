"""The compiled graphs with their work spread over shares, on the engine double.

However many shares there are, tables are byte-identical and nothing is paid for twice: a share
writes to the ledgers, and tables are a function of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.in_process import InProcess
from tests.e2e.mild_prompts import write_mild_prompts

from cosalign.domain.schemas import RESPONSE_LEDGER, VERDICT_LEDGER
from cosalign.pipelines.failures import TaskFailed
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.local_run import LocalRun, TaskReport
from cosalign.retraining.shipped_pipelines import compiled_path
from cosalign.runtime.run_config import dump_run_config, load_run_config, run_config_digest
from cosalign.runtime.step import StepManifest, parse_manifest, read_manifest
from cosalign.store.ledger import Ledger
from cosalign.store.storage import Storage, open_storage

CONFIGS = Path(__file__).parents[2] / "manifests/safety-configs"
PROFILE: dict[str, Any] = {
    "models": {
        "base": "double:base",
        "judge": "double:judge",
        "engine": {"kind": "double", "max_model_len": 20_000, "flush_rows": 4},
    },
    "prompts": {"max_tokens": 200, "min_tokens": 1, "held_out_share": 0.3},
    "configs": {"files": [str(CONFIGS)]},
    "synthesis": {
        "generators": [{"name": "tiny", "plain": 1, "superset": 2, "not_superset": 1}],
        "regional_share": 0.2,
        "regional_freeform_share": 0.2,
    },
    "evaluation": {"prompts_per_config": 4, "bootstrap": 100},
}


@dataclass
class World:
    """A storage root of its own, and runs of the compiled graphs over it."""

    root: Path
    launcher: InProcess = field(default_factory=InProcess)

    def run(self, shards: int, graph: str = "cosalign", **more: Any) -> list[TaskReport]:
        self.root.mkdir(exist_ok=True)
        prompts = write_mild_prompts(self.root.parent / "prompts.jsonl")
        profile = self.root / "profile.yaml"
        profile.write_text(json.dumps(PROFILE))
        overrides = [f"storage.root={self.root}/out", f"storage.cache={self.root}/cache",
                     f"prompts.files=[{prompts}]"]  # fmt: skip
        config = load_run_config(str(profile), overrides)
        (self.root / "config.yaml").write_text(dump_run_config(config))
        given = {
            "run_config_uri": str(self.root / "config.yaml"),
            "run_config_digest": run_config_digest(config),
            "shards": shards,
            **more,
        }
        reports: list[TaskReport] = []
        pipeline = parse_pipeline(compiled_path(graph).read_bytes(), graph)
        folder = self.root / f"artifacts-{graph}-{shards}"
        LocalRun(pipeline, f"r{shards}", folder, self.launcher, reports.append).execute(given)
        return reports

    @property
    def storage(self) -> Storage:
        return open_storage(str(self.root / "out"))

    def manifests(self) -> dict[str, StepManifest]:
        found = {}
        for stat in self.storage.list("steps"):
            if stat.path.endswith("/manifest.json"):
                manifest = parse_manifest(self.storage.read_bytes(stat.path), stat.path)
                found[manifest.step] = manifest
        return found

    def ledgers(self) -> Mapping[str, tuple[int, int]]:
        """Rows and keys by ledger."""
        schemas = {"responses": RESPONSE_LEDGER, "verdicts": VERDICT_LEDGER}
        stats = {name: Ledger(self.storage, name, s).stats() for name, s in schemas.items()}
        return {name: (one.rows, one.keys) for name, one in stats.items()}


def tables(world: World) -> dict[str, str]:
    return {
        f"{step}/{name}": ref.sha256
        for step, manifest in world.manifests().items()
        for name, ref in manifest.tables.items()
    }


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, World]:
    """The method unspread, and spread over three shares; each over a storage of its own."""
    folder = tmp_path_factory.mktemp("shares")
    made = {shards: World(folder / f"w{shards}") for shards in (0, 3)}
    for shards, world in made.items():
        world.run(shards)
    return made


def test_shares_give_the_same_tables_to_the_byte(worlds: dict[int, World]) -> None:
    expected, found = tables(worlds[0]), tables(worlds[3])
    assert len(expected) > 10
    assert found == expected


def test_nothing_is_paid_for_twice(worlds: dict[int, World]) -> None:
    assert worlds[3].ledgers() == worlds[0].ledgers()
    assert all(rows == keys > 0 for rows, keys in worlds[3].ledgers().values())


def test_each_share_pays_for_a_part_and_the_step_behind_it_for_nothing(
    worlds: dict[int, World],
) -> None:
    launched = worlds[3].launcher.tasks
    assert [task for task in launched if task.startswith("generation")] == [
        "generation-0", "generation-1", "generation-2",
    ]  # fmt: skip
    made = {step: manifest.counts for step, manifest in worlds[3].manifests().items()}
    assert made["synthesis"]["responses_made"] == made["synthesis"]["labels_made"] == 0
    assert made["synthesis"]["engine_starts"] == 0
    assert made["scoring"]["verdicts_made"] == made["scoring"]["engine_starts"] == 0
    assert made["evaluation"]["answers_made"] == made["evaluation"]["engine_starts"] == 0
    whole = {step: manifest.counts for step, manifest in worlds[0].manifests().items()}
    assert whole["synthesis"]["responses_made"] > 0 < whole["scoring"]["verdicts_made"]


def test_another_number_of_shares_finds_all_done(worlds: dict[int, World]) -> None:
    before = worlds[3].ledgers()
    reports = worlds[3].run(2)
    assert len(reports) == 6 + 3 * 2
    assert all(report.reused for report in reports)
    assert worlds[3].ledgers() == before


def test_any_model_is_evaluated_under_all_regions(worlds: dict[int, World]) -> None:
    world = worlds[3]
    (*_, last) = world.run(2, "evaluate", model_uri="double:elsewhere")
    assert last.outputs is not None
    manifest = read_manifest(Path(last.outputs.artifacts["evaluation"].path))
    scores = json.loads(world.storage.read_bytes(manifest.files["scores"]))
    assert scores["models"]["dpo"]["uri"] == "double:elsewhere"
    # The labels were judged by the runs before, under the same judge.
    assert world.manifests()["prompts"].counts["labels_made"] == 0
    outcome = json.loads(world.storage.read_bytes("runs/r2/outcome.json"))
    assert outcome["state"] == "SUCCEEDED"


def test_an_evaluation_without_a_model_is_the_users_fault(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TaskFailed) as failure:
        World(tmp_path / "w").run(1, "evaluate", model_uri="")
    assert failure.value.exit_code == 2
    assert "name the model to evaluate" in capfd.readouterr().err
