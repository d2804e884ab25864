"""Decides which of all prompts read are kept, counting each that is not.

Nothing is dropped without a count: the funnel (read, left out by ``where``, empty, duplicate,
contaminated, too short, too long, near-duplicate, over the limit) is what a data card is made of.
Two prompts are the same if their normalised texts are (NFKC, case folded, white space collapsed);
the first one read is kept as it was written. Of prompts that are nearly the same the one of lowest
id is kept, so that the order of the sources decides nothing there.

Rows move as Arrow columns and arrays of keys; Python objects are made of the prompts that are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import normalise_text, row_key, seed_of
from cosalign.domain.run_config import NearDuplicateSettings, PromptsGroup
from cosalign.synthesis.contamination import (
    EvaluationSet,
    all_texts,
    exact_contamination,
    key_array,
    near_contamination,
)
from cosalign.synthesis.near_duplicates import (
    groups_of,
    kept_of_near_duplicates,
    near_duplicate_pairs,
)
from cosalign.synthesis.prompt_collections import Collection
from cosalign.synthesis.prompt_rows import BATCH_ROWS

CHARACTERS_PER_TOKEN = 40
"""No tokenizer packs more characters of real text into a token; longer texts are not tokenised."""

SELECTED = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("risks", pa.list_(pa.string())),
        ("group_id", pa.string()),
    ]
)
"""``group_id`` is the id of the first of the prompts that are nearly the same, mostly its own."""

_POOL_ROWS = pa.schema(
    [
        ("text", pa.string()),
        ("language", pa.string()),
        ("risks", pa.list_(pa.string())),
        ("collection", pa.int16()),
    ]
)

Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Prompt:
    """One kept prompt; ``risks`` are those that its source gives, if it is asked for them."""

    prompt_id: str
    text: str
    source: str
    risks: tuple[str, ...] | None
    language: str | None
    licence: str | None
    group_id: str


@dataclass
class PromptSelection:
    """The kept prompts as a table of :data:`SELECTED`, sorted by id, and the funnel to them."""

    table: pa.Table
    counts: Counter[str] = field(default_factory=Counter)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The rows as objects."""
        return [
            Prompt(**row | {"risks": None if row["risks"] is None else tuple(row["risks"])})
            for row in self.table.to_pylist()
        ]


def select_prompts(
    collections: Sequence[Collection],
    held_out: Sequence[EvaluationSet],
    settings: PromptsGroup,
    token_count: Callable[[str], int],
    erased: frozenset[str] = frozenset(),
) -> PromptSelection:
    """Reads, deduplicates and bounds the prompts of a run.

    Args:
        collections: Where prompts come from.
        held_out: Evaluation sets that no prompt may come from.
        settings: The run config's group.
        token_count: Length of a text in the base model's tokens.
        erased: Ids of prompts that somebody had erased, which no run may use again.

    Raises:
        DataError: A source is missing or malformed, or no prompt is left.
    """
    counts: Counter[str] = Counter()
    pool = _unique(_read(collections, counts), counts)
    if erased:
        gone = [name in erased for name in _ids(pool.keys).to_pylist()]
        pool = pool.without(np.array(gone, np.bool_), "erased", counts)
    pool = pool.without(exact_contamination(pool.keys, held_out, counts), "contaminated", counts)
    pool = _bounded(pool, settings, token_count, counts)
    groups = pool.keys
    if settings.near_duplicates is not None:
        pool, groups = _without_near_duplicates(pool, held_out, settings.near_duplicates, counts)
    table = _limited(_table(pool, groups, collections), settings, counts)
    counts["prompts_kept"] = table.num_rows
    counts["licence_unknown"] = table["licence"].null_count
    if not table.num_rows:
        raise DataError(f"no prompt is left of {dict(+counts)}; loosen the prompts group")
    return PromptSelection(table, counts)


@dataclass(frozen=True)
class _Pool:
    """Prompts on their way.

    Attributes:
        rows: Columns text, language, risks, and collection: the number of the one they come from.
        keys: The prompts' ids as two numbers each, shape (rows, 2); see :func:`key_array`.
    """

    rows: pa.Table
    keys: Keys

    def without(self, gone: Mask, reason: str, counts: Counter[str]) -> _Pool:
        """The rest, once those that are gone are counted."""
        counts[f"prompts_{reason}"] += int(gone.sum())
        return self.rest(gone)

    def rest(self, gone: Mask) -> _Pool:
        """The rest, once those that are gone were counted elsewhere."""
        return _Pool(self.rows.filter(pa.array(~gone)), self.keys[~gone])


def _read(collections: Sequence[Collection], counts: Counter[str]) -> _Pool:
    """All rows that have a text, in the order of reading."""
    tables, keys = [_POOL_ROWS.empty_table()], [key_array(())]
    for number, collection in enumerate(collections):
        for batch in collection.batches():
            rows, own_keys = _with_text(batch.rows, collection, number)
            counts["prompts_read"] += batch.read
            counts["prompts_left_out"] += batch.read - batch.rows.num_rows
            counts["prompts_empty"] += batch.rows.num_rows - rows.num_rows
            tables.append(rows)
            keys.append(own_keys)
    return _Pool(pa.concat_tables(tables), np.concatenate(keys))


def _with_text(rows: pa.Table, collection: Collection, number: int) -> tuple[pa.Table, Keys]:
    normalised = [normalise_text(text or "") for text in rows["text"].to_pylist()]
    keys = [row_key("prompt", text) for text in normalised if text]
    # A CSV file cannot say null.
    said = pc.if_else(pc.equal(rows["language"], ""), None, rows["language"])
    language = said if collection.language is None else pc.fill_null(said, collection.language)
    rows = rows.set_column(1, "language", language)
    rows = rows.append_column("collection", pa.repeat(pa.scalar(number, pa.int16()), len(rows)))
    present = pa.array([bool(text) for text in normalised], pa.bool_())
    return rows.filter(present).cast(_POOL_ROWS), key_array(keys)


def _unique(pool: _Pool, counts: Counter[str]) -> _Pool:
    """Each prompt once, as it was first read, sorted by id."""
    # Stable, and the first key is the last named: equal ids keep the order of reading.
    order = np.lexsort((pool.keys[:, 1], pool.keys[:, 0]))
    keys = pool.keys[order]
    again = np.concatenate([np.zeros(1, bool), (keys[1:] == keys[:-1]).all(axis=1)])[: len(keys)]
    counts["prompts_duplicate"] += int(again.sum())
    return _Pool(pool.rows.take(pa.array(order[~again])), keys[~again])


def _bounded(
    pool: _Pool, settings: PromptsGroup, token_count: Callable[[str], int], counts: Counter[str]
) -> _Pool:
    """Prompts whose length in tokens lies within the bounds."""
    characters = pc.utf8_length(pool.rows["text"]).to_numpy()
    giant = characters > CHARACTERS_PER_TOKEN * settings.max_tokens
    pool = pool.without(giant, "too_long", counts)
    tokens = np.fromiter(map(token_count, _texts(pool.rows)), np.int64, len(pool.keys))
    short, long = tokens < settings.min_tokens, tokens > settings.max_tokens
    return pool.without(long, "too_long", counts).without(short[~long], "too_short", counts)


def _texts(rows: pa.Table) -> Iterator[str]:
    for batch in rows.select(["text"]).to_batches(max_chunksize=BATCH_ROWS):
        yield from batch["text"].to_pylist()


def _without_near_duplicates(
    pool: _Pool,
    held_out: Sequence[EvaluationSet],
    settings: NearDuplicateSettings,
    counts: Counter[str],
) -> tuple[_Pool, Keys]:
    """What is left, and the key of the first of each one's group."""
    size = len(pool.keys)
    pairs = near_duplicate_pairs(all_texts(pool.rows["text"], held_out), settings.threshold)
    groups = pool.keys[groups_of(size, pairs)]
    contaminated = near_contamination(size, pairs, held_out, counts)
    kept = kept_of_near_duplicates(size, pairs, contaminated)
    again = ~contaminated & ~kept
    counts["prompts_near_contaminated"] += int(contaminated.sum())
    counts["near_duplicates_found"] += int(again.sum())
    if not settings.remove:
        again[:] = False
    counts["prompts_near_duplicate"] += int(again.sum())
    gone = contaminated | again
    return pool.rest(gone), groups[~gone]


def _table(pool: _Pool, groups: Keys, collections: Sequence[Collection]) -> pa.Table:
    """The pool in the form of :data:`SELECTED`."""
    number = pool.rows["collection"]
    columns = {
        "prompt_id": _ids(pool.keys),
        "text": pool.rows["text"],
        "language": pool.rows["language"],
        "source": pa.array([c.name for c in collections], pa.string()).take(number),
        "licence": pa.array([c.licence for c in collections], pa.string()).take(number),
        "risks": pool.rows["risks"],
        "group_id": _ids(groups),
    }
    return pa.table(columns).cast(SELECTED)


def _ids(keys: Keys) -> pa.Array:
    data = keys.astype(">u8").tobytes()
    return pa.array([data[i : i + 16].hex() for i in range(0, len(data), 16)], pa.string())


def _limited(table: pa.Table, settings: PromptsGroup, counts: Counter[str]) -> pa.Table:
    over = 0 if settings.limit is None else table.num_rows - settings.limit
    if over <= 0:
        return table
    ids = table["prompt_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: seed_of("limit", [settings.seed, ids[i]]))
    counts["prompts_over_limit"] = over
    return table.take(pa.array(sorted(order[: settings.limit])))
