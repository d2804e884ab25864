"""From a run's last manifest to all of its results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pytest

from cosalign.domain.errors import ConfigError, DataError
from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import RunConfig
from cosalign.runtime.lineage import LINEAGE_FILE, read_lineage
from cosalign.runtime.run_config import load_run_config
from cosalign.runtime.run_record import RunRecord, read_run_record
from cosalign.runtime.step import ManifestDraft, StepContext, StepManifest, run_step
from cosalign.store.storage import Storage
from cosalign.store.tables import write_table

SCHEMA = pa.schema([pa.field("glass", pa.int64(), nullable=False)])
GRAPH = {
    "synthesis": (),
    "scoring": ("synthesis",),
    "pairing": ("synthesis", "scoring"),
    "training": ("synthesis", "pairing"),
    "evaluation": ("synthesis", "training"),
}


@dataclass
class Pouring:
    """A step that writes one table, and reads those of the steps before it."""

    name: str
    inputs: Mapping[str, tuple[str, ...]]

    def identity(self, context: StepContext) -> Json:
        return {"limit": context.config.prompts.limit, "who": self.name}

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        table = pa.table({"glass": [context.config.prompts.limit]})
        path = f"{context.folder}/glasses.parquet"
        draft.tables["glasses"] = write_table(context.storage, path, table, SCHEMA)


@pytest.fixture
def config(storage: Storage) -> RunConfig:
    return load_run_config("small", [f"storage.root={storage.uri}", "prompts.limit=3"])


def poured(config: RunConfig) -> dict[str, StepManifest]:
    done: dict[str, StepManifest] = {}
    for name, before in GRAPH.items():
        step = Pouring(name, dict.fromkeys(before, ("glasses",)))
        done[name], _ = run_step(step, config, {n: done[n] for n in before})
    return done


def record(storage: Storage, manifest: StepManifest) -> RunRecord:
    return read_run_record(storage, storage.uri_of(f"{manifest.folder}/manifest.json"))


@pytest.mark.parametrize("last", ["training", "evaluation"])
def test_the_last_manifest_leads_to_all_others(
    last: str, config: RunConfig, storage: Storage
) -> None:
    done = poured(config)
    found = record(storage, done[last])
    steps = list(GRAPH)[: list(GRAPH).index(last) + 1]
    assert dict(found.manifests) == {name: done[name] for name in steps}
    assert found.lineages["scoring"].of_step("limit") == 3
    assert found.lineages["scoring"].of_step("who", "nothing") is None
    assert found.table_digests("pairing") == {"glasses": done["pairing"].tables["glasses"].sha256}


def test_a_step_that_finds_its_result_writes_the_lineage_that_it_lacks(
    config: RunConfig, storage: Storage
) -> None:
    done = poured(config)
    path = f"{done['pairing'].folder}/{LINEAGE_FILE}"
    written = storage.read_bytes(path)
    storage.delete(path)
    with pytest.raises(ConfigError, match="start that run again"):
        record(storage, done["evaluation"])
    assert poured(config) == done
    assert storage.read_bytes(path) == written
    assert len(record(storage, done["evaluation"]).manifests) == 5


def test_an_altered_lineage_is_noticed(config: RunConfig, storage: Storage) -> None:
    done = poured(config)
    path = f"{done['scoring'].folder}/{LINEAGE_FILE}"
    document = json.loads(storage.read_bytes(path))
    document["identity"]["identity"]["limit"] = 4
    storage.write_bytes(path, json.dumps(document).encode())
    with pytest.raises(DataError, match="altered"):
        record(storage, done["evaluation"])
    storage.write_bytes(path, b'{"identity": ')
    with pytest.raises(DataError, match="torn"):
        read_lineage(storage, done["scoring"].folder)


def test_a_link_to_another_result_is_noticed(config: RunConfig, storage: Storage) -> None:
    done = poured(config)
    other = poured(load_run_config("small", [f"storage.root={storage.uri}", "prompts.limit=4"]))
    path = f"{done['training'].folder}/{LINEAGE_FILE}"
    document = json.loads(storage.read_bytes(path))
    document["made_from"]["pairing"] = other["pairing"].folder
    storage.write_bytes(path, json.dumps(document).encode())
    with pytest.raises(DataError, match="altered"):
        record(storage, done["training"])


def test_a_lost_result_is_named(config: RunConfig, storage: Storage) -> None:
    done = poured(config)
    storage.delete(f"{done['scoring'].folder}/manifest.json")
    with pytest.raises(DataError, match=r"scoring.*is gone"):
        record(storage, done["evaluation"])


def test_what_is_no_run_to_extend_is_refused(config: RunConfig, storage: Storage) -> None:
    done = poured(config)
    with pytest.raises(ConfigError, match="no run that trained"):
        record(storage, done["scoring"])
    missing = storage.uri_of(f"steps/evaluation/{'0' * 64}/manifest.json")
    with pytest.raises(ConfigError, match="no such manifest"):
        read_run_record(storage, missing)
    with pytest.raises(ConfigError, match="not below"):
        read_run_record(storage, f"gs://elsewhere/{done['evaluation'].folder}/manifest.json")
