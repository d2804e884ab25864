"""Verdicts and draws of any size, streamed to disk: made up, in proportions like the method's.

Eight responses and four configs a prompt, one config a mode of synthesis. A third of the responses
refuse; the others hold each risk of their prompt's label set with probability 0.6, and now and then
a stray one. Ids are int64 that look random, as hashes do; prompts ascend, and so do the configs of
a prompt, as in the pipeline's draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from cosalign.pairing.identifiers import mix

CATEGORIES, RESPONSES, CONFIGS = 8, 8, 4
SCORED_A_PROMPT = RESPONSES * CONFIGS
MODES = ("exact", "superset", "safe", "not_superset")
_AT_A_TIME = 1 << 15
_POOL = 0b0111_1111
Masks = npt.NDArray[np.uint32]


def write_tables(folder: Path, scored: int) -> tuple[Path, Path]:
    """Writes both tables for so many scored rows (responses x configs); gives their paths."""
    verdicts, draws = folder / f"verdicts-{scored}.parquet", folder / f"draws-{scored}.parquet"
    _write(verdicts, (v for v, _ in _pieces(scored // SCORED_A_PROMPT)))
    _write(draws, (d for _, d in _pieces(scored // SCORED_A_PROMPT)))
    return verdicts, draws


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(
        path, first.schema, compression="zstd", use_dictionary=["mode"]
    ) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _pieces(prompts: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    for start in range(0, prompts, _AT_A_TIME):
        numbers = np.arange(start, min(start + _AT_A_TIME, prompts))
        rng = np.random.default_rng([7, start])
        labels = _labels(rng, len(numbers))
        yield _verdicts(rng, numbers, labels), _draws(rng, numbers, labels)


def _labels(rng: np.random.Generator, count: int) -> Masks:
    risks = rng.choice([0, 1, 2, 3], p=[0.25, 0.4, 0.25, 0.1], size=count)
    bits = rng.permuted(np.tile(np.arange(CATEGORIES - 1), (count, 1)), axis=1)
    held = np.arange(CATEGORIES - 1) < risks[:, None]
    return np.asarray((held << bits).sum(axis=1), np.uint32)


def _subsets(rng: np.random.Generator, masks: Masks, share: float) -> Masks:
    bits = rng.random((*masks.shape, CATEGORIES)) < share
    return np.asarray(masks & (bits << np.arange(CATEGORIES)).sum(axis=-1), np.uint32)


def _ids(prompts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    low = mix(prompts.astype(np.uint64)) >> np.uint64(44)
    return (prompts << 20) + low.astype(np.int64)


def _verdicts(rng: np.random.Generator, prompts: npt.NDArray[np.int64], labels: Masks) -> pa.Table:
    rows = (prompts[:, None] * RESPONSES + np.arange(RESPONSES)).reshape(-1)
    answers = rng.random(len(rows)) < 0.67
    risks = _subsets(rng, np.repeat(labels, RESPONSES), 0.6)
    strays = np.uint32(1) << rng.integers(0, CATEGORIES, len(rows)).astype(np.uint32)
    risks |= np.where(rng.random(len(rows)) < 0.03, strays, 0).astype(np.uint32)
    return pa.table(
        {
            "prompt_id": np.repeat(_ids(prompts), RESPONSES),
            "response_id": (mix(rows.astype(np.uint64)) >> np.uint64(1)).astype(np.int64),
            "risk_mask": np.where(answers, risks, 0).astype(np.uint32),
            "addressed": answers,
        }
    )


def _draws(rng: np.random.Generator, prompts: npt.NDArray[np.int64], labels: Masks) -> pa.Table:
    outside = _subsets(rng, np.uint32(_POOL) & ~labels, 0.5)
    within = _subsets(rng, labels, 0.4)
    within = np.where(within == labels, 0, within)
    allowed = np.stack([labels, labels | outside, np.zeros_like(labels), within | outside], axis=1)
    allowed[labels == 0, 3] = 0
    rendering = rng.integers(0, 16, allowed.shape) * CONFIGS + np.arange(CONFIGS)
    configs = allowed.astype(np.int64) * 64 + rendering
    order = np.argsort(configs, axis=1)
    configs, allowed = (np.take_along_axis(column, order, axis=1) for column in (configs, allowed))
    return pa.table(
        {
            "prompt_id": np.repeat(_ids(prompts), CONFIGS),
            "config_id": configs.reshape(-1),
            "allowed_mask": np.take_along_axis(allowed, order, axis=1)
            .reshape(-1)
            .astype(np.uint32),
            "mode": np.array(MODES)[order].reshape(-1),
        }
    )
