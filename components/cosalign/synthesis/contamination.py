"""Evaluation sets that no prompt of the run may come from, and how many would have.

The published test set overlaps its own training pool: about 16 % of sampled training prompts are
test prompts. So every evaluation set that the run config names is held out here, by normalised text
and by near-duplicate, and counted set by set: what is reported has to say what it was kept from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import normalise_text, row_key
from cosalign.domain.run_config import PromptSource, RunConfig
from cosalign.domain.run_config.suites import SuiteSource
from cosalign.store.hub_datasets import suite_places
from cosalign.synthesis.near_duplicates import Pairs
from cosalign.synthesis.prompt_collections import Collection, evaluation_collection
from cosalign.synthesis.prompt_rows import Columns


@dataclass(frozen=True)
class EvaluationSet:
    """The unique prompts of one evaluation set: keys of 16 bytes, and texts in the same order."""

    name: str
    keys: tuple[bytes, ...]
    texts: tuple[str, ...]


def evaluation_collections(config: RunConfig, cache: Path) -> list[Collection]:
    """The evaluation sets that the run config names, each once."""
    fields = dict.fromkeys(config.prompts.held_out_files, config.prompts.field)
    if config.evaluation.benchmark is not None:
        fields.setdefault(config.evaluation.benchmark, "prompt")
    suites = (*config.evaluation.benchmarks, *config.evaluation.refusals)
    for suite in suites:
        if suite.file is not None:
            fields.setdefault(suite.file, suite.prompt_field)
    files = [evaluation_collection(file, field, cache) for file, field in fields.items()]
    return files + [c for suite in suites if suite.hub for c in _published_sets(suite, cache)]


def _published_sets(suite: SuiteSource, cache: Path) -> list[Collection]:
    """The parts of the hub's dataset that a suite reads."""
    return [
        Collection(
            name="/".join(part for part in (suite.hub, subset, split) if part),
            columns=Columns(suite.prompt_field),
            cache=cache,
            source=PromptSource(
                hub=suite.hub, subset=subset, revision=suite.revision, mirror=suite.mirror
            ),
            split=split,
        )
        for subset, split in suite_places(suite)
    ]


def read_evaluation_sets(collections: Sequence[Collection]) -> list[EvaluationSet]:
    """Reads evaluation sets; two files of one name get numbers.

    Raises:
        DataError: A set is malformed or holds no prompt: held out against it would mean nothing.
    """
    named: Counter[str] = Counter()
    found = []
    for collection in collections:
        first: dict[bytes, str] = {}
        for batch in collection.batches():
            for text in batch.rows["text"].to_pylist():
                if normalised := normalise_text(text or ""):
                    first.setdefault(row_key("prompt", normalised), text)
        if not first:
            raise DataError(
                f"{collection.file}: holds no prompt, so nothing would be held out by it; correct "
                "prompts.held_out_files or evaluation.benchmark"
            )
        named[collection.name] += 1
        number = f" ({named[collection.name]})" if named[collection.name] > 1 else ""
        found.append(EvaluationSet(collection.name + number, tuple(first), tuple(first.values())))
    return found


def exact_contamination(
    keys: npt.NDArray[np.uint64], sets: Sequence[EvaluationSet], counts: Counter[str]
) -> npt.NDArray[np.bool_]:
    """Which prompts stand in an evaluation set, shape (prompts,).

    Args:
        keys: Keys of unique prompts, shape (prompts, 2), as :func:`key_array` makes them.
        sets: The evaluation sets.
        counts: Gains, a set, its prompts and how many of them were found.
    """
    whole = np.zeros(len(keys), bool)
    for one in sets:
        wanted = key_array(one.keys)
        # Half of a key is 64 bits; the other half is compared where the first is found.
        places = np.flatnonzero(np.isin(keys[:, 0], wanted[:, 0]))
        pairs = {tuple(key) for key in wanted.tolist()}
        hits = [place for place in places.tolist() if tuple(keys[place].tolist()) in pairs]
        whole[hits] = True
        counts[f"evaluation_prompts[{one.name}]"] = len(one.keys)
        counts[f"contaminated_exact[{one.name}]"] = len(hits)
    return whole


def near_contamination(
    count: int, pairs: Pairs, sets: Sequence[EvaluationSet], counts: Counter[str]
) -> npt.NDArray[np.bool_]:
    """Which prompts are nearly the same as one of an evaluation set, shape (count,).

    Args:
        count: How many prompts.
        pairs: Near-duplicates among the prompts followed by the sets' texts, set after set.
        sets: The evaluation sets.
        counts: Gains, a set, how many prompts are nearly one of its own.
    """
    whole = np.zeros(count, bool)
    begin = count
    for one in sets:
        end = begin + len(one.texts)
        crossing = (pairs[:, 0] < count) & (pairs[:, 1] >= begin) & (pairs[:, 1] < end)
        hits = np.unique(pairs[crossing, 0])
        whole[hits] = True
        counts[f"contaminated_near[{one.name}]"] = len(hits)
        begin = end
    return whole


def all_texts(prompts: pa.ChunkedArray, sets: Sequence[EvaluationSet]) -> pa.ChunkedArray:
    """The prompts, followed by the sets' texts, set after set."""
    chunks = [pa.array(one.texts, pa.string()) for one in sets]
    return pa.chunked_array([*prompts.chunks, *chunks], pa.string())


def key_array(keys: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    """Keys of 16 bytes as two numbers each, shape (keys, 2); they sort as the bytes do."""
    return np.frombuffer(b"".join(keys), ">u8").astype(np.uint64).reshape(-1, 2)
