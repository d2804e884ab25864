from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cosalign.domain.errors import CosalignError, DataError, StorageUnavailable
from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import RunConfig
from cosalign.inference.generation import response_ledger
from cosalign.inference.paid_work import Row, complete
from cosalign.runtime.run_config import dump_run_config, load_run_config, run_config_digest
from cosalign.runtime.step import (
    ManifestDraft,
    StepContext,
    StepManifest,
    main,
    parse_manifest,
    read_manifest,
    run_step,
)
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import TableRef, read_table, write_table

KEY = bytes(16)
SCHEMA = pa.schema([pa.field("glass", pa.int64(), nullable=False)])


class Brewing:
    """Brews as many glasses as the config's limit says."""

    name = "brewing"
    inputs: Mapping[str, tuple[str, ...]] = {"malting": ("malt", "yeast")}

    def __init__(self, during: Callable[[], object] = lambda: None) -> None:
        self.runs = 0
        self.during = during

    def identity(self, context: StepContext) -> Json:
        return {"limit": context.config.prompts.limit}

    def execute(self, context: StepContext, draft: ManifestDraft) -> None:
        self.runs += 1
        table = pa.table({"glass": list(range(context.config.prompts.limit or 0))})
        path = f"{context.folder}/glasses.parquet"
        draft.tables["glasses"] = write_table(context.storage, path, table, SCHEMA)
        self.during()
        draft.files["report"] = f"{context.folder}/report.html"
        context.storage.write_bytes(draft.files["report"], b"<p>Cheers</p>")
        draft.counts["glasses"] = table.num_rows
        draft.metrics = {"strength": 4.7e-05, "colour": None}


def malted(storage: str, **changes: Any) -> StepManifest:
    values: dict[str, Any] = {
        "step": "malting",
        "fingerprint": "f" * 64,
        "storage": storage,
        "tables": {"malt": TableRef(path="malt", rows=1, sha256="a" * 64)},
        "models": {"yeast": "gs://bucket/yeast"},
        "counts": {"sacks": 2},
    }
    return StepManifest(**(values | changes))


@pytest.fixture
def config(storage: Storage) -> RunConfig:
    return load_run_config("small", [f"storage.root={storage.uri}", "prompts.limit=3"])


def brew(step: Brewing, config: RunConfig, **changes: Any) -> tuple[StepManifest, bool]:
    return run_step(step, config, {"malting": malted(config.storage.root, **changes)})


def test_a_step_runs_once_and_is_then_reused(config: RunConfig, storage: Storage) -> None:
    step = Brewing()
    made, reused = brew(step, config)
    assert not reused
    assert read_table(storage, made.tables["glasses"]).num_rows == 3
    assert brew(step, config) == (made, True)
    assert step.runs == 1


def test_the_manifest_in_storage_is_the_one_returned(config: RunConfig, storage: Storage) -> None:
    made, _ = brew(Brewing(), config)
    path = f"steps/brewing/{made.fingerprint}/manifest.json"
    assert parse_manifest(storage.read_bytes(path), "m") == made
    assert made.metrics == {"strength": 4.7e-05, "colour": None}
    assert (made.step, made.storage, made.counts) == ("brewing", storage.uri, {"glasses": 3})


@pytest.mark.parametrize(
    ("failure", "again"),
    [("server_error", True), ("timeout", True), ("too_long", False), ("no_verdict", False)],
)
def test_rows_that_a_passing_failure_left_unmade_are_asked_for_again(
    config: RunConfig, storage: Storage, failure: str, again: bool
) -> None:
    failures: list[str | None] = [failure, None]

    def paid(positions: list[int]) -> Iterator[Row]:
        row = {"text": "", "finish_reason": "error", "tokens": 0, "engine": "x", "dtype": "x"}
        yield {**row, "key": KEY, "failure": failures.pop(0), "created": len(positions)}

    step = Brewing(lambda: complete(response_ledger(storage), [KEY], paid, work="", flush_rows=9))
    first, _ = brew(step, config)
    assert first.counts.get("rows_to_retry") == (1 if again else None)
    second, reused = brew(step, config)
    assert reused is not again
    assert "rows_to_retry" not in second.counts
    assert brew(step, config) == (second, True)


@pytest.mark.parametrize("lost", ["glasses.parquet", "report.html", "manifest.json"])
def test_a_result_that_lost_a_file_is_made_anew(
    lost: str, config: RunConfig, storage: Storage
) -> None:
    step = Brewing()
    made, _ = brew(step, config)
    storage.delete(f"steps/brewing/{made.fingerprint}/{lost}")
    assert brew(step, config) == (made, False)
    assert step.runs == 2


def test_another_identity_has_another_folder(config: RunConfig, storage: Storage) -> None:
    step = Brewing()
    first, _ = brew(step, config)
    other = load_run_config("small", [f"storage.root={storage.uri}", "prompts.limit=4"])
    second, reused = brew(step, other)
    assert not reused
    assert first.fingerprint != second.fingerprint
    assert brew(step, config) == (first, True)
    assert len(storage.list("steps/brewing")) == 8


def test_a_setting_outside_the_identity_changes_nothing(
    config: RunConfig, storage: Storage
) -> None:
    step = Brewing()
    brew(step, config)
    overrides = [f"storage.root={storage.uri}", "prompts.limit=3", "training.seed=9"]
    assert brew(step, load_run_config("small", overrides))[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": {"malt": TableRef(path="malt", rows=1, sha256="b" * 64)}},
        {"models": {"yeast": "gs://bucket/other"}},
    ],
)
def test_named_inputs_change_the_fingerprint(changes: dict[str, Any], config: RunConfig) -> None:
    step = Brewing()
    brew(step, config)
    assert not brew(step, config, **changes)[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "e" * 64},
        {"counts": {"sacks": 5}},
        {"metrics": {"dryness": 1.0}},
        {"tables": {"malt": TableRef(path="moved", rows=1, sha256="a" * 64)}},
        {
            "tables": {
                "malt": TableRef(path="malt", rows=1, sha256="a" * 64),
                "hops": TableRef(path="hops", rows=1, sha256="c" * 64),
            }
        },
    ],
)
def test_nothing_else_of_the_inputs_does(changes: dict[str, Any], config: RunConfig) -> None:
    step = Brewing()
    brew(step, config)
    assert brew(step, config, **changes)[1]


def test_a_model_below_the_root_is_the_same_in_another_root(tmp_path: Path) -> None:
    made = set()
    for name in ("here", "there"):
        root = open_storage(str(tmp_path / name)).uri
        config = load_run_config("small", [f"storage.root={root}", "prompts.limit=3"])
        given = malted(root, models={"yeast": f"{root}/yeast"})
        made.add(run_step(Brewing(), config, {"malting": given})[0].fingerprint)
    assert len(made) == 1


def test_an_input_that_lacks_what_the_step_takes_is_refused(config: RunConfig) -> None:
    with pytest.raises(DataError, match="the manifest of malting names no 'yeast'; run that step"):
        brew(Brewing(), config, models={})


def test_a_step_that_dies_before_its_manifest_is_run_again(config: RunConfig) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        brew(Brewing(die), config)
    step = Brewing()
    assert not brew(step, config)[1]
    assert step.runs == 1


def test_a_figure_that_is_no_number_is_never_stored(config: RunConfig, storage: Storage) -> None:
    class Spoilt(Brewing):
        def execute(self, context: StepContext, draft: ManifestDraft) -> None:
            super().execute(context, draft)
            draft.metrics["strength"] = float("nan")

    with pytest.raises(ValueError, match="not JSON compliant"):
        brew(Spoilt(), config)
    assert not [s for s in storage.list("steps") if s.path.endswith("manifest.json")]


class World:
    """A run config and an input manifest as files, for the container entry."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = load_run_config("small", [f"storage.root={root}/out", "prompts.limit=3"])
        self.digest = run_config_digest(self.config)
        self.config_file = root / "run.yaml"
        self.config_file.write_text(dump_run_config(self.config))
        self.malting = root / "malting.json"
        self.malting.write_text(malted(str(root)).model_dump_json())

    def flags(self, to: Path, **changes: str) -> list[str]:
        values = {
            "run-config": str(self.config_file),
            "run-config-digest": self.digest,
            "malting": str(self.malting),
            "output": str(to),
        } | changes
        return [part for name, value in values.items() for part in (f"--{name}", value)]

    def executor_input(self, folder: Path) -> list[str]:
        names = ("brewing", "report", "metrics")
        raw = {
            "inputs": {
                "parameterValues": {
                    "run_config_uri": str(self.config_file),
                    "run_config_digest": self.digest,
                },
                "artifacts": {"malting": {"artifacts": [{"uri": str(self.malting)}]}},
            },
            "outputs": {
                "artifacts": {
                    n: {"artifacts": [{"name": n, "uri": str(folder / n)}]} for n in names
                },
                "outputFile": str(folder / "executor-output.json"),
            },
        }
        return ["--executor-input", json.dumps(raw)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_flags_and_executor_input_give_the_same_manifest(world: World) -> None:
    step = Brewing()
    by_flags, by_kfp = world.root / "a/brewing.json", world.root / "b"
    assert main(step, world.flags(by_flags)) == 0
    assert main(step, world.executor_input(by_kfp)) == 0
    assert by_flags.read_bytes() == (by_kfp / "brewing").read_bytes()
    assert step.runs == 1
    assert read_manifest(by_flags).counts == {"glasses": 3}


def test_kfp_is_told_of_artifacts_metrics_and_reuse(world: World) -> None:
    for turn in range(2):
        folder = world.root / f"turn {turn}"
        assert main(Brewing(), world.executor_input(folder)) == 0
        told = json.loads((folder / "executor-output.json").read_text())["artifacts"]
        metadata = {name: one["artifacts"][0]["metadata"] for name, one in told.items()}
        assert metadata["brewing"]["cosalign_reused"] == bool(turn)
        assert metadata["metrics"] == {"strength": 4.7e-05}
        assert (folder / "report").read_bytes() == b"<p>Cheers</p>"
        assert not (folder / "metrics").exists()


def test_a_run_config_of_another_run_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Brewing()
    flags = world.flags(world.root / "out.json", **{"run-config-digest": "0" * 64})
    assert main(step, flags) == 2
    assert "a run's config must not change" in capsys.readouterr().err
    assert step.runs == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run-config": "nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"malting": "nowhere.json"}, "nowhere.json: no such manifest; run the step before"),
        ({"malting": ""}, "no such manifest"),
        ({"output": "/proc/nowhere/out.json"}, "choose an output folder that can be written"),
        ({"output": "/proc/out.json"}, "choose an output folder that can be written"),
    ],
)
def test_what_the_user_can_fix_ends_with_2(
    changes: dict[str, str], message: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(Brewing(), world.flags(world.root / "out.json", **changes)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_missing_input_is_named(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--run-config", str(world.config_file), "--output", str(world.root / "out.json")]
    assert main(Brewing(), flags) == 2
    assert "brewing: the input 'malting' is missing; see --help" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--output", "x"], ["--no-such-flag"]])
def test_wrong_flags_end_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(Brewing(), argv)
    assert ended.value.code == 2


def test_a_torn_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"step": "malting", "fingerprint"')
    with pytest.raises(DataError, match=r"m\.json, line 1"):
        read_manifest(tmp_path / "m.json")
    (tmp_path / "m.json").write_text('{"step": "malting", "storage": "x", "table": {}}')
    with pytest.raises(DataError, match="table: unknown field; did you mean 'tables'"):
        read_manifest(tmp_path / "m.json")


CONTAINER_ENTRY = """
import sys
from tests.runtime.test_step import Brewing, failure
from cosalign.runtime.step import main
kind = sys.argv.pop(1)
sys.exit(main(Brewing(lambda: failure(kind))))
"""


def failure(kind: str) -> None:
    failures: dict[str, Exception] = {
        "transient": StorageUnavailable("storage did not answer; retry"),
        "user": DataError("rows are torn"),
        "ours": CosalignError("impossible"),
        "defect": ZeroDivisionError("beer"),
    }
    if kind in failures:
        raise failures[kind]


@pytest.mark.parametrize(
    ("kind", "code"), [("none", 0), ("user", 2), ("transient", 75), ("ours", 70), ("defect", 70)]
)
def test_the_containers_exit_code(kind: str, code: int, world: World) -> None:
    output = world.root / "out.json"
    done = subprocess.run(
        [sys.executable, "-c", CONTAINER_ENTRY, kind, *world.flags(output)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[2]), *sys.path)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert output.exists() == (code == 0)
    assert ("Traceback" in done.stderr) == (code == 70)
    folder = open_storage(str(world.root / "out"))
    finished = [s for s in folder.list("steps") if s.path.endswith("manifest.json")]
    assert bool(finished) == (code == 0)
