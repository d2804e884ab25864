"""Full runs and increments of the compiled graph, on engine doubles that remember what was asked.

Each world has a storage root and a folder of safety configs. A full run promotes its model; an
increment extends what is promoted, as whoever reconciles would write it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.e2e.in_process import InProcess
from tests.e2e.mild_prompts import write_mild_prompts
from tests.synthesis.scripted_engine import text_of

from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import EngineGroup
from cosalign.domain.safety_config import parse_safety_config
from cosalign.domain.taxonomy import parse_taxonomy
from cosalign.inference.double import DoubleEngine
from cosalign.inference.engine import Generation, GenerationRequest, Labelling, LabelRequest
from cosalign.inference.models import ModelFolder
from cosalign.pipelines.ir_parsing import parse_pipeline
from cosalign.pipelines.launchers import Launch
from cosalign.pipelines.local_run import LocalRun, TaskReport
from cosalign.retraining.shipped_pipelines import compiled_path
from cosalign.runtime.run_config import dump_run_config, load_run_config, run_config_digest
from cosalign.runtime.run_record import RunRecord, read_run_record
from cosalign.runtime.step import StepManifest
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import read_table

TAXONOMY = """
kind: RiskTaxonomy
name: fair
version: "1"
categories:
  - {name: alcohol, title: Alcohol, definition: "Beer and wine."}
  - {name: gambling, title: Gambling, definition: "Lotteries and odds."}
  - {name: music, title: Music, definition: "Loud music."}
  - {name: other, title: Other, definition: "All else that a host would not want."}
"""
"""Few categories: the double's labels are drawn, and of many some would always be forbidden."""

REGIONS: dict[str, Any] = {
    "school-no": [],
    "casino-mc": ["gambling"],
    "club-de": ["alcohol", "music"],
}
NEW: dict[str, Any] = {"pub-ie": ["alcohol"]}
LATER: dict[str, Any] = {"hall-at": ["music"]}
PROSE = "Answer about fairs and markets freely, and leave all talk of weather to the guests."
LENIENT = {
    "promote": True, "min_items": 1, "score_drop": 2, "unsafe_share": None, "coverage": None,
    "canaries": None,
}  # fmt: skip
PROFILE: dict[str, Any] = {
    "taxonomy": {"name": "fair", "version": "1"},
    "models": {
        "base": "double:base",
        "judge": "double:judge",
        "engine": {"kind": "double", "max_model_len": 20_000, "flush_rows": 4},
    },
    "prompts": {"max_tokens": 200, "min_tokens": 1, "held_out_share": 0.3},
    "synthesis": {
        "generators": [{"name": "tiny", "plain": 1, "superset": 2, "not_superset": 1}],
        "regional_share": 0.2,
        "regional_freeform_share": 0.2,
    },
    "evaluation": {"prompts_per_config": 4, "bootstrap": 100},
    "gate": LENIENT,
}


@dataclass
class Meter:
    """What engines were asked, by task; where set, the task dies after ``fails_after`` answers."""

    task: str = ""
    generated: dict[str, list[str]] = field(default_factory=dict)
    labelled: dict[str, list[str]] = field(default_factory=dict)
    fails_after: int | None = None

    def open(self, model: ModelFolder, settings: EngineGroup) -> MeteredEngine:
        """In place of ``open_engine``."""
        return MeteredEngine(self, model, settings.max_model_len)

    def note(self, kind: dict[str, list[str]], text: str) -> None:
        if self.fails_after is not None:
            if self.fails_after == 0:
                raise RuntimeError("killed")
            self.fails_after -= 1
        kind.setdefault(self.task, []).append(text)

    def clear(self) -> None:
        self.generated.clear()
        self.labelled.clear()
        self.fails_after = None

    def total(self, task: str) -> int:
        """Requests of the tasks whose names begin so."""
        kinds = (self.generated, self.labelled)
        return sum(len(v) for kind in kinds for k, v in kind.items() if k.startswith(task))


class MeteredEngine(DoubleEngine):
    """The double, under a meter."""

    def __init__(self, meter: Meter, model: ModelFolder, max_model_len: int) -> None:
        super().__init__(model.digest, max_model_len)
        self._meter = meter

    def generate(self, requests: Iterable[GenerationRequest]) -> Iterator[Generation]:
        for request in requests:
            self._meter.note(self._meter.generated, text_of(request.token_ids))
            yield from super().generate([request])

    def label(self, requests: Iterable[LabelRequest]) -> Iterator[Labelling]:
        for request in requests:
            self._meter.note(self._meter.labelled, text_of(request.token_ids))
            yield from super().label([request])


@dataclass
class MeteredTasks(InProcess):
    """Tells the meter which task runs."""

    meter: Meter = field(default_factory=Meter)
    tasks: list[str] = field(default_factory=list)

    def launch(self, launch: Launch) -> int:
        self.meter.task = launch.task
        return super().launch(launch)


def digest_of(text: str) -> str:
    """The digest of a safety config's file."""
    known = {"fair 1": parse_taxonomy(TAXONOMY, "taxonomy")}
    return parse_safety_config(text, "config", known).digest


@dataclass
class World:
    """A storage root, safety configs, and runs."""

    root: Path
    meter: Meter
    profile: dict[str, Any] = field(default_factory=lambda: PROFILE)

    def made(self) -> World:
        """After its full run."""
        (self.root / "configs").mkdir(parents=True)
        self.write(REGIONS)
        self.run()
        shutil.copytree(self.root, self.kept)
        return self.restored()

    def restored(self) -> World:
        """As it was after its full run; addresses in it are absolute, so it lies where it lay."""
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root)
        self.meter.clear()
        return self

    @property
    def kept(self) -> Path:
        return self.root.with_name("kept")

    def write(self, configs: dict[str, Any], **spec: object) -> list[str]:
        """Writes safety configs, allowed risks or a policy by name; gives their digests."""
        digests = []
        for name, demand in configs.items():
            kind = "text" if isinstance(demand, str) else "allowedRisks"
            document = {
                "apiVersion": "cosalign.dev/v1alpha1",
                "kind": "SafetyConfig",
                "metadata": {"name": name},
                "spec": {
                    "taxonomy": {"name": "fair", "version": "1"},
                    "region": name.rpartition("-")[2],
                    "owner": "Safety",
                    "basis": ["A guideline"],
                    kind: demand,
                    **spec,
                },
            }
            text = yaml.safe_dump(document)
            (self.root / "configs" / f"{name}.yaml").write_text(text)
            digests.append(digest_of(text))
        return digests

    def remove(self, name: str) -> None:
        (self.root / "configs" / f"{name}.yaml").unlink()

    @property
    def storage(self) -> Storage:
        return open_storage(str(self.root / "out"))

    def run(self, *overrides: str, shards: int = 0, **groups: Any) -> list[TaskReport]:
        """Runs the graph; raises what a failed task raises."""
        prompts = write_mild_prompts(self.root / "prompts.jsonl")
        (self.root / "taxonomy.yaml").write_text(TAXONOMY)
        file = self.root / "profile.yaml"
        file.write_text(json.dumps({**self.profile, **groups}))
        own = {
            "storage.root": f"{self.root}/out",
            "storage.cache": f"{self.root}/cache",
            "taxonomy.files": f"[{self.root}/taxonomy.yaml]",
            "prompts.files": f"[{prompts}]",
            "configs.files": f"[{self.root}/configs]",
        }
        overrides = (*(f"{name}={value}" for name, value in own.items()), *overrides)
        config = load_run_config(str(file), overrides)
        (self.root / "config.yaml").write_text(dump_run_config(config))
        given: dict[str, Json] = {
            "run_config_uri": str(self.root / "config.yaml"),
            "run_config_digest": run_config_digest(config),
            "shards": shards,
        }
        reports: list[TaskReport] = []
        pipeline = parse_pipeline(compiled_path("cosalign").read_bytes(), "cosalign")
        tasks = MeteredTasks(meter=self.meter)
        folder = self.root / "artifacts"
        LocalRun(pipeline, "run", folder, tasks, reports.append).execute(given)
        return reports

    def increment(self, configs: list[str], **changes: Any) -> dict[str, Any]:
        """The run config's group that extends the run of the promoted model."""
        (*_, entry) = ModelPointer(self.storage, "main").history()
        assert entry.gate is not None
        return {
            "previous": entry.gate.uri.replace("gate.json", "manifest.json"),
            "configs": configs,
            "model": f"{entry.uri.partition('@')[0]}@sha256:{entry.digest}",
            "prompts": 12,
            **changes,
        }

    def record(self) -> RunRecord:
        """The record of the run that ended last, as ``outcome.json`` gives it."""
        outcome = json.loads(self.storage.read_bytes("runs/run/outcome.json"))
        return read_run_record(self.storage, outcome["record"])

    def rows(self, manifest: StepManifest, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = read_table(self.storage, manifest.tables[name]).to_pylist()
        return found

    def files(self) -> dict[str, bytes]:
        """Content of all results, but for what one attempt paid."""
        found = {}
        for stat in self.storage.list("steps"):
            if not stat.path.endswith("/manifest.json"):
                found[stat.path] = self.storage.read_bytes(stat.path)
        return found


def judged_anew(world: World, record: RunRecord, before: RunRecord) -> int:
    """New responses whose text nobody gave to the prompt before: a verdict is of the content."""
    old, new = (
        {(r["prompt_id"], r["text"]) for r in world.rows(run.manifests["synthesis"], "responses")}
        for run in (before, record)
    )
    return len(new - old)


def tables(record: RunRecord) -> dict[str, str]:
    """SHA-256 of all tables of a run."""
    return {
        f"{step}/{name}": sha256
        for step in record.manifests
        for name, sha256 in record.table_digests(step).items()
    }
