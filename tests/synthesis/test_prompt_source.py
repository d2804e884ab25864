"""The funnel from files to prompts: what is dropped, why, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from cosalign.domain.errors import DataError
from cosalign.domain.run_config import PromptsGroup
from cosalign.synthesis.prompt_source import PromptSelection, held_out_split, select_prompts

ROSES = "How do I prune old roses in spring?"


def words(text: str) -> int:
    return len(text.split())


def write(path: Path, prompts: list[str], field: str = "prompt") -> str:
    lines = [json.dumps({field: prompt}, ensure_ascii=False) for prompt in prompts]
    path.write_bytes("\n".join(lines).encode())
    return str(path)


@pytest.fixture
def select(tmp_path: Path) -> Callable[..., PromptSelection]:
    def selected(prompts: list[str], **settings: object) -> PromptSelection:
        files = (write(tmp_path / "prompts.jsonl", prompts),)
        return select_prompts(PromptsGroup.model_validate({"files": files, **settings}), words)

    return selected


Select = Callable[..., PromptSelection]


def texts(selection: PromptSelection) -> set[str]:
    return {prompt.text for prompt in selection.prompts}


def test_good_prompts_are_kept_as_written_and_sorted(select: Select) -> None:
    made = select([ROSES, "  Which beer suits  an old cheddar?  "])
    assert texts(made) == {ROSES, "  Which beer suits  an old cheddar?  "}
    ids = [prompt.prompt_id for prompt in made.prompts]
    assert ids == sorted(ids)
    assert {prompt.source for prompt in made.prompts} == {"prompts.jsonl"}
    assert made.counts == {"prompts_read": 2, "prompts_kept": 2}


@pytest.mark.parametrize("empty", ["", "   ", "\n\t", "\u00a0\u2003", "\u3000"])
def test_empty_prompts_are_counted(select: Select, empty: str) -> None:
    made = select([ROSES, empty])
    assert texts(made) == {ROSES}
    assert made.counts["prompts_empty"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Which cafés serve dark beer?", "Which cafe\u0301s serve dark beer?"),
        ("Which beer suits a cheddar?", "\uff37\uff48\uff49\uff43\uff48 beer suits a cheddar?"),
        ("Which beer suits a cheddar?", "Which\u00a0beer  suits\ta cheddar?\n"),
        ("Which beer suits a cheddar?", "WHICH BEER SUITS A CHEDDAR?"),
        ("Which ﬁne swords survive?", "Which fine swords survive?"),
    ],
    ids=["nfd", "full-width", "white-space", "case", "ligature"],
)
def test_the_same_prompt_in_another_form_is_a_duplicate(
    select: Select, one: str, other: str
) -> None:
    for first, second in ((one, other), (other, one)):
        made = select([first, second, ROSES])
        assert texts(made) == {first, ROSES}
        assert made.counts["prompts_duplicate"] == 1


def test_words_that_differ_are_no_duplicates(select: Select) -> None:
    made = select(["Who forged the first sword?", "Who forged the first swords?"])
    assert made.counts["prompts_kept"] == 2


def test_a_giant_prompt_is_dropped_without_being_tokenised(tmp_path: Path) -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return 8

    giant = "why " * 25_000
    files = (write(tmp_path / "prompts.jsonl", [giant, ROSES]),)
    made = select_prompts(PromptsGroup(files=files), count)
    assert counted == [ROSES]
    assert made.counts["prompts_too_long"] == 1
    assert texts(made) == {ROSES}


@pytest.mark.parametrize(
    ("count", "reason"), [(3, "too_short"), (4, None), (6, None), (7, "too_long")]
)
def test_the_bounds_are_inclusive(select: Select, count: int, reason: str | None) -> None:
    bounded = " ".join(f"rose{i}" for i in range(count))
    made = select(["one two three four five", bounded], min_tokens=4, max_tokens=6)
    assert (bounded in texts(made)) == (reason is None)
    assert {name for name in made.counts if "_too_" in name} == (
        {f"prompts_{reason}"} if reason else set()
    )


def test_held_out_files_keep_their_prompts_out(select: Select, tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", ["HOW do I prune old\u00a0roses in spring?"])
    made = select([ROSES, "Who forged the first sword?"], held_out_files=(held,))
    assert texts(made) == {"Who forged the first sword?"}
    assert made.counts["prompts_contaminated"] == 1


def test_held_out_prompts_may_be_of_any_length(select: Select, tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", ["", "x", "why " * 30_000, ROSES])
    made = select([ROSES, "Who forged the first sword?"], held_out_files=(held,))
    assert made.counts["prompts_contaminated"] == 1


def many(count: int) -> list[str]:
    return [f"How do I brew beer number {i}?" for i in range(count)]


@pytest.mark.parametrize("limit", [None, 1, 7])
def test_the_funnel_adds_up(select: Select, tmp_path: Path, limit: int | None) -> None:
    held = write(tmp_path / "held.jsonl", many(2))
    made = select(
        [*many(12), *many(5), "", " ", "too short", "rose " * 80, "rose " * 50_000],
        held_out_files=(held,),
        limit=limit,
    )
    counts = dict(made.counts)
    read, kept = counts.pop("prompts_read"), counts.pop("prompts_kept")
    assert read == 22
    assert kept == len(made.prompts) == (limit or 10)
    assert sum(counts.values()) == read - kept


def test_the_limit_is_stable_under_order_and_growth(select: Select) -> None:
    prompts = many(40)
    chosen = texts(select(prompts, limit=10))
    for seed in range(3):
        shuffled = random.Random(seed).sample(prompts, len(prompts))  # noqa: S311 no secret
        assert texts(select(shuffled, limit=10)) == chosen
    grown = texts(select(many(60), limit=10))
    assert grown & set(prompts) <= chosen
    assert texts(select(prompts, limit=15)) > chosen
    assert texts(select(prompts, limit=10, seed=1)) != chosen


def test_other_fields_and_several_files_are_read(tmp_path: Path) -> None:
    files = (
        write(tmp_path / "a.jsonl", [ROSES], "question"),
        write(tmp_path / "b.jsonl", ["Who forged the first sword?", ROSES], "question"),
    )
    made = select_prompts(PromptsGroup(files=files, field="question"), words)
    assert {(p.text, p.source) for p in made.prompts} == {
        (ROSES, "a.jsonl"),
        ("Who forged the first sword?", "b.jsonl"),
    }
    assert made.counts["prompts_duplicate"] == 1


def raw(tmp_path: Path, data: bytes) -> PromptSelection:
    path = tmp_path / "raw.jsonl"
    path.write_bytes(data)
    return select_prompts(PromptsGroup(files=(str(path),)), words)


GOOD = json.dumps({"prompt": ROSES}).encode()


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_a_line_separator_inside_a_string_ends_no_line(tmp_path: Path, separator: str) -> None:
    prompt = f"Who won the game,{separator}the red or the blue?"
    line = json.dumps({"prompt": prompt}, ensure_ascii=False).encode()
    assert texts(raw(tmp_path, line + b"\n" + GOOD)) == {prompt, ROSES}


def test_carriage_returns_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    made = raw(tmp_path, b"\r\n" + GOOD + b"\r\n  \r\n")
    assert made.counts == {"prompts_read": 1, "prompts_kept": 1}


BAD_LINES: list[tuple[bytes, str]] = [
    (b"{not json}", "not JSON"),
    (b'{"prompt": "cut', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"text": "Which beer?"}', r"no field 'prompt' \(found text\)"),
    (b'["Which beer?"]', "no field 'prompt'"),
    (b'"Which beer?"', "no field 'prompt'"),
    (b'{"prompt": 7}', "is a int, not a string"),
    (b'{"prompt": null}', "is a NoneType, not a string"),
    (b'{"prompt": ["Which", "beer?"]}', "is a list, not a string"),
    (b'{"prompt": "Which \xff beer?"}', "not valid UTF-8"),
    (b'{"prompt": "Which \\ud800 beer?"}', "not valid UTF-8"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_and_its_text_is_not(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        raw(tmp_path, GOOD + b"\n" + line)
    assert "raw.jsonl, line 2" in str(caught.value)
    assert "beer" not in str(caught.value)


def test_no_file_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"prompts\.files is empty"):
        select_prompts(PromptsGroup(), words)
    with pytest.raises(DataError, match="no such file"):
        select_prompts(PromptsGroup(files=(str(tmp_path / "none.jsonl"),)), words)


@pytest.mark.parametrize("data", [b"", b"\n\n", json.dumps({"prompt": "  "}).encode()])
def test_files_that_leave_no_prompt_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match="no prompt is left"):
        raw(tmp_path, data)


def test_the_held_out_share_is_drawn_by_content() -> None:
    ids = [f"prompt-{i}" for i in range(2000)]
    fifth = {i for i in ids if held_out_split(i, PromptsGroup(held_out_share=0.2))}
    third = {i for i in ids if held_out_split(i, PromptsGroup(held_out_share=0.3))}
    assert 330 < len(fifth) < 470
    assert fifth < third
    assert not any(held_out_split(i, PromptsGroup(held_out_share=0)) for i in ids)
