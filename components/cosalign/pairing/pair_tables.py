"""Tables in, tables out: checks what the arithmetic takes for granted, and counts what is unknown.

Ids may be strings or int64 and keep their type. A verdict with any unknown label (``risk_mask`` or
``addressed`` null, or a bit missing from ``known_mask`` where that column is there) enters no pair.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.error_score import PAPER_WEIGHTS, ErrorWeights
from cosalign.domain.errors import DataError
from cosalign.domain.taxonomy import MAX_CATEGORIES
from cosalign.pairing.algorithm import Draws, Pool, Verdicts, make_pairs
from cosalign.pairing.identifiers import IdSpace, mix

MIN_CATEGORIES = 2
"""One category and the catch-all."""


@dataclass(frozen=True)
class PairTable:
    """The pairs table and the counts that explain it."""

    pairs: pa.Table
    counts: Counter[str]


def pair_tables(
    verdicts: pa.Table,
    draws: pa.Table,
    categories: int,
    pool_mask: int | None = None,
    weights: ErrorWeights = PAPER_WEIGHTS,
    seed: int = 0,
) -> PairTable:
    """Pairs from a verdicts table and a draws table.

    Args:
        verdicts: Columns prompt_id, response_id, risk_mask, addressed, and maybe known_mask.
        draws: Columns prompt_id, config_id, allowed_mask.
        categories: How many categories the taxonomy has; the last is the catch-all.
        pool_mask: Categories that count by themselves; all where ``None``.
        weights: Of the error score, in tenths.
        seed: Of the draws inside groups.

    Raises:
        DataError: A column is missing, of a wrong type, or an id stands twice.
    """
    _check_categories(categories)
    full = (1 << categories) - 1
    pool = Pool(full if pool_mask is None else pool_mask, 1 << (categories - 1))
    _check_masks(pool, full)
    known = _known(verdicts, full)
    rows = verdicts.filter(known)
    _require(draws, ("prompt_id", "config_id", "allowed_mask"), "draws")
    _check_unique(rows, "response_id", "verdicts")
    _check_unique(draws, "config_id", "draws")
    prompts = IdSpace.of("prompt_id", rows["prompt_id"], draws["prompt_id"])
    responses = IdSpace.of("response_id", rows["response_id"])
    configs = IdSpace.of("config_id", draws["config_id"])
    made = make_pairs(
        _verdict_columns(rows, prompts, responses, full),
        _draw_columns(draws, prompts, configs, full & ~pool.catch_all),
        pool,
        weights,
        seed,
    )
    table = pa.table(
        {
            "prompt_id": prompts.ids(made.prompts),
            "config_id": configs.ids(made.configs),
            "chosen_id": responses.ids(made.chosen),
            "rejected_id": responses.ids(made.rejected),
            "chosen_error": made.chosen_errors,
            "rejected_error": made.rejected_errors,
        }
    )
    counts = Counter(
        verdicts=verdicts.num_rows,
        verdicts_unknown=verdicts.num_rows - rows.num_rows,
        draws=draws.num_rows,
        pairs=table.num_rows,
        draws_without_pair=draws.num_rows - _distinct_draws(table),
    )
    return PairTable(table, counts)


def _check_categories(categories: int) -> None:
    if not MIN_CATEGORIES <= categories <= MAX_CATEGORIES:
        raise DataError(
            f"a taxonomy has {MIN_CATEGORIES} to {MAX_CATEGORIES} categories, not {categories}; "
            "correct --categories"
        )


def _check_masks(pool: Pool, full: int) -> None:
    if pool.mask & ~full:
        raise DataError(
            f"the pool mask {pool.mask} names categories beyond the taxonomy's {full.bit_count()}; "
            "correct --pool-mask or --categories"
        )


def _known(verdicts: pa.Table, full: int) -> pa.ChunkedArray:
    _require(verdicts, ("prompt_id", "response_id", "risk_mask", "addressed"), "verdicts")
    known = pc.and_(
        pc.is_valid(verdicts.column("risk_mask")), pc.is_valid(verdicts.column("addressed"))
    )
    if "known_mask" in verdicts.column_names:
        known = pc.and_(known, pc.equal(_cast(verdicts, "known_mask", pa.uint32()), full))
    return known


def _require(table: pa.Table, names: tuple[str, ...], what: str) -> None:
    for name in names:
        if name not in table.column_names:
            raise DataError(
                f"the {what} table has no column {name!r}; it has {', '.join(table.column_names)}"
            )


def _verdict_columns(rows: pa.Table, prompts: IdSpace, responses: IdSpace, full: int) -> Verdicts:
    codes = responses.codes(rows["response_id"])
    return Verdicts(
        prompts=prompts.codes(rows["prompt_id"]),
        responses=codes,
        response_hashes=responses.hashes(codes),
        risk_masks=_masks(rows, "risk_mask", "verdicts", full),
        addressed=np.asarray(_cast(rows, "addressed", pa.bool_()).to_numpy(), np.bool_),
    )


def _draw_columns(draws: pa.Table, prompts: IdSpace, configs: IdSpace, allowed: int) -> Draws:
    prompt_codes = prompts.codes(draws["prompt_id"])
    config_codes = configs.codes(draws["config_id"])
    return Draws(
        prompts=prompt_codes,
        configs=config_codes,
        hashes=mix(prompts.hashes(prompt_codes)) + configs.hashes(config_codes),
        allowed_masks=_masks(draws, "allowed_mask", "draws", allowed),
    )


def _masks(table: pa.Table, name: str, what: str, allowed: int) -> npt.NDArray[np.uint32]:
    column = _cast(table, name, pa.uint32())
    if column.null_count:
        raise DataError(f"{column.null_count} rows of the {what} table have no {name}; fill it in")
    masks = np.asarray(column.to_numpy(), np.uint32)
    beyond = masks & ~np.uint32(allowed)
    if beyond.any():
        raise DataError(
            f"the {what} table's {name} holds {int(masks[beyond != 0][0])}, whose bits lie outside "
            f"the {allowed.bit_count()} categories possible there; is --categories right?"
        )
    return masks


def _cast(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    column = table.column(name)
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as problem:
        raise DataError(
            f"{name} is of type {column.type} and does not fit {kind}: {problem}"
        ) from None


def _check_unique(table: pa.Table, name: str, what: str) -> None:
    keys = table.select(["prompt_id", name])
    distinct = keys.group_by(["prompt_id", name]).aggregate([]).num_rows
    if distinct < keys.num_rows:
        raise DataError(
            f"the {what} table has {keys.num_rows - distinct} rows whose (prompt_id, {name}) "
            "stands more than once; keep one of each"
        )


def _distinct_draws(pairs: pa.Table) -> int:
    grouped = pairs.select(["prompt_id", "config_id"]).group_by(["prompt_id", "config_id"])
    rows: int = grouped.aggregate([]).num_rows
    return rows
