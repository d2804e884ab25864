"""The card's figures against a plain count over the tables, and what its page holds."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pairing.card_world import (
    ANSWERS,
    CONFIG_ROWS,
    COUNTS,
    PROMPT_ROWS,
    PROMPT_TEXT,
    TAXONOMY,
    config_of,
    finished,
    made_tables,
    response_id,
)

from cosalign.domain.contrast import CONTRASTS
from cosalign.domain.error_score import PAPER_WEIGHTS
from cosalign.domain.errors import DataError
from cosalign.domain.pair_identity import pair_id_of
from cosalign.domain.schemas import VERDICTS
from cosalign.pairing import card_figures
from cosalign.pairing.card_figures import PAIR_COLUMNS, PairContext, PairTally, length_figures
from cosalign.pairing.step import PairingStep
from cosalign.runtime.step import run_step
from cosalign.store.storage import Storage, open_storage
from cosalign.store.tables import read_table, write_table

REASONS = {
    "prompts_duplicate": "duplicates",
    "prompts_too_long": "too long",
    "prompts_near_duplicate": "near-duplicates",
    "prompts_in_rare_label_set": "of a rare label set",
}
BY_ID = {response_id(p, a): a for p in PROMPT_ROWS for a in ANSWERS}


def card_of(root: Path, **pairing: Any) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    manifest, storage = finished(root, **pairing)
    card = json.loads(storage.read_bytes(manifest.files["data_card_figures"]))
    page = storage.read_bytes(manifest.files["data_card"]).decode()
    return card, read_table(storage, manifest.tables["pairs"]).to_pylist(), page


def kind_of(pair: dict[str, Any]) -> str:
    """The contrast from the answers themselves, not from errors."""
    allowed = CONFIG_ROWS[pair["config_id"]][1]
    chosen, rejected = (ANSWERS[BY_ID[pair[f"{role}_id"]]] for role in ("chosen", "rejected"))
    violates = bool(rejected[0] & ~allowed)
    if chosen[1] and not rejected[1] and not violates:
        return "helpful_over_refusal"
    if not chosen[1] and violates:
        return "refusal_over_violation"
    return "fewer_risks"


def test_contrasts_are_those_of_a_plain_count(tmp_path: Path) -> None:
    card, pairs, _ = card_of(tmp_path)
    kinds = Counter(kind_of(pair) for pair in pairs)
    assert set(kinds) == set(CONTRASTS)
    assert card["pairs"]["contrasts"] == dict(kinds)
    assert card["pairs"]["pairs"] == len(pairs)
    refusals = sum(not ANSWERS[BY_ID[pair["chosen_id"]]][1] for pair in pairs)
    assert card["pairs"]["chosen_refusals"] == refusals > 0


def test_configs_are_counted_by_policy_and_not_by_rendering(tmp_path: Path) -> None:
    card, pairs, _ = card_of(tmp_path)
    for digest in ("e", "n"):
        own = [pair for pair in pairs if CONFIG_ROWS[pair["config_id"]][0] == digest]
        row = next(row for row in card["by_config"] if row["digest"] == digest)
        assert row["pairs"] == len(own)
        assert {k: row[k] for k in CONTRASTS} == {
            k: sum(kind_of(pair) == k for pair in own) for k in CONTRASTS
        }
    rows = {row["digest"]: row for row in card["by_config"]}
    assert rows["e"]["renderings"] == 2
    assert rows["e"]["allowed"] == ["financial_crime_theft"]
    assert rows["n"]["regions"] == ["de"]
    assert [r["pairs"] for r in card["by_config"]] == sorted(
        (r["pairs"] for r in card["by_config"]), reverse=True
    )


def test_categories_are_those_of_the_prompts_labels(tmp_path: Path) -> None:
    card, pairs, _ = card_of(tmp_path)
    for bit, name in enumerate(TAXONOMY.names):
        own = [pair for pair in pairs if PROMPT_ROWS[pair["prompt_id"]][0] >> bit & 1]
        row = card["by_category"][name]
        assert row["pairs"] == len(own)
        assert sum(row[kind] for kind in CONTRASTS) == len(own)


def test_lengths_are_those_of_the_pairs(tmp_path: Path) -> None:
    card, pairs, _ = card_of(tmp_path)
    chosen, rejected = (
        np.array([ANSWERS[BY_ID[pair[f"{role}_id"]]][2] for pair in pairs])
        for role in ("chosen", "rejected")
    )
    lengths = card["lengths"]
    assert lengths["pairs"] == len(pairs)
    assert lengths["difference_mean"] == pytest.approx((chosen - rejected).mean())
    assert lengths["chosen_longer"] == pytest.approx((chosen > rejected).mean())
    assert lengths["difference_quantiles"]["0.5"] == pytest.approx(np.median(chosen - rejected))


def test_unknown_verdicts_sources_and_generators_are_counted(tmp_path: Path) -> None:
    card, _, _ = card_of(tmp_path)
    labels = card["verdicts"]["labels"]
    assert labels["addressed"] == {"known": 20, "present": 16}
    assert labels["financial_crime_theft"] == {"known": 24, "present": 8}
    assert card["verdicts"]["most_risks"] == 2
    assert [(s["source"], s["licence"], s["prompts"], s["splits"]) for s in card["sources"]] == [
        ("None.jsonl", None, 1, {"train": 1}),
        ("mit.jsonl", "mit", 3, {"held_out": 1, "train": 2}),
    ]
    assert {g["name"]: (g["responses"], g["conditioned"]) for g in card["generators"]} == {
        "calm": (12, 0), "hot": (12, 12),
    }  # fmt: skip
    assert card["contamination"] == {"prompts_contaminated": 2}


def test_what_one_attempt_paid_for_is_no_part_of_the_card(tmp_path: Path) -> None:
    card, _, page = card_of(tmp_path)
    assert not {"labels_made", "engine_starts"} & set(card["counts"]["synthesis"])
    assert "labels made" not in page


def test_examples_are_pairs_of_their_kind(tmp_path: Path) -> None:
    card, pairs, page = card_of(tmp_path)
    ids = {pair_id_of(*(p[n] for n in PAIR_COLUMNS[:4])): kind_of(p) for p in pairs}
    for kind, examples in card["pairs"]["examples"].items():
        assert examples
        assert {ids[example] for example in examples} == {kind}
        assert all(example in page for example in examples)


def test_the_page_is_one_file_without_a_text_and_says_what_is_missing(tmp_path: Path) -> None:
    card, _, page = card_of(tmp_path)
    assert not re.search(r"(src|href)\s*=|<script|@import|url\((?!#)", page)
    assert "prefers-color-scheme: dark" in page
    assert PROMPT_TEXT not in page + json.dumps(card)
    assert "Answer" not in page
    assert "Prompts without a recorded licence: 1." in page


def test_the_same_run_gives_the_same_bytes_and_other_counts_another_step(tmp_path: Path) -> None:
    first, _ = finished(tmp_path / "a")
    again, _ = finished(tmp_path / "b")
    assert first.fingerprint == again.fingerprint
    names = ("data_card", "data_card_figures")
    bodies = [(tmp_path / r / first.files[n]).read_bytes() for r in "ab" for n in names]
    assert bodies[:2] == bodies[2:]


def test_configs_without_a_pair_are_counted_and_not_listed(tmp_path: Path) -> None:
    card, _, page = card_of(tmp_path)
    assert "Configs without any pair" not in page
    empty = _without_verdicts(tmp_path / "empty")
    page = empty.read_bytes(_card_path(empty)).decode()
    assert f"Configs without any pair: {len(card['by_config'])}." in page
    assert "allows no risk" not in page


def test_the_funnel_names_each_reason_that_applied(tmp_path: Path) -> None:
    _, _, page = card_of(tmp_path)
    lines = re.findall(r"<span>([^<]+)</span><span>([^<]+)</span><svg", page)
    shown = {label.replace("&#39;", "'"): count for label, count in lines}
    for name, label in REASONS.items():
        assert shown.get(label) == (f"{COUNTS[name]:,}" if COUNTS.get(name) else None), label


def test_no_pair_at_all_is_said(tmp_path: Path) -> None:
    storage = _without_verdicts(tmp_path)
    page = storage.read_bytes(_card_path(storage)).decode()
    assert "There is no pair: nothing can be learnt" in page


def _without_verdicts(root: Path) -> Storage:
    storage = open_storage(str(root))
    inputs = made_tables(storage)
    empty = write_table(storage, "verdicts.parquet", VERDICTS.empty_table(), VERDICTS)
    tables = {**inputs["scoring"].tables, "verdicts": empty}
    inputs["scoring"] = inputs["scoring"].model_copy(update={"tables": tables})
    run_step(PairingStep(), config_of(root), inputs)
    return storage


def _card_path(storage: Storage) -> str:
    return next(s.path for s in storage.list("steps/pairing") if s.path.endswith("data_card.html"))


def context(most_risks: int = 2) -> PairContext:
    prompts = sorted((name, mask) for name, (mask, _, _) in PROMPT_ROWS.items())
    return PairContext(
        configs=pa.table(
            {"config_id": list(CONFIG_ROWS), "digest": [d for d, _, _ in CONFIG_ROWS.values()]}
        ),
        prompts=pa.table(
            {
                "prompt_id": [name for name, _ in prompts],
                "risk_mask": pa.array([mask for _, mask in prompts], pa.uint32()),
            }
        ),
        taxonomy=TAXONOMY,
        weights=PAPER_WEIGHTS,
        most_risks=most_risks,
    )


ROWS = st.lists(
    st.tuples(
        st.sampled_from(list(PROMPT_ROWS)), st.sampled_from(list(CONFIG_ROWS)),
        st.sampled_from(list(BY_ID)), st.sampled_from(list(BY_ID)),
        st.integers(0, 29), st.integers(0, 90),
    ),
    max_size=30,
)  # fmt: skip


def tallied(rows: list[tuple[Any, ...]], size: int, most_risks: int = 2) -> PairTally:
    tally = PairTally(context(most_risks), len(rows))
    columns = list(zip(*rows, strict=True)) or [()] * 6
    types = [pa.string()] * 4 + [pa.int32()] * 2
    batch = pa.record_batch(
        [pa.array(c, t) for c, t in zip(columns, types, strict=True)], PAIR_COLUMNS
    )
    for start in range(0, len(rows), size):
        tally.add(batch.slice(start, size))
    return tally


@given(ROWS, st.integers(1, 31), st.randoms())
def test_neither_batches_nor_order_change_a_count(
    rows: list[tuple[Any, ...]], size: int, random: Any
) -> None:
    mixed = list(rows)
    random.shuffle(mixed)
    first, second = tallied(rows, len(rows) or 1), tallied(mixed, size)
    assert first.by_config() == second.by_config()
    assert first.by_category() == second.by_category()
    assert first.contrasts() == second.contrasts()
    assert (first.pairs, first.chosen_refusals) == (second.pairs, second.chosen_refusals)
    assert first.sample().num_rows == second.sample().num_rows == len(rows)


def test_kinds_that_cannot_be_told_are_unknown_and_pairs_are_still_counted() -> None:
    ids = list(BY_ID)
    tally = tallied([("cards", "none0", ids[0], ids[1], 0, 10)], 1, most_risks=10)
    assert tally.contrasts() == dict.fromkeys(CONTRASTS)
    assert tally.by_config()["n"] == {"pairs": 1, **dict.fromkeys(CONTRASTS)}
    assert not any(tally.examples.values())


def test_a_pair_of_another_run_is_named() -> None:
    ids = list(BY_ID)
    with pytest.raises(DataError, match="id stranger of a pair stands in no other table"):
        tallied([("cards", "stranger", ids[0], ids[1], 0, 10)], 1)


def test_a_sample_is_spread_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_figures, "SAMPLED_PAIRS", 10)
    ids = list(BY_ID)
    rows = [("cards", "none0", ids[i % 20], ids[0], 0, i) for i in range(95)]
    for size in (1, 7, 95):
        sample = tallied(rows, size).sample()
        assert sample.column("chosen_id").to_pylist() == [ids[i % 20] for i in range(0, 95, 10)]


def test_lengths_of_nothing_are_unknown() -> None:
    sample = pa.table(
        {"chosen_id": pa.array([], pa.string()), "rejected_id": pa.array([], pa.string())}
    )
    figures = length_figures(sample, lambda _: iter(()))
    assert figures["pairs"] == 0
    assert set(figures.values()) == {0, None}
