"""The bill of a run: what was metered, its price then, and parts of regions that add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosalign.domain.errors import DataError
from cosalign.domain.run_config import RunConfig
from cosalign.domain.schemas import CONFIGS, EVALUATED_CONFIGS, EVALUATION, PAIRS
from cosalign.pipelines.command_line import main
from cosalign.retraining.costs import Cost, run_costs, total
from cosalign.runtime import usage as usage_module
from cosalign.runtime.lineage import Lineage, settle_lineage
from cosalign.runtime.result_notes import note_result
from cosalign.runtime.step import StepManifest
from cosalign.runtime.usage import Usage, metered, read_usage
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import TableRef, write_table

RUN = "a" * 64


def note(storage: Storage, step: str, seconds: float | None, gpus: int = 0, **more: Any) -> None:
    plain = {"gpu_hour": 4.0, "core_hour": 0.1, "currency": "EUR", "cores": 8, **more}
    usage = Usage(
        step=step, began="2026-06-01T00:00:00+00:00", seconds=seconds, gpus=gpus,
        well=None if seconds is None else True, **plain,
    )  # fmt: skip
    count = len(storage.list("usage"))
    path = f"usage/{RUN}/{count}.json"
    storage.write_bytes(path, json.dumps(usage.model_dump(mode="json")).encode())


def filled(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    def zero(field: pa.Field) -> Any:
        if field.nullable:
            return None
        return [] if pa.types.is_list(field.type) else "" if field.type == pa.string() else 0

    blank = {field.name: zero(field) for field in schema}
    return pa.Table.from_pylist([{**blank, **row} for row in rows], schema=schema)


def finish(
    storage: Storage, step: str, made_from: dict[str, str], **tables: tuple[pa.Schema, list[Any]]
) -> str:
    """A finished step's manifest and lineage; gives its folder."""
    lineage = Lineage({"step": step, "inputs": {}, "identity": {}}, made_from)
    folder = f"steps/{step}/{lineage.fingerprint}"
    refs: dict[str, TableRef] = {}
    for name, (schema, rows) in tables.items():
        refs[name] = write_table(storage, f"{folder}/{name}.parquet", filled(schema, rows), schema)
    manifest = StepManifest(
        step=step, fingerprint=lineage.fingerprint, storage=storage.uri, tables=refs
    )
    settle_lineage(storage, folder, lineage)
    storage.write_bytes(f"{folder}/manifest.json", manifest.model_dump_json().encode())
    note_result(storage, RUN, folder)
    return folder


def finished_run(storage: Storage) -> None:
    """Six pairs: 2 of de, 1 of de and fr, 3 of drawn configs; items: 3 of de, 1 of fr."""
    configs = [("of de", "de"), ("of both", "de,fr"), ("drawn", None)]
    rows = [{"config_id": name, "region": region} for name, region in configs]
    synthesis = finish(storage, "synthesis", {}, configs=(CONFIGS, rows))
    pairs = ["of de"] * 2 + ["of both"] + ["drawn"] * 3
    pairing = finish(storage, "pairing", {"synthesis": synthesis},
                     pairs=(PAIRS, [{"config_id": name} for name in pairs]))  # fmt: skip
    training = finish(storage, "training", {"synthesis": synthesis, "pairing": pairing})
    evaluated = [{"config": "d", "regions": ["de"]}, {"config": "f", "regions": ["fr"]}]
    finish(storage, "evaluation", {"synthesis": synthesis, "training": training},
           evaluated_configs=(EVALUATED_CONFIGS, evaluated),
           evaluation=(EVALUATION, [{"config": c} for c in "dddf"]))  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path))


def test_regions_pay_by_pairs_and_items_and_their_parts_are_the_whole(store: Storage) -> None:
    finished_run(store)
    note(store, "training", 3600, gpus=4)
    note(store, "evaluation", 1800, gpus=2)
    (found,) = run_costs(store)
    assert (found.steps["training"], found.total.price) == (Cost(4.0, 0.0, 16.0), 20.0)
    # Of 6 pairs: de 2 + 1/2 + 3/2, fr 1/2 + 3/2; of 4 items: de 3, fr 1.
    de, fr = found.regions["de"], found.regions["fr"]
    assert de.price == pytest.approx(16 * 4 / 6 + 4 * 3 / 4)
    assert fr.price == pytest.approx(16 * 2 / 6 + 4 * 1 / 4)
    assert de.gpu_hours + fr.gpu_hours == pytest.approx(found.total.gpu_hours)


def test_a_run_that_left_nothing_is_nobodys_and_still_counted(store: Storage) -> None:
    note(store, "synthesis", 7200)
    note(store, "synthesis", None)
    (found,) = run_costs(store)
    assert found.regions == {"-": Cost(0.0, 16.0, 1.6)}
    assert found.without_end == 1


def test_a_price_that_is_not_known_is_not_zero(store: Storage) -> None:
    note(store, "training", 3600, gpus=1, gpu_hour=None)
    note(store, "evaluation", 3600, gpus=1)
    (found,) = run_costs(store)
    assert (found.steps["evaluation"].price, found.steps["training"].price) == (4.0, None)
    assert found.total.price is None
    assert found.total.gpu_hours == 2.0


def test_evaluation_alone_is_split_by_items(store: Storage) -> None:
    evaluated = [{"config": "d", "regions": ["de"]}, {"config": "b", "regions": ["de", "fr"]}]
    finish(store, "evaluation", {}, evaluated_configs=(EVALUATED_CONFIGS, evaluated),
           evaluation=(EVALUATION, [{"config": c} for c in "db"]))  # fmt: skip
    note(store, "evaluation", 3600, gpus=1)
    note(store, "prompts", 3600, gpus=1)
    (found,) = run_costs(store)
    # Items: de 1 + 1/2, fr 1/2; what no pair says is everybody's.
    assert found.regions["de"].price == pytest.approx(4 * 3 / 4 + 4 / 2)
    assert found.regions["fr"].price == pytest.approx(4 * 1 / 4 + 4 / 2)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100) | st.none()), max_size=5))
def test_a_sum_is_known_where_all_of_it_is(parts: list[tuple[float, float | None]]) -> None:
    found = total(Cost(hours, 0.0, price) for hours, price in parts)
    assert found.gpu_hours == pytest.approx(sum(hours for hours, _ in parts))
    assert (found.price is None) == any(price is None for _, price in parts)


def config(**more: Any) -> RunConfig:
    plain = {"prices": {"gpu_hour": 3.5, "currency": "EUR"}, **more}
    return RunConfig.model_validate(plain)


def test_what_runs_is_metered_well_or_not(store: Storage) -> None:
    with metered(store, config(), RUN, "scoring", "share 1/2"):
        (begun,) = read_usage(store)[RUN]
        assert (begun.seconds, begun.well) == (None, None)
    with pytest.raises(DataError), metered(store, config(), RUN, "pairing"):
        raise DataError("a table is torn")
    found = {one.step: one for one in read_usage(store, RUN)[RUN]}
    assert (found["scoring"].part, found["scoring"].well) == ("share 1/2", True)
    assert found["pairing"].well is False
    assert all((one.seconds or 0) > 0 or one.seconds == 0 for one in found.values())
    assert (found["scoring"].currency, found["scoring"].gpu_hour) == ("EUR", 3.5)


def test_gpus_are_those_of_the_container_or_of_the_job(
    store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    for name in ("nvidia0", "nvidia7", "nvidiactl", "nvidia-uvm"):
        (devices / name).touch()
    monkeypatch.setattr(usage_module, "_DEVICES", devices)
    settings = {"nodes": 2, "processes_per_node": 2, "resources": {"nvidia.com/gpu": "8"}}
    job = {"backend": "train_job", "train_job": settings}
    with metered(store, config(training=job), RUN, "scoring"):
        pass
    with metered(store, config(training=job), RUN, "training"):
        pass
    assert sorted(one.gpus for one in read_usage(store)[RUN]) == [2, 16]


def test_costs_are_printed_by_step_and_region(
    store: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(store)
    note(store, "training", 3600, gpus=4)
    note(store, "evaluation", None, gpus=4)
    assert main(["costs", "--root", store.uri]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [RUN[:12], "training", "4.000", "0.000", "16.00 EUR"] in lines
    assert [RUN[:12], "region de", "2.667", "0.000", "10.67 EUR"] in lines
    assert "1 attempts without an end" in lines[-1][1]
    assert main(["costs", "--root", store.uri, "--run", RUN, "--json"]) == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert plain["regions"]["fr"]["price"] == pytest.approx(16 / 3)
    assert main(["costs", "--root", store.uri, "--run", "b" * 64, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
