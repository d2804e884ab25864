"""What the run that is extended has judged, so that an increment asks about the rest alone.

The ledger would find the old verdicts too. They are taken from the extended run's tables because a
second judge is asked about a share of what is judged together: among more responses another choice
would be due, and responses judged long ago would be judged again. What was unknown then stays
unknown until the next full run asks again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.fingerprint import Json
from cosalign.domain.schemas import FOLLOWS, VERDICTS
from cosalign.runtime.run_record import RunRecord, previous_run
from cosalign.runtime.step import StepContext
from cosalign.store.tables import read_table


@dataclass(frozen=True)
class JudgedBefore:
    """Verdicts that stand; empty tables in a full run, and of first verdicts where none were kept.

    Attributes:
        verdicts: Rows of ``VERDICTS``.
        first: What first judges had said of responses that went to a second one.
        follows: Rows of ``FOLLOWS``.
    """

    verdicts: pa.Table = field(default_factory=VERDICTS.empty_table)
    first: pa.Table = field(default_factory=VERDICTS.empty_table)
    follows: pa.Table = field(default_factory=FOLLOWS.empty_table)

    @classmethod
    def of(cls, context: StepContext) -> JudgedBefore:
        """Reads them."""
        record = previous_run(context)
        if record is None:
            return cls()
        refs = record.manifests["scoring"].tables
        found = {
            name: read_table(context.storage, refs[name]).replace_schema_metadata(None)
            for name in ("verdicts", "first_verdicts", "follows")
            if name in refs
        }
        return cls(
            verdicts=found["verdicts"].cast(VERDICTS),
            first=found.get("first_verdicts", VERDICTS.empty_table()).cast(VERDICTS),
            follows=found["follows"].cast(FOLLOWS),
        )

    def others(self, responses: pa.Table) -> pa.Table:
        """The responses that are not judged yet."""
        known = self.verdicts["response_id"].combine_chunks()
        return responses.filter(pc.invert(pc.is_in(responses["response_id"], value_set=known)))


def increment_inputs(record: RunRecord | None, synthesis: dict[str, str]) -> dict[str, Json]:
    """What a scoring depends on beside a full run's inputs: what was judged, and what is new."""
    if record is None:
        return {}
    digests = record.table_digests("scoring")
    new = synthesis["new_freeform_draws"]
    return {"increment": {"previous": digests, "new_freeform_draws": new}}
