"""The tables of an increment: those of the run that it extends, with what new configs add.

Every table means what it means in a full run, the whole data set, so later steps, another increment
and the evaluation read it as they read any. What is new stands beside it: ``new_draws`` and
``new_freeform_draws`` are all that is to be judged and paired. Prompts, their labels and splits,
and labels of authored replies are the extended run's own files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import ConfigError, DataError
from cosalign.domain.fingerprint import Json
from cosalign.domain.schemas import CONFIGS, DRAWS, FREEFORM_DRAWS, GENERATORS, RESPONSES
from cosalign.inference.engine_host import EngineHost
from cosalign.runtime.shares import Share
from cosalign.runtime.step import StepContext
from cosalign.store.tables import TableRef, read_table
from cosalign.synthesis.candidate_tables import freeform_row, open_generators
from cosalign.synthesis.candidates import LabelledPrompt
from cosalign.synthesis.draws import REGIONAL, Draw, PlannedDraw, pairing_draws
from cosalign.synthesis.increment_checks import Extension
from cosalign.synthesis.increment_draws import (
    Meeting,
    meetings,
    plan_increment,
    writers_under_configs,
)
from cosalign.synthesis.labelled_prompts import Tables, token_counter
from cosalign.synthesis.renderings import Renderings
from cosalign.synthesis.responses import (
    Writers,
    count_responses,
    first_of_each_response,
    responses_by,
    write_responses,
)
from cosalign.synthesis.splits import DRAWN_FOR

CARRIED = ("prompts", "prompt_labels", "gold_labels")
"""Tables that an increment changes nothing in."""


@dataclass(frozen=True)
class IncrementTables:
    """What an increment's synthesis leaves.

    Attributes:
        carried: Tables of the extended run that stand as they are.
        tables: Tables that grew, and those of what is new.
        counts: The extended run's counts, brought up to date, and those of the increment.
        metrics: The extended run's, and the shares of draws as they are now.
    """

    carried: Mapping[str, TableRef]
    tables: Tables
    counts: Counter[str]
    metrics: Mapping[str, float | None]


def increment_identity(context: StepContext, ext: Extension) -> Json:
    """What the tables depend on: the extended run's, the new configs, draws and writers."""
    settings = context.config.synthesis
    writing = writers_under_configs(settings.generators, ext.group.responses)
    return {
        "previous": ext.record.table_digests("synthesis"),
        "configs": [[config.digest, config.region] for config in ext.new],
        "removed": list(ext.removed),
        "prompts": ext.group.prompts,
        "draws": [settings.seed, settings.renderings],
        "generators": [g.identity() for g in open_generators(context.config, writing)],
    }


def pay_increment(
    context: StepContext, ext: Extension, host: EngineHost, share: Share
) -> Mapping[str, int]:
    """Generates a share's part of what an increment wants, into the ledger."""
    known = _Known.read(context, ext)
    met = [m for m in known.meetings if share.has(m.prompt.prompt_id)]
    counts = Counter[str]()
    _written(context, ext, host, met, known.renderings, counts)
    return {"responses_made": counts["responses_made"]}


def increment_tables(context: StepContext, ext: Extension, host: EngineHost) -> IncrementTables:
    """Draws the new configs, has responses written under them, and joins them to what is there.

    Raises:
        DataError: No prompt meets a new config.
        ConfigError: Responses are wanted, and no generator writes under configs, or one of them is
            another than that of its name in the extended run.
    """
    known = _Known.read(context, ext)
    made = Counter[str]()
    written = _written(context, ext, host, known.meetings, known.renderings, made)
    draws = _new_draws(known)
    responses = first_of_each_response(pa.concat_tables([known.old["responses"], written.rows]))
    generators = _generators(known.old["generators"], written.generators, responses)
    tables = {
        **_draw_tables(known, draws, ext.removed),
        "responses": (responses, RESPONSES),
        "generators": (pa.Table.from_pylist(generators, schema=GENERATORS), GENERATORS),
    }
    counts = _counts(ext, {name: table for name, (table, _) in tables.items()}, generators)
    counts["responses_made"] = made["responses_made"]
    counts["responses_new"] = responses.num_rows - known.old["responses"].num_rows
    old = ext.record.manifests["synthesis"]
    carried = {name: old.tables[name] for name in CARRIED if name in old.tables}
    return IncrementTables(carried, tables, counts, {**old.metrics, **_shares(tables["draws"][0])})


@dataclass(frozen=True)
class _Known:
    """The extended run's tables, and who meets what."""

    old: Mapping[str, pa.Table]
    meetings: list[Meeting]
    renderings: Renderings

    @classmethod
    def read(cls, context: StepContext, ext: Extension) -> _Known:
        refs = ext.record.manifests["synthesis"].tables
        names = ("prompts", "configs", "draws", "freeform_draws", "responses", "generators")
        old = {name: read_table(context.storage, refs[name]) for name in names}
        columns = (old["draws"][name].to_pylist() for name in ("prompt_id", "config_id"))
        drawn, looked_at = set(zip(*columns, strict=True)), Renderings(context.taxonomy, ext.new)

        def is_new(draw: PlannedDraw) -> bool:
            return (draw.prompt_id, looked_at.of(draw.choice).config_id) not in drawn

        prompts = _drawn_for(old["prompts"])
        met = meetings(prompts, ext.new, ext.group.prompts, context.config.synthesis, is_new)
        # Others than were looked at: it remembers what it gave out, as what the tables hold.
        return cls(old, met, Renderings(context.taxonomy, ext.new))


@dataclass(frozen=True)
class _Written:
    rows: pa.Table
    generators: list[dict[str, Any]]


def _drawn_for(prompts: pa.Table) -> list[LabelledPrompt]:
    rows = prompts.select(["prompt_id", "text", "risk_mask", "split"]).to_pylist()
    return [
        LabelledPrompt(row["prompt_id"], row["text"], row["risk_mask"])
        for row in rows
        if row["split"] in DRAWN_FOR
    ]


def _written(
    context: StepContext,
    ext: Extension,
    host: EngineHost,
    met: Sequence[Meeting],
    renderings: Renderings,
    counts: Counter[str],
) -> _Written:
    """Has the generators that write under configs write under the new ones."""
    config = context.config
    writing = writers_under_configs(config.synthesis.generators, ext.group.responses)
    if not writing and ext.group.responses:
        raise ConfigError(
            f"increment.responses is {ext.group.responses}, and no generator writes under configs "
            "(synthesis.generators: superset, not_superset); set it to 0, or name one that does"
        )
    if not met or not ext.group.responses:
        return _Written(RESPONSES.empty_table(), [])
    prompts = list({m.prompt.prompt_id: m.prompt for m in met}.values())
    plans = plan_increment(met, prompts, writing, config.synthesis.seed)
    count: Callable[[str], int] = token_counter(config)
    generators = open_generators(config, writing)
    writers = Writers(host, context.storage, context.taxonomy, generators, count)
    done = write_responses(writers, prompts, plans, renderings, counts)
    return _Written(done.responses, done.generators.to_pylist())


def _new_draws(known: _Known) -> list[Draw]:
    new = pairing_draws((m.draw for m in known.meetings), known.renderings)
    if not new:
        raise DataError(
            "no prompt meets a new config that it had not been paired under before; there is "
            "nothing to train, so leave the config out of increment.configs"
        )
    return new


def _draw_tables(known: _Known, new: list[Draw], removed: Sequence[str]) -> Tables:
    """Configs and draws, in all and new ones; draws of removed configs are left out."""
    old, renderings = known.old, known.renderings
    gone = old["configs"].filter(pc.is_in(old["configs"]["digest"], pa.array(removed, pa.string())))
    ids = gone["config_id"].combine_chunks()
    unused = pc.and_(pc.equal(old["draws"]["mode"], REGIONAL),
                     pc.is_in(old["draws"]["config_id"], ids))  # fmt: skip
    kept = old["draws"].filter(pc.invert(unused))
    freeform = old["freeform_draws"]
    kept_freeform = freeform.filter(pc.invert(pc.is_in(freeform["config_id"], ids)))
    drawn = pa.Table.from_pylist([asdict(draw) for draw in new], schema=DRAWS)
    own = [freeform_row(draw, renderings) for draw in new if draw.allowed_mask is None]
    asked = pa.Table.from_pylist(own, schema=FREEFORM_DRAWS)
    return {
        "configs": (_configs(old["configs"], renderings), CONFIGS),
        "draws": (_joined([kept, drawn], DRAWS), DRAWS),
        "freeform_draws": (_joined([kept_freeform, asked], FREEFORM_DRAWS), FREEFORM_DRAWS),
        "new_draws": (drawn, DRAWS),
        "new_freeform_draws": (asked, FREEFORM_DRAWS),
    }


def _configs(old: pa.Table, renderings: Renderings) -> pa.Table:
    """All renderings; one that a new config shares with a drawn one gets the region's name."""
    own = pa.Table.from_pylist([asdict(c) for c in renderings.given_out()], schema=CONFIGS)
    others = old.filter(pc.invert(pc.is_in(old["config_id"], own["config_id"].combine_chunks())))
    plain = others.replace_schema_metadata(None)
    return pa.concat_tables([plain.cast(CONFIGS), own]).sort_by("config_id")


def _joined(parts: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    table = pa.concat_tables([part.replace_schema_metadata(None).cast(schema) for part in parts])
    return table.sort_by([("prompt_id", "ascending"), ("config_id", "ascending")])


def _generators(
    old: pa.Table, new: list[dict[str, Any]], responses: pa.Table
) -> list[dict[str, Any]]:
    """The extended run's generators, then those that are new, with counts of all responses."""
    rows = {row["generator"]: row for row in old.to_pylist()}
    for row in new:
        before = rows.setdefault(row["generator"], row)
        if before["fingerprint"] != row["fingerprint"]:
            raise ConfigError(
                f"generator {row['generator']!r} is another model or samples otherwise than the "
                "one of that name in the extended run; give it another name"
            )
    return [{**row, **responses_by(name, responses)} for name, row in rows.items()]


def _counts(
    ext: Extension, tables: Mapping[str, pa.Table], generators: list[dict[str, Any]]
) -> Counter[str]:
    """The extended run's counts, those of tables that grew made anew, and what is new."""
    old = ext.record.manifests["synthesis"].counts
    again = ("responses_", "generator_", "draws_", "increment_")
    counts = Counter(
        {
            name: n
            for name, n in old.items()
            if not name.startswith(again) and not name.endswith("_made") and name != "engine_starts"
        }
    )
    count_responses(tables["responses"], generators, counts)
    modes = Counter(tables["draws"]["mode"].to_pylist())
    counts.update({f"draws_{mode}": n for mode, n in sorted(modes.items())})
    counts["draws_new"] = tables["new_draws"].num_rows
    regional = counts["regional_configs"] + len(ext.new) - len(ext.removed)
    counts["regional_configs"] = regional
    counts["increment_configs"] = len(ext.new)
    counts["increment_configs_removed"] = len(ext.removed)
    return counts


def _shares(draws: pa.Table) -> dict[str, float | None]:
    regional = draws.filter(pc.equal(draws["mode"], REGIONAL))["allowed_mask"]
    freeform = regional.null_count
    return {
        "regional_share": (len(regional) - freeform) / draws.num_rows,
        "regional_freeform_share": freeform / draws.num_rows,
    }
