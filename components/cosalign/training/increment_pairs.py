"""The pairs that an increment trains on: new ones, and old ones that are replayed.

Old pairs are taken from those alone whose reference log-probabilities are paid for: what a stage of
an earlier run reached, and what it measured on the development split. Where a full run's steps end
before its pairs do, the others have none, and replaying them would charge a new config for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import TrainingGroup
from cosalign.domain.schemas import REFERENCED_PAIRS
from cosalign.store.tables import read_table
from cosalign.training.outcome import chosen_dev
from cosalign.training.replay import replay_rows, replayed

if TYPE_CHECKING:
    from cosalign.domain.run_config import IncrementGroup
    from cosalign.runtime.run_record import RunRecord
    from cosalign.runtime.step import StepContext
    from cosalign.training.encode import Rows

REGIONAL = "regional"
_IDS = tuple(REFERENCED_PAIRS.names)
EncodeDpo = Callable[[pa.Table, int], "Rows"]
"""Records and a length limit in, encoded rows out."""


@dataclass(frozen=True)
class IncrementPairs:
    """What an increment trains on, and what it measures checkpoints by.

    Attributes:
        pairs: Rows of the pairs table: new pairs of train and dev prompts, replayed train pairs,
            and the dev pairs that earlier runs measured.
        covered: All pairs of train prompts that are in use, trained on now or before.
        new: New pairs of train prompts.
        replayed: Old pairs of train prompts among ``pairs``.
        strata: Strata that the old pairs fall into.
        referenced: ``REFERENCED_PAIRS`` of the runs before.
    """

    pairs: pa.Table
    covered: pa.Table
    new: int
    replayed: int
    strata: int
    referenced: pa.Table


def increment_pairs(
    context: StepContext, record: RunRecord, group: IncrementGroup, encode: EncodeDpo | None
) -> IncrementPairs:
    """Chooses the pairs.

    Args:
        context: The training step's.
        record: The run that is extended.
        group: The increment.
        encode: Encodes DPO records; ``None`` on a double, where all old pairs count as reached.

    Raises:
        DataError: The new draws made no pair of a train prompt.
    """
    storage, synthesis = context.storage, context.inputs["synthesis"].tables
    pairs = read_table(storage, context.inputs["pairing"].tables["pairs"])
    draws = read_table(storage, synthesis["draws"])
    split = _looked_up(read_table(storage, synthesis["prompts"]), "prompt_id", "split", pairs)
    is_new = _among(pairs, read_table(storage, synthesis["new_draws"]), _IDS[:2])
    is_train = pc.equal(split, "train")
    new = pairs.filter(pc.and_(is_new, is_train))
    if not new.num_rows:
        raise DataError(
            "the new configs made no pair to train on: no prompt that meets them has two responses "
            "of different error with an acceptable better one; raise increment.prompts or "
            "increment.responses, or leave the increment out if the model follows them already"
        )
    referenced = referenced_before(context, record, encode)
    is_known = pc.and_(pc.invert(is_new), _among(pairs, referenced, _IDS))
    old = pairs.filter(pc.and_(is_known, is_train))
    dev = pairs.filter(pc.and_(pc.or_(is_new, is_known), pc.equal(split, "dev")))
    strata = _strata(old, draws, read_table(storage, synthesis["configs"]))
    wanted = replay_rows(new.num_rows, group.replay_share)
    ids: list[Json] = [list(row.values()) for row in old.select(_IDS).to_pylist()]
    chosen = replayed(strata, ids, wanted, [group.seed, sorted(group.configs)])
    return IncrementPairs(
        pairs=pa.concat_tables([new, old.take(pa.array(chosen, pa.int64())), dev]),
        covered=pairs.filter(is_train),
        new=new.num_rows,
        replayed=len(chosen),
        strata=len(set(strata)),
        referenced=referenced,
    )


def referenced_before(
    context: StepContext, record: RunRecord, encode: EncodeDpo | None
) -> pa.Table:
    """The pairs whose references the extended run and those before it have paid for."""
    training = record.manifests["training"]
    if "referenced_pairs" in training.tables:
        return read_table(context.storage, training.tables["referenced_pairs"])
    told = record.lineages["training"].of_step("training")
    found = [
        _reached(read_table(context.storage, training.tables[name]), told, encode, dev=dev)
        for name, dev in (("dpo_records", False), ("dpo_dev", True))
    ]
    return pa.concat_tables([records.select(_IDS) for records in found])


def with_reached(
    referenced: pa.Table, records: list[pa.Table], group: TrainingGroup, encode: EncodeDpo | None
) -> pa.Table:
    """``REFERENCED_PAIRS`` after a stage: those before it, and those it reached and measured.

    Args:
        referenced: Those before it.
        records: Its DPO records, and those of the development split.
        group: Its settings.
        encode: See :func:`increment_pairs`.
    """
    told = group.identity()
    trained, dev = records
    parts = [referenced, _reached(trained, told, encode), _reached(dev, told, encode, dev=True)]
    table = pa.concat_tables([_plain(part) for part in parts])
    order = [(name, "ascending") for name in _IDS]
    return table.group_by(list(_IDS)).aggregate([]).sort_by(order).cast(REFERENCED_PAIRS)


def _reached(
    records: pa.Table, told: dict[str, Any], encode: EncodeDpo | None, *, dev: bool = False
) -> pa.Table:
    """The records whose references a DPO stage with settings ``told`` computed."""
    dpo = told["dpo"]
    if dev and dpo["eval_steps"] is None:
        return records.slice(0, 0)
    limited = dpo["max_steps"] is not None or dev
    if encode is None or not limited or not records.num_rows:
        return records
    rows = encode(records, dpo["max_length"]).table
    if dev:
        rows = chosen_dev(rows, dpo["eval_rows"], told["seed"])
    else:
        # With torch, which whoever encodes is about to load anyway.
        from cosalign.training.dpo import reached

        rows = reached(rows, dpo["max_steps"], dpo["batch_size"], told["seed"])
    return records.take(rows["row"])


def _strata(old: pa.Table, draws: pa.Table, configs: pa.Table) -> list[tuple[str, str]]:
    """Who demands the config, and the kind of contrast, of each pair."""
    digests = _looked_up(configs, "config_id", "digest", old).to_pylist()
    keys = pc.index_in(_key(old, _IDS[:2]), value_set=_key(draws, _IDS[:2]).combine_chunks())
    modes = draws["mode"].take(keys).to_pylist()
    kinds = old["contrast"].cast(pa.string()).to_pylist()
    return [
        (digest if mode == REGIONAL else mode, kind)
        for digest, mode, kind in zip(digests, modes, kinds, strict=True)
    ]


def _among(table: pa.Table, others: pa.Table, names: tuple[str, ...]) -> pa.ChunkedArray:
    """Which rows have the ids of one of the others."""
    return pc.is_in(_key(table, names), value_set=_key(others, names).combine_chunks())


def _key(table: pa.Table, names: tuple[str, ...]) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*(table[n].cast(pa.string()) for n in names), " ")


def _plain(table: pa.Table) -> pa.Table:
    return pa.table({name: table[name].cast(pa.string()) for name in _IDS}, REFERENCED_PAIRS)


def _looked_up(table: pa.Table, key: str, value: str, pairs: pa.Table) -> pa.ChunkedArray:
    wanted = pairs[key].cast(pa.string())
    return table[value].take(pc.index_in(wanted, value_set=table[key].combine_chunks()))
