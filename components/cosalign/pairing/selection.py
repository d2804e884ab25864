"""Options that leave pairs out within a prompt, and what is written beside the pairs that stay.

Which pairs stay is decided by their ``rank``, a hash of content, so that a cap draws evenly and
the same everywhere.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.contrast import CONTRASTS
from cosalign.pairing.chunk_pairs import ChunkPairs
from cosalign.pairing.identifiers import BoolArray, IndexArray, run_starts
from cosalign.pairing.settings import Selection

PAIR_COLUMNS = (
    "prompt_id", "config_id", "chosen_id", "rejected_id", "chosen_error", "rejected_error",
)  # fmt: skip


def select_in_chunk(made: ChunkPairs, selection: Selection) -> ChunkPairs:
    """Applies the bound on lengths and the caps per draw and per prompt, in this order."""
    table, counts = made.table, Counter(made.counts)
    if selection.needs_lengths:
        table = _of_known_length(table, counts)
    if selection.max_length_ratio is not None:
        table = _within_ratio(table, selection.max_length_ratio, counts)
    if selection.max_per_draw is not None:
        groups = table["draw"].to_numpy()
        table = _capped(table, groups, selection.max_per_draw, counts, "pairs_over_draw_cap")
    if selection.max_per_prompt is not None:
        groups = _run_numbers(table, "prompt_id")
        table = _capped(table, groups, selection.max_per_prompt, counts, "pairs_over_prompt_cap")
    return ChunkPairs(table, counts)


def output_table(table: pa.Table, selection: Selection) -> pa.Table:
    """The columns that are written."""
    written = table.select(PAIR_COLUMNS)
    if selection.contrast:
        kinds = pa.DictionaryArray.from_arrays(
            table["contrast"].combine_chunks(), pa.array(CONTRASTS)
        )
        written = written.append_column("contrast", kinds)
    if selection.margin_cap is not None:
        margin = pc.subtract(table["rejected_error"], table["chosen_error"]).to_numpy()
        weight = np.minimum(margin, selection.margin_cap) / np.float32(selection.margin_cap)
        written = written.append_column("weight", pa.array(weight.astype(np.float32)))
    return written


def count_pairs(table: pa.Table) -> Counter[str]:
    """What the data card shows of pairs of whole prompts; ``draws_paired`` have at least one."""
    draws = table["draw"].to_numpy()
    paired = min(1, len(draws)) + int(np.count_nonzero(draws[1:] != draws[:-1]))
    counts = Counter(pairs=table.num_rows, draws_paired=paired)
    kinds = table["contrast"].to_numpy()
    counts.update(
        {f"contrast_{n}": int(np.count_nonzero(kinds == i)) for i, n in enumerate(CONTRASTS)}
    )
    if "mode" in table.column_names:
        modes = table["mode"].combine_chunks()
        coded = modes if pa.types.is_dictionary(modes.type) else modes.dictionary_encode()
        found = np.bincount(coded.indices.to_numpy(), minlength=len(coded.dictionary))
        named = zip(coded.dictionary.to_pylist(), found.tolist(), strict=True)
        counts.update({f"mode_{mode}": count for mode, count in named if count})
    return counts


def _of_known_length(table: pa.Table, counts: Counter[str]) -> pa.Table:
    known = pc.and_(table["chosen_length"].is_valid(), table["rejected_length"].is_valid())
    kept = table.filter(known)
    counts["pairs_length_unknown"] += table.num_rows - kept.num_rows
    return kept


def _within_ratio(table: pa.Table, ratio: float, counts: Counter[str]) -> pa.Table:
    chosen, rejected = table["chosen_length"].to_numpy(), table["rejected_length"].to_numpy()
    shorter = np.maximum(np.minimum(chosen, rejected), 1)
    kept = table.filter(pa.array(np.maximum(chosen, rejected) <= ratio * shorter))
    counts["pairs_length_apart"] += table.num_rows - kept.num_rows
    return kept


def _run_numbers(table: pa.Table, name: str) -> IndexArray:
    begins = np.zeros(table.num_rows, np.int64)
    begins[run_starts(table[name].combine_chunks())] = 1
    return np.cumsum(begins)


def _capped(
    table: pa.Table, groups: IndexArray, cap: int, counts: Counter[str], name: str
) -> pa.Table:
    kept = table.filter(pa.array(lowest_of_each(groups, table["rank"].to_numpy(), cap)))
    counts[name] += table.num_rows - kept.num_rows
    return kept


def lowest_of_each(groups: IndexArray, rank: np.ndarray, cap: int) -> BoolArray:
    """Marks the ``cap`` rows of lowest rank in each run of equal, ascending ``groups``."""
    order = np.lexsort((rank, groups))
    begins = np.ones(len(groups), np.bool_)
    begins[1:] = groups[1:] != groups[:-1]
    start = np.flatnonzero(begins)
    place = np.arange(len(groups)) - np.repeat(start, np.diff(np.append(start, len(groups))))
    kept = np.zeros(len(groups), np.bool_)
    kept[order] = place < cap
    return kept
