"""The pairs of the run that an increment extends, as the first part of its own table.

Only new draws are paired; what was paired before stays as it was chosen then, even where a prompt
has more responses now. Pairs of a removed config are left out, so that nothing replays them. The
old rows stand first, in their order, and the new ones after them, so that both stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.fingerprint import Json
from cosalign.pairing.table_stream import streamed
from cosalign.runtime.run_record import RunRecord, previous_run
from cosalign.runtime.step import StepContext
from cosalign.store.storage import Storage
from cosalign.store.tables import read_table

_OF_VERDICTS = ("verdicts", "verdicts_unknown")


@dataclass
class EarlierPairs:
    """What an increment takes over.

    Attributes:
        record: The run that is extended.
        dropped: Draws that are out of use, as ``PROMPT CONFIG``.
        dropped_freeform: How many of them are of free-form configs.
        gone: Counts of the pairs that were left out; complete once all batches were read.
    """

    record: RunRecord
    storage: Storage
    dropped: pa.Array
    dropped_freeform: int
    gone: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, context: StepContext) -> EarlierPairs | None:
        """Finds them; ``None`` in a full run."""
        record = previous_run(context)
        if record is None:
            return None
        manifests = (record.manifests["synthesis"], context.inputs["synthesis"])
        before, now = (read_table(context.storage, each.tables["draws"]) for each in manifests)
        kept = pc.is_in(_keys(before), value_set=_keys(now).combine_chunks())
        gone = before.filter(pc.invert(kept))
        freeform = gone["allowed_mask"].null_count
        return cls(record, context.storage, _keys(gone).combine_chunks(), freeform)

    def identity(self) -> Json:
        """What of them reaches the table, beside the draws."""
        return self.record.table_digests("pairing")["pairs"]

    def batches(self) -> Iterator[pa.Table]:
        """Pairs under configs that are still in use, in their order."""
        ref = self.record.manifests["pairing"].tables["pairs"]
        paired: set[str] = set()
        with streamed(self.storage, ref) as read:
            for batch in read(None):
                table = pa.table(batch)
                keys = _keys(table)
                out = pc.is_in(keys, value_set=self.dropped)
                paired.update(keys.filter(out).to_pylist())
                self._count(table.filter(out))
                yield table.filter(pc.invert(out))
        self.gone["draws"] = len(self.dropped)
        self.gone["draws_freeform"] = self.dropped_freeform
        self.gone["draws_without_pair"] = len(self.dropped) - len(paired)

    def counts(self, new: Counter[str]) -> Counter[str]:
        """Counts of the whole table: the extended run's, less what is out of use, and the new."""
        found = Counter(self.record.manifests["pairing"].counts)
        found.pop("pairs_added", None)
        found.subtract(self.gone)
        found.update(new)
        # Of the whole table of verdicts, which both runs read.
        found.update({name: new[name] - found[name] for name in _OF_VERDICTS})
        found["pairs_added"] = new["pairs"]
        return found

    def _count(self, gone: pa.Table) -> None:
        self.gone["pairs"] += gone.num_rows
        # Only the regions' own configs are ever removed.
        self.gone["mode_regional"] += gone.num_rows
        if "contrast" in gone.column_names:
            kinds = gone["contrast"].cast(pa.string()).to_pylist()
            self.gone.update(f"contrast_{kind}" for kind in kinds)


def _keys(table: pa.Table) -> pa.ChunkedArray:
    ids = (table[name].cast(pa.string()) for name in ("prompt_id", "config_id"))
    return pc.binary_join_element_wise(*ids, " ")
