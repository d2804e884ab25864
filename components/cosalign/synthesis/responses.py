"""The responses table of all generators, and what each of them gave.

Truncated and empty responses are kept as they are: a model that talks on or says nothing is part of
what is judged and paired. They are counted by generator, with the generator's fingerprint, so that
a pair can be traced to weights, template and sampling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import Json, content_sha256, fingerprint
from cosalign.domain.run_config import GeneratorSettings
from cosalign.domain.schemas import GENERATORS, GOLD_LABELS
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage, read_uri
from cosalign.synthesis.authored_replies import authored_candidates
from cosalign.synthesis.candidates import (
    CandidatePlan,
    LabelledPrompt,
    SlotPlan,
    generate_candidates,
    sampling_of,
)
from cosalign.synthesis.renderings import Renderings


@dataclass(frozen=True)
class Generator:
    """A generator's settings and its model; ``None`` where people wrote the replies."""

    settings: GeneratorSettings
    model: ModelFolder | None

    def provenance(self) -> dict[str, Json]:
        """What its responses depend on beside their messages; a part of a GENERATORS row."""
        if self.model is None:
            own: dict[str, Json] = {
                "replies": content_sha256(read_uri(self.settings.replies or ""))
            }
        else:
            own = {"model": self.model.digest, "tokenizer": self.model.tokenizer_digest}
            own |= asdict(sampling_of(self.settings))
        return {**own, "fingerprint": fingerprint("generator", own)}

    def identity(self) -> Json:
        """What of a generator reaches a table: its settings, and its model by content."""
        settings = self.settings.model_dump(mode="json", exclude={"model", "replies"})
        return {**settings, "fingerprint": self.provenance()["fingerprint"]}


@dataclass(frozen=True)
class Writers:
    """All generators, and what they need to write."""

    host: EngineHost
    storage: Storage
    taxonomy: Taxonomy
    generators: Sequence[Generator]
    token_count: Callable[[str], int]


@dataclass(frozen=True)
class WrittenResponses:
    """Responses and authors' labels of their own, by id; generators in the run config's order."""

    responses: pa.Table
    labels: pa.Table
    generators: pa.Table


def write_responses(
    writers: Writers,
    prompts: list[LabelledPrompt],
    plans: Mapping[str, SlotPlan],
    renderings: Renderings,
    counts: Counter[str],
) -> WrittenResponses:
    """Has the generators write what they owe, one after the other.

    Args:
        writers: The generators.
        prompts: The prompts, as the plans know them.
        plans: What each model owes, by generator name.
        renderings: Gives the plans' slots their texts.
        counts: Counts responses by how they ended.

    Raises:
        DataError: Nobody owes anything.
    """
    parts, labels = [], [GOLD_LABELS.empty_table()]
    for generator in writers.generators:
        name = generator.settings.name
        if generator.model is None:
            authored = authored_candidates(
                prompts, generator.settings, writers.taxonomy, writers.token_count, counts
            )
            part = authored.responses
            labels.append(authored.labels)
        else:
            sampling = sampling_of(generator.settings)
            owed = CandidatePlan(plans[name], prompts, renderings, sampling)
            done = generate_candidates(writers.host, writers.storage, generator.model, name, owed)
            counts["responses_made"] += done.made
            part = done.rows
        parts.append(part)
    if not any(part.num_rows for part in parts):
        raise DataError("the generators owe no response; set plain, superset or not_superset")
    table = first_of_each_response(pa.concat_tables(parts))
    rows = [{**row_of_generator(g.settings, table), **g.provenance()} for g in writers.generators]
    count_responses(table, rows, counts)
    return WrittenResponses(
        responses=table,
        labels=pa.concat_tables(labels).sort_by("response_id"),
        generators=pa.Table.from_pylist(rows, schema=GENERATORS),
    )


def first_of_each_response(table: pa.Table) -> pa.Table:
    """Two generators of one model may owe the same response; it is one row, sorted by id."""
    numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
    first = numbered.group_by("response_id").aggregate([("row", "min")]).sort_by("response_id")
    return table.take(first["row_min"])


def row_of_generator(settings: GeneratorSettings, table: pa.Table) -> dict[str, Any]:
    """A generator's row of GENERATORS, but for its provenance."""
    return {
        "generator": settings.name,
        "weight": settings.weight,
        **responses_by(settings.name, table),
    }


def responses_by(name: str, table: pa.Table) -> dict[str, int]:
    """How many responses a generator gave, and how many of them ended badly."""
    own = table.filter(pc.equal(table["generator"], name))
    reasons = own["finish_reason"]
    failed = pc.equal(reasons, "error")
    wordless = pc.equal(pc.utf8_trim_whitespace(own["text"]), "")
    return {
        "responses": own.num_rows,
        "truncated": _how_many(pc.equal(reasons, "length")),
        "empty": _how_many(pc.and_not(wordless, failed)),
        "failed": _how_many(failed),
    }


def _how_many(chosen: pa.ChunkedArray) -> int:
    return pc.sum(chosen).as_py() or 0


def count_responses(table: pa.Table, rows: list[dict[str, Any]], counts: Counter[str]) -> None:
    """Counts responses by how they ended, in all and by generator; ``rows`` are GENERATORS'."""
    for reason in pc.value_counts(table["finish_reason"]).to_pylist():
        counts[f"responses_finished_{reason['values']}"] = reason["counts"]
    for row in rows:
        for what in ("responses", "truncated", "empty", "failed"):
            counts[f"generator_{row['generator']}_{what}"] = row[what]
    counts["responses_empty"] = sum(row["empty"] for row in rows)
