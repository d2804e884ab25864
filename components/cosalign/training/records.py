"""Joins ids to texts, once, as the last thing before training (law 5).

All earlier steps move ids and integers; here pairs meet the prompts, configs and responses that
they name. Lookups are hash joins in Arrow that keep the order of the left side, so the order of
records is that of their ids, which are content hashes: no clock, shard or dictionary order can
change what is trained.

Pairs of dev prompts become records of their own: they are never trained on, and tell checkpoints
apart.

The SFT target of a (config, prompt) is the chosen response with the lowest error, unless a run asks
for what the paper's code takes: whichever pair came last.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import seed_of
from cosalign.domain.run_config.training import SftTarget
from cosalign.domain.schemas import DPO_RECORDS, SFT_RECORDS

_SHOWN = 5
_PAIR_IDS = ("prompt_id", "config_id", "chosen_id", "rejected_id")


@dataclass(frozen=True)
class Sources:
    """The tables that records are made of, in the schemas of ``domain/schemas.py``."""

    prompts: pa.Table
    configs: pa.Table
    responses: pa.Table
    pairs: pa.Table


@dataclass(frozen=True)
class Records:
    """What both stages read.

    Attributes:
        sft: ``SFT_RECORDS``, one row a (prompt, config), of train prompts.
        dpo: ``DPO_RECORDS``, one row a pair, of train prompts.
        sft_dev: Likewise, of dev prompts; may be empty.
        dpo_dev: Likewise, of dev prompts; may be empty.
        cut: Ids of the responses that stopped at a length limit. Their end is no end: training
            must not teach the model to stop there.
    """

    sft: pa.Table
    dpo: pa.Table
    sft_dev: pa.Table
    dpo_dev: pa.Table
    cut: frozenset[str]


def join_records(sources: Sources, seed: int, sft_target: SftTarget = "lowest_error") -> Records:
    """SFT and DPO records of all pairs.

    Args:
        sources: The tables to join.
        seed: Seed of ties between equally good SFT targets.
        sft_target: Which chosen response of a (prompt, config) is the SFT target.

    Raises:
        DataError: There are no pairs to train on, a pair names what no table holds, a response
            belongs to another prompt, or a prompt is of neither the train nor the dev split.
    """
    pairs = _sorted_pairs(sources.pairs)
    split = _looked_up(sources.prompts, "prompt_id", pairs["prompt_id"], "split")
    _require_training_splits(pairs, split)
    for column in ("chosen_id", "rejected_id"):
        _require_own_response(pairs, column, sources.responses)
    train, dev = (pairs.filter(pc.equal(split, name)) for name in ("train", "dev"))
    _require_pairs(train)
    return Records(
        sft=_sft(sources, _targets(train, seed, sft_target)),
        dpo=_dpo(sources, train),
        sft_dev=_sft(sources, _targets(dev, seed, sft_target)),
        dpo_dev=_dpo(sources, dev),
        cut=cut_responses(sources.responses),
    )


def _require_pairs(pairs: pa.Table) -> None:
    if not pairs.num_rows:
        raise DataError(
            "there are no pairs to train on: no prompt has two responses of different error with "
            "an acceptable better one; raise prompts.limit or the responses a prompt "
            "(synthesis.generators), or use a stronger judge (models.judge)"
        )


def _sorted_pairs(pairs: pa.Table) -> pa.Table:
    ids = {name: pairs[name].cast(pa.string()) for name in _PAIR_IDS}
    table = pa.table({**ids, "chosen_error": pairs["chosen_error"]})
    return table.sort_by([(name, "ascending") for name in _PAIR_IDS])


def _targets(pairs: pa.Table, seed: int, target: SftTarget) -> pa.Table:
    """One pair a (prompt, config): the last, or the lowest chosen error, ties by a seeded hash."""
    if not pairs.num_rows:
        return pairs
    if target == "lowest_error":
        keys = zip(*(pairs[n].to_pylist() for n in _PAIR_IDS[:3]), strict=True)
        ranked = pairs.append_column("rank", pa.array(seed_of("sft", [seed, *key]) for key in keys))
        order = ("prompt_id", "config_id", "chosen_error", "rank")
        pairs = ranked.sort_by([(name, "ascending") for name in order])
    group = pc.binary_join_element_wise(pairs["prompt_id"], pairs["config_id"], " ")
    changed = pc.not_equal(group.slice(1), group.slice(0, len(group) - 1)).chunks
    edge = [pa.array([True])]
    marks = [*edge, *changed] if target == "lowest_error" else [*changed, *edge]
    return pairs.filter(pa.chunked_array(marks, pa.bool_()).combine_chunks())


def _sft(sources: Sources, best: pa.Table) -> pa.Table:
    columns = {
        "prompt_id": best["prompt_id"],
        "config_id": best["config_id"],
        "response_id": best["chosen_id"],
        "system": _looked_up(sources.configs, "config_id", best["config_id"], "text"),
        "prompt": _looked_up(sources.prompts, "prompt_id", best["prompt_id"], "text"),
        "response": _looked_up(sources.responses, "response_id", best["chosen_id"], "text"),
    }
    return pa.table(columns, schema=SFT_RECORDS)


def _dpo(sources: Sources, pairs: pa.Table) -> pa.Table:
    columns = {
        **{name: pairs[name] for name in _PAIR_IDS},
        "system": _looked_up(sources.configs, "config_id", pairs["config_id"], "text"),
        "prompt": _looked_up(sources.prompts, "prompt_id", pairs["prompt_id"], "text"),
        "chosen": _looked_up(sources.responses, "response_id", pairs["chosen_id"], "text"),
        "rejected": _looked_up(sources.responses, "response_id", pairs["rejected_id"], "text"),
    }
    return pa.table(columns, schema=DPO_RECORDS)


def cut_responses(responses: pa.Table) -> frozenset[str]:
    """Ids of the responses that did not end by themselves; see :class:`Records`."""
    stopped = pc.equal(responses["finish_reason"], "stop")
    return frozenset(responses.filter(pc.invert(stopped))["response_id"].to_pylist())


def _looked_up(table: pa.Table, key: str, wanted: pa.ChunkedArray, value: str) -> pa.ChunkedArray:
    """``value`` of the rows whose ``key`` is wanted, in the order of ``wanted``."""
    places = pc.index_in(wanted, value_set=table[key].combine_chunks())
    if places.null_count:
        missing = wanted.filter(pc.is_null(places))
        raise DataError(
            f"pairs name a {key} that its table does not hold: {_some(missing)}; the tables come "
            "from different runs, run pairing again"
        )
    return table[value].take(places)


def _require_training_splits(pairs: pa.Table, split: pa.ChunkedArray) -> None:
    own = pc.is_in(split, pa.array(["train", "dev"]))
    foreign = pairs["prompt_id"].filter(pc.invert(own))
    if len(foreign):
        raise DataError(
            f"prompts that may not be trained on are paired (split is not 'train' or 'dev'): "
            f"{_some(foreign)}; they are kept for measuring, so run synthesis and pairing again"
        )


def _require_own_response(pairs: pa.Table, column: str, responses: pa.Table) -> None:
    owner = _looked_up(responses, "response_id", pairs[column], "prompt_id")
    foreign = pairs[column].filter(pc.not_equal(owner, pairs["prompt_id"]))
    if len(foreign):
        raise DataError(f"pairs hold a {column} that answers another prompt: {_some(foreign)}")


def _some(ids: pa.ChunkedArray) -> str:
    unique = sorted(pc.unique(ids).to_pylist())
    more = f" and {len(unique) - _SHOWN} more" if len(unique) > _SHOWN else ""
    return ", ".join(unique[:_SHOWN]) + more
