"""What earlier releases stored still loads, what later ones stored is refused, and a migration
may die anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.store.ledger_rows import drinks, key, row, texts
from tests.store.test_erasure import Dying

from cosalign.domain import schema_upgrades, schemas
from cosalign.domain.config_change import NoReader, PolicyReading
from cosalign.domain.errors import DataError
from cosalign.domain.safety_config import parse_safety_config
from cosalign.domain.schema_upgrades import VERSION_KEY, version_of
from cosalign.domain.schemas import LEDGERS
from cosalign.inference.model_manifest import read_model_manifest
from cosalign.judging.stored_readings import StoredReadings
from cosalign.pipelines.command_line import main
from cosalign.retraining.admission import Accepted, admit
from cosalign.retraining.approvals import read_approvals
from cosalign.retraining.approvers import read_approvers
from cosalign.runtime.safety_config_files import known_taxonomies
from cosalign.store.accepted_configs import AcceptedSet
from cosalign.store.audit_log import AuditLog
from cosalign.store.gate_file import GateFile
from cosalign.store.ledger import Ledger
from cosalign.store.model_pointer import ModelPointer
from cosalign.store.storage import Storage, open_storage
from cosalign.store.stored_versions import migrate_ledgers, survey
from cosalign.store.table_files import verified_file
from cosalign.store.tables import TableRef, parquet_table, read_table, write_table

STORED = Path(__file__).parent / "stored"
V1 = STORED / "v1"
KNOWN = known_taxonomies()
EXPECTED = json.loads((V1 / "expected.json").read_text())


@pytest.fixture
def v1(tmp_path: Path) -> Storage:
    """A copy of what release 0.1.0 left."""
    shutil.copytree(V1, tmp_path / "v1")
    return open_storage(str(tmp_path / "v1"))


def as_today(schema: pa.Schema) -> pa.Schema:
    return schema.remove_metadata()


@pytest.mark.parametrize("name", EXPECTED["tables"])
def test_tables_of_version_1_still_load(v1: Storage, name: str) -> None:
    table = read_table(v1, TableRef.model_validate(EXPECTED["tables"][name]))
    assert table.num_rows == 3
    assert table.schema.remove_metadata() == as_today(getattr(schemas, name.upper()))


@pytest.mark.parametrize("name", LEDGERS)
def test_ledgers_of_version_1_still_load(v1: Storage, name: str) -> None:
    ledger = Ledger(v1, name, LEDGERS[name])
    assert ledger.versions() == {1: 2}
    assert ledger.missing([key(n) for n in (1, 2, 3)]) == [key(3)]
    found = ledger.read([key(3), key(1)])
    assert found.column("failure").to_pylist() == ["timed out", None]
    assert found.select(LEDGERS[name].names).schema.remove_metadata() == as_today(LEDGERS[name])


def test_documents_of_version_1_still_load(v1: Storage) -> None:
    gate = GateFile.model_validate_json(v1.read_bytes("steps/all/v1/gate.json"))
    assert gate.passed
    assert read_model_manifest(v1, "steps/all/v1").configs[0].regions == ("no", "se")
    (entry,) = ModelPointer(v1, "main").history()
    assert (entry.by, entry.gate is not None) == ("ada", True)
    (row_,) = AuditLog(v1).entries()
    assert row_.event == "Promoted"
    accepted = AcceptedSet(v1).current()
    assert accepted is not None
    assert accepted.last_statement("shop") == "4" * 64
    text = "Swords may be spoken of."
    plain = json.loads(v1.read_bytes("shop.yaml"))
    plain["spec"] = {**plain["spec"], "text": text}
    del plain["spec"]["allowedRisks"]
    prose = parse_safety_config(json.dumps(plain), "shop", KNOWN)
    stored = StoredReadings(v1, KNOWN)
    assert stored.read(prose, KNOWN["cosa 1"]) == PolicyReading(may=4, surely=4, found=4)


def test_an_approval_of_version_1_still_admits(v1: Storage) -> None:
    config = parse_safety_config(v1.read_bytes("shop.yaml").decode(), "shop.yaml", KNOWN)
    found = admit(
        config,
        Accepted(None),
        read_approvals(v1, "shop.approvals"),
        read_approvers(v1.uri_of("approvers.yaml")),
        datetime(2026, 6, 2, tzinfo=UTC),
        NoReader(),
        taxonomies=KNOWN,
    )
    assert (found.accepted, found.approvers) == (True, ("bob", "cy"))


@pytest.fixture
def version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release in which texts of responses begin with their number of characters."""

    def counted(rows: pa.Table) -> pa.Table:
        column = [f"{len(text)} {text}" for text in rows["text"].to_pylist()]
        at = rows.schema.get_field_index("text")
        return rows.set_column(at, rows.schema.field("text"), [column])

    monkeypatch.setattr(schema_upgrades, "SCHEMA_VERSION", "2")
    steps: dict[Any, Any] = {
        ("ledger", "responses"): {1: counted},
        ("table", "responses"): {1: counted},
    }
    monkeypatch.setattr(schema_upgrades, "UPGRADES", steps)


def test_older_rows_are_upgraded_as_they_are_read(v1: Storage, version_2: None) -> None:
    ledger = Ledger(v1, "responses", LEDGERS["responses"])
    assert texts(ledger, [1]) == ["6 text 1"]
    ledger.append([row(9, "new")])
    assert (ledger.versions(), texts(ledger, [9, 1])) == ({1: 2, 2: 1}, ["new", "6 text 1"])
    table = read_table(v1, TableRef.model_validate(EXPECTED["tables"]["responses"]))
    assert table["text"].to_pylist()[0] == "6 text 1"
    # Read as a file nothing can be upgraded, and it is said so.
    ref = TableRef.model_validate(EXPECTED["tables"]["responses"])
    with pytest.raises(DataError, match="run the step that made it again"), verified_file(v1, ref):
        pass


def test_a_migration_rewrites_ledgers_once_and_may_die_anywhere(
    tmp_path: Path, version_2: None
) -> None:
    calls, died = 0, True
    while died:
        shutil.copytree(V1, tmp_path / str(calls))
        storage = open_storage(str(tmp_path / str(calls)))
        dying: Any = Dying(storage, calls)
        died = False
        try:
            migrate_ledgers(dying)
        except KeyboardInterrupt:
            died = True
            assert texts(drinks(storage), [1]) == ["6 text 1"]
            migrate_ledgers(storage)
        for name, schema in LEDGERS.items():
            assert set(Ledger(storage, name, schema).versions()) == {2}
        assert texts(drinks(storage), [1, 2]) == ["6 text 1", "6 text 2"]
        assert migrate_ledgers(storage) == []
        calls += 1
    assert calls > 4 * len(LEDGERS)


def newer_table(storage: Storage) -> str:
    schema = pa.schema([("prompt_id", pa.string())], metadata={VERSION_KEY: "7"})
    write_table(storage, "steps/all/v1/prompts.parquet", pa.table({"prompt_id": ["a"]}), schema)
    return "prompts"


def newer_part(storage: Storage) -> str:
    path = storage.list("ledgers/verdicts/parts")[0].path
    table = parquet_table(storage.read_bytes(path), path)
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: "7"}), sink)
    storage.write_bytes(path, sink.getvalue().to_pybytes())
    return "verdicts"


def newer_document(storage: Storage) -> str:
    storage.write_bytes("steps/all/v1/gate.json", b'{"form": "cosalign-gate/7"}')
    return "cosalign-gate/7"


@pytest.mark.parametrize("make", [newer_table, newer_part, newer_document])
def test_what_a_newer_release_wrote_is_refused_by_name(
    v1: Storage, make: Callable[[Storage], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = make(v1)
    assert main(["migrate", "--root", v1.uri, "--apply"]) == 2
    found = capsys.readouterr()
    assert name in found.err
    assert [one.name for one in survey(v1) if one.newer] == [name]


def test_a_newer_table_or_part_is_not_read(v1: Storage) -> None:
    newer_part(v1)
    with pytest.raises(DataError, match="schema version 7, and this release knows up to 1"):
        Ledger(v1, "verdicts", LEDGERS["verdicts"]).missing([key(1)])
    schema = pa.schema([("text", pa.string())], metadata={VERSION_KEY: "7"})
    ref = write_table(v1, "steps/all/v1/x.parquet", pa.table({"text": ["a"]}), schema)
    with pytest.raises(DataError, match="use the release that wrote it"):
        read_table(v1, ref)
    with pytest.raises(DataError, match="schema version 7"), verified_file(v1, ref):
        pass


@pytest.mark.parametrize("said", [b"0", b"two", b""])
def test_a_version_that_is_none_is_refused(said: bytes) -> None:
    with pytest.raises(DataError, match="is none"):
        version_of(pa.schema([], metadata={VERSION_KEY: said}), "x")


def test_migrate_says_what_is_stored_and_that_nothing_is_old(
    v1: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "--root", v1.uri, "--json"]) == 0
    found = {(one["kind"], one["name"]): one for one in json.loads(capsys.readouterr().out)}
    assert found["ledger", "responses"]["count"] == 2
    assert found["table", "prompts"]["version"] == 1
    assert found["document", "cosalign-audit/1"]["count"] == 1
    assert {one["becomes"] for one in found.values()} == {"as it is"}
    before = [stat.path for stat in v1.list("ledgers")]
    assert main(["migrate", "--root", v1.uri, "--apply"]) == 0
    assert "rewritten: nothing" in capsys.readouterr().out
    assert [stat.path for stat in v1.list("ledgers")] == before


def test_new_parts_say_their_version(storage: Storage) -> None:
    drinks(storage).append([row(1)])
    (part,) = storage.list("ledgers/responses/parts")
    found = parquet_table(storage.read_bytes(part.path), part.path)
    assert found.schema.metadata[VERSION_KEY] == b"1"
