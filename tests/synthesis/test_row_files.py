"""The three formats: the same rows whatever the file, and one message for what is wrong with it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cosalign.domain.errors import DataError, StorageError
from cosalign.synthesis import row_files
from cosalign.synthesis.prompt_rows import BATCH_ROWS, Columns
from cosalign.synthesis.row_files import file_batches, format_of

ROSES = "How do I prune old roses in spring?"
PLAIN = Columns("prompt")
Row = dict[str, Any]


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "language", "risks", "kept"])
        writer.writeheader()
        for row in rows:
            writer.writerow(
                row | {"risks": ",".join(row["risks"]), "kept": str(row["kept"]).lower()}
            )


def write_parquet(path: Path, rows: Iterable[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=2)


WRITERS: dict[str, Callable[[Path, Iterable[Row]], None]] = {
    "jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet,
}  # fmt: skip

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"), min_size=1
).filter(str.strip)
ROWS = st.fixed_dictionaries(
    {
        "prompt": TEXTS,
        "language": st.sampled_from(["de", "ja", "en"]),
        "risks": st.lists(st.sampled_from(["violence", "arson"]), max_size=2, unique=True),
        "kept": st.booleans(),
    }
)


# Each example writes the file anew. Named here, checks replace the profile's.
HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.parametrize("kind", WRITERS)
@given(rows=st.lists(ROWS, min_size=1, max_size=6))
@settings(max_examples=40, suppress_health_check=HEALTH)
def test_every_format_gives_back_what_was_written(
    tmp_path: Path, kind: str, rows: list[Row]
) -> None:
    path = tmp_path / f"rows.{kind}"
    WRITERS[kind](path, rows)
    columns = Columns("prompt", "language", "risks", {"kept": True})
    batches = list(file_batches(path, kind, columns, path.name))
    found = [row for batch in batches for row in batch.rows.to_pylist()]
    kept = [row for row in rows if row["kept"]]
    assert found == [
        {"text": r["prompt"], "language": r["language"], "risks": r["risks"]} for r in kept
    ]
    assert sum(batch.read for batch in batches) == len(rows)


@pytest.mark.parametrize("kind", WRITERS)
def test_many_rows_come_in_batches(tmp_path: Path, kind: str) -> None:
    count = 2 * BATCH_ROWS + 3
    rows = [
        {"prompt": f"beer {i}", "language": "en", "risks": [], "kept": True} for i in range(count)
    ]
    path = tmp_path / f"rows.{kind}"
    WRITERS[kind](path, rows)
    texts = [t for b in file_batches(path, kind, PLAIN, "f") for t in b.rows["text"].to_pylist()]
    assert texts == [row["prompt"] for row in rows]


def read(path: Path, columns: Columns = PLAIN) -> list[str | None]:
    batches = file_batches(path, format_of(path.name), columns, path.name)
    return [text for batch in batches for text in batch.rows["text"].to_pylist()]


def raw(tmp_path: Path, data: bytes, name: str = "raw.jsonl") -> list[str | None]:
    (tmp_path / name).write_bytes(data)
    return read(tmp_path / name)


GOOD = json.dumps({"prompt": ROSES}).encode()


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path, separator: str) -> None:
    prompt = f"Who won the game,{separator}the red or the blue?"
    line = json.dumps({"prompt": prompt}, ensure_ascii=False).encode()
    assert raw(tmp_path, line + b"\n" + GOOD) == [prompt, ROSES]


def test_carriage_returns_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path: Path) -> None:
    assert raw(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\r\n  \r\n") == [ROSES]
    assert raw(tmp_path, b"\xef\xbb\xbfprompt\r\nHow?\r\n", "a.csv") == ["How?"]


def test_a_row_without_a_text_is_a_row(tmp_path: Path) -> None:
    assert raw(tmp_path, b'{"prompt": null}') == [None]
    pq.write_table(pa.table({"prompt": [None, ROSES]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [None, ROSES]


BAD_LINES: list[tuple[bytes, str]] = [
    (b"{not json}", "not JSON"),
    (b'{"prompt": "cut', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"text": "Which beer?"}', r"no field 'prompt' \(found text\)"),
    (b'["Which beer?"]', "no field 'prompt'"),
    (b'"Which beer?"', "no field 'prompt'"),
    (b'{"prompt": 7}', "is a int, not a string"),
    (b'{"prompt": ["Which", "beer?"]}', "is a list, not a string"),
    (b'{"prompt": "Which \xff beer?"}', "not valid UTF-8"),
    (b'{"prompt": "Which \\ud800 beer?"}', "not valid UTF-8"),
    (b'{"prompt": "Which beer?", "prompt": "Or wine?"}', "'prompt' stands there twice"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_and_its_text_is_not(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        raw(tmp_path, GOOD + b"\n" + line)
    assert "raw.jsonl, line 2" in str(caught.value)
    assert "beer" not in str(caught.value)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_files, "LINE_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"line 2: longer than 1 MiB; is this JSONL"):
        raw(tmp_path, GOOD + b"\n" + b"x" * (2 << 20))


BAD_FILES: list[tuple[str, bytes, str]] = [
    ("a.csv", b"", "empty; a CSV file begins"),
    ("a.csv", b"question\nWhich beer?\n", "no column 'prompt'"),
    ("a.csv", b"prompt,prompt\nWhich beer?,Which ale?\n", "2 columns named 'prompt'"),
    ("a.csv", b"prompt,kind\nWhich beer, and why?,x\n", r"first is row 2 with 3 in place of 2"),
    ("a.csv", b"prompt\nWhich \xff beer?\n", "not valid UTF-8"),
    ("a.parquet", b"", "not a readable Parquet file"),
    ("a.parquet", b"PAR1 Which beer?", "not a readable Parquet file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "message"), BAD_FILES)
def test_a_bad_file_is_named_and_its_texts_are_not(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        raw(tmp_path, data, name)
    assert name in str(caught.value)
    assert "beer" not in str(caught.value)


def parquet(tmp_path: Path, table: pa.Table) -> Path:
    pq.write_table(table, tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


BAD_TABLES: list[tuple[pa.Table, Columns, str]] = [
    (pa.table({"prompt": [1, 2]}), PLAIN, "column 'prompt' is of type int64, not text"),
    (pa.table([["a"], ["b"]], ["prompt", "prompt"]), PLAIN, "2 columns named 'prompt'"),
    (pa.table({"Prompt": ["a"]}), PLAIN, "no column 'prompt'; did you mean 'Prompt'"),
    (
        pa.table({"prompt": pa.array([b"beer \xff"]).view(pa.string())}),
        PLAIN,
        "column 'prompt' is not valid UTF-8",
    ),
    (
        pa.table({"prompt": ["a"], "kind": ["true"]}),
        Columns("prompt", where={"kind": True}),
        "'kind' is of type string, and the source's 'where' compares it with True",
    ),
    (pa.table({"prompt": ["a"], "risks": [7]}), Columns("prompt", risks="risks"), "must list"),
    (
        pa.table({"prompt": ["a"], "risks": pa.array([None], pa.list_(pa.string()))}),
        Columns("prompt", risks="risks"),
        "must list",
    ),
]


@pytest.mark.parametrize(("table", "columns", "message"), BAD_TABLES)
def test_columns_that_are_not_what_they_should_be(
    tmp_path: Path, table: pa.Table, columns: Columns, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(parquet(tmp_path, table), columns)
    assert "a.parquet" in str(caught.value)


def test_texts_may_be_dictionary_encoded(tmp_path: Path) -> None:
    table = pa.table({"prompt": pa.array(["a", "b", "a"]).dictionary_encode()})
    assert read(parquet(tmp_path, table)) == ["a", "b", "a"]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.jsonl").write_bytes(GOOD)
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(StorageError, match=r"a\.jsonl: Permission denied; grant read access"):
        read(tmp_path / "a.jsonl")


def test_formats_follow_names_unless_they_are_given() -> None:
    assert [format_of(f) for f in ("gs://b/A.CSV", "x.parquet", "x.ndjson", "prompts")] == [
        "csv", "parquet", "jsonl", "jsonl",
    ]  # fmt: skip
    assert format_of("export.txt", "csv") == "csv"
