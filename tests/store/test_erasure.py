"""What is erased is gone from ledgers and tables, stays gone, and is on record, whoever died."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.store.ledger_rows import drinks, key, row

from cosalign.domain.errors import DataError
from cosalign.domain.schemas import CONFIGS, DPO_RECORDS, PROMPTS, RESPONSES, VERDICTS
from cosalign.pipelines.command_line import main
from cosalign.store.audit_log import AuditLog
from cosalign.store.audit_verification import verify_log
from cosalign.store.erasure_plan import ErasurePlan, Selection, plan_erasure
from cosalign.store.erasures import Erasure, erase, erased_prompts, finish_erasures
from cosalign.store.storage import Storage
from cosalign.store.tables import write_table

BEER, CARDS, SWORDS = (f"{number:032x}" for number in (1, 2, 3))
MODEL = "file:///models/1"
TEXTS = ("a question on beer", "an answer on beer")


def table(storage: Storage, path: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> str:
    blank: dict[str, Any] = dict.fromkeys(schema.names)
    filled = [{**blank, **{f.name: _zero(f) for f in schema if not f.nullable}, **r} for r in rows]
    write_table(storage, path, pa.Table.from_pylist(filled, schema=schema), schema)
    return path


def _zero(field: pa.Field) -> Any:
    return [] if pa.types.is_list(field.type) else "" if field.type == pa.string() else 0


@pytest.fixture
def filled(storage: Storage) -> Storage:
    """Three prompts, each with a response; one of them trained on; two runs' tables."""
    drinks(storage).append([row(n, f"an answer {n}") for n in (11, 12, 13, 14)])
    for run in ("a", "b"):
        folder = f"steps/synthesis/{run}"
        prompts = [(BEER, "pub.jsonl"), (CARDS, "pub.jsonl"), (SWORDS, "club.jsonl")]
        table(storage, f"{folder}/prompts.parquet", PROMPTS,
              [{"prompt_id": p, "text": "a question", "source": s, "split": "train"}
               for p, s in prompts[: 3 if run == "a" else 2]])  # fmt: skip
        table(storage, f"{folder}/configs.parquet", CONFIGS,
              [{"config_id": "of de", "region": "de", "text": "a policy"},
               {"config_id": "of both", "region": "de,fr", "text": "a policy"},
               {"config_id": "drawn", "text": "a policy"}])  # fmt: skip
        storage.write_bytes(f"{folder}/prompt_review.jsonl", b"{}\n")
    responses = [(11, BEER, "drawn"), (12, CARDS, "of de"), (13, SWORDS, "of both")]
    table(storage, "steps/synthesis/a/responses.parquet", RESPONSES,
          [{"response_id": key(n).hex(), "prompt_id": p, "config_id": c, "text": "an answer"}
           for n, p, c in responses])  # fmt: skip
    # A killed step's: there is no manifest that would name it.
    table(storage, "steps/training/t/dpo_records.parquet", DPO_RECORDS,
          [{"prompt_id": CARDS, "config_id": "drawn", "chosen": "an answer"}])  # fmt: skip
    table(storage, "steps/training/u/dpo_records.parquet", DPO_RECORDS,
          [{"prompt_id": BEER, "config_id": "drawn", "chosen": "an answer"}])  # fmt: skip
    storage.write_bytes(
        "steps/training/u/manifest.json", f'{{"models": {{"dpo": "{MODEL}"}}}}'.encode()
    )
    table(storage, "steps/scoring/s/verdicts.parquet", VERDICTS, [{"prompt_id": BEER}])
    return storage


def planned(storage: Storage, before: datetime | None = None, **named: list[str]) -> ErasurePlan:
    sets = {name: frozenset(values) for name, values in named.items()}
    return plan_erasure(storage, Selection(**sets, before=before))


def numbers(plan: ErasurePlan) -> set[int]:
    return {int.from_bytes(k, "big") for k in plan.keys["responses"]}


def files(plan: ErasurePlan) -> set[str]:
    return {path.removeprefix("steps/") for path in plan.tables}


def test_a_prompt_is_found_wherever_its_text_lies(filled: Storage) -> None:
    plan = planned(filled, prompts=[BEER])
    assert numbers(plan) == {11}
    assert files(plan) == {
        "synthesis/a/prompts.parquet", "synthesis/a/prompt_review.jsonl",
        "synthesis/b/prompts.parquet", "synthesis/b/prompt_review.jsonl",
        "synthesis/a/responses.parquet", "training/u/dpo_records.parquet",
    }  # fmt: skip
    assert plan.models == {MODEL}


def test_a_source_names_its_prompts(filled: Storage) -> None:
    plan = planned(filled, sources=["pub.jsonl"])
    assert plan.prompts == {BEER, CARDS}
    assert numbers(plan) == {11, 12}
    assert "training/t/dpo_records.parquet" in files(plan)


def test_a_region_has_what_is_its_own_alone(filled: Storage) -> None:
    plan = planned(filled, regions=["de"])
    assert (numbers(plan), plan.prompts) == ({12}, set())
    assert files(plan) >= {"synthesis/a/configs.parquet", "synthesis/b/configs.parquet"}
    assert numbers(planned(filled, regions=["de", "fr"])) == {12, 13}
    assert planned(filled, regions=["at"]).empty


def test_what_is_older_goes_whatever_it_is(filled: Storage) -> None:
    drinks(filled).append([{**row(11), "created": 10**18}])
    later = datetime.now(UTC) + timedelta(days=1)
    plan = planned(filled, before=later)
    assert numbers(plan) == {11, 12, 13, 14}
    assert len([path for path in files(plan) if path.endswith(".parquet")]) == 7
    # The row of 11 was made anew, in 2001.
    early = planned(filled, before=datetime(2000, 1, 1, tzinfo=UTC))
    assert (numbers(early), files(early)) == ({12, 13, 14}, set())


def erasure(plan: ErasurePlan) -> Erasure:
    return Erasure(
        by="ada", reason="asked for", at="2026-06-01T00:00:00+00:00", selection={"prompts": "1"},
        prompts=tuple(plan.prompts), tables=tuple(plan.tables), models=tuple(plan.models),
        keys={name: tuple(k.hex() for k in keys) for name, keys in plan.keys.items()},
    )  # fmt: skip


def test_what_was_erased_is_gone_and_on_record(filled: Storage) -> None:
    name = erase(filled, erasure(planned(filled, prompts=[BEER])))
    assert planned(filled, prompts=[BEER]).empty
    assert drinks(filled).missing([key(11), key(12)]) == [key(11)]
    assert not any(b"an answer 11" in filled.read_bytes(s.path) for s in filled.list("ledgers"))
    assert filled.stat("steps/training/t/dpo_records.parquet") is not None
    assert erased_prompts(filled) == {BEER}
    (entry,) = AuditLog(filled).entries()
    assert (entry.event, entry.subject, entry.by) == ("Erased", name, "ada")
    assert entry.details["rows"] == {"responses": 1, "verdicts": 0, "references": 0,
                                     "continuations": 0}  # fmt: skip
    assert entry.details["models"] == [MODEL]
    assert verify_log(filled).faults == ()
    assert finish_erasures(filled) == []


class Dying:
    """Storage whose process dies at its n-th write or deletion."""

    def __init__(self, storage: Storage, calls: int) -> None:
        self._storage, self.left = storage, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if name not in ("write_bytes", "delete", "new_file"):
            return found
        if not self.left:
            raise KeyboardInterrupt(name)
        self.left -= 1
        return found


def test_who_dies_half_way_is_finished_by_the_next(filled: Storage, tmp_path: Path) -> None:
    plan = planned(filled, prompts=[BEER])
    calls, died = 1, 0
    while True:
        dying: Any = Dying(filled, calls)
        try:
            erase(dying, erasure(plan)) if calls == 1 else finish_erasures(dying)
        except KeyboardInterrupt:
            died += 1
            calls += 1
            continue
        break
    assert died > 5
    assert finish_erasures(filled) == []
    assert planned(filled, prompts=[BEER]).empty
    assert drinks(filled).missing([key(11), key(12)]) == [key(11)]
    assert not any(b"an answer 11" in filled.read_bytes(s.path) for s in filled.list("ledgers"))
    assert [entry.event for entry in AuditLog(filled).entries()] == ["Erased"]
    assert verify_log(filled).faults == ()


def test_nothing_goes_without_being_told_to(
    filled: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["ledger", "erase", filled.uri, "--prompt", BEER]
    before = [stat.path for stat in filled.list("")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "ledger responses\t1 rows" in out
    assert f"stays\t{MODEL}" in out
    assert "nothing was erased" in out
    assert not any(text in out for text in TEXTS)
    assert [stat.path for stat in filled.list("")] == before
    assert main([*command, "--apply"]) == 2
    assert main(["ledger", "erase", filled.uri]) == 2
    assert main(["ledger", "erase", filled.uri, "--older-than", "soon"]) == 2
    assert "2026-12-31" in capsys.readouterr().err
    word = ["--apply", "--by", "ada", "--reason", "asked for"]
    assert main([*command, *word]) == 0
    assert erased_prompts(filled) == {BEER}


def test_a_table_that_cannot_be_read_is_named(filled: Storage) -> None:
    filled.write_bytes("steps/synthesis/c/prompts.parquet", b"PAR1")
    with pytest.raises(DataError, match="synthesis/c/prompts"):
        planned(filled, prompts=[BEER])
