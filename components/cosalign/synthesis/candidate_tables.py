"""From the prompts that are drawn for to tables: configs, draws, responses, generators.

The order matters. First everything is drawn, as numbers, for pairing and for all generators; then
it is known which policies in prose are wanted, and they are written and read back; then all that
was drawn has a text, and responses are generated under it. Nothing here looks at a prompt's
neighbours, so shards of the prompts, each done apart, give tables that unite to the whole's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from cosalign.domain.fingerprint import Json
from cosalign.domain.run_config import GeneratorSettings, RunConfig
from cosalign.domain.schemas import (
    CONFIGS,
    DRAWS,
    FREEFORM_DRAWS,
    GENERATORS,
    GOLD_LABELS,
    RESPONSES,
)
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.models import ModelFolder, resolve_model
from cosalign.judging.engine_judge import EngineJudge
from cosalign.judging.label_protocol import config_protocol
from cosalign.judging.open_judge import judge_model
from cosalign.runtime.step import StepContext
from cosalign.synthesis.candidates import LabelledPrompt, SlotPlan, plan_candidates
from cosalign.synthesis.draws import REGIONAL, ConfigDrawer, Draw, PlannedDraw, pairing_draws
from cosalign.synthesis.policy_briefs import policy_briefs
from cosalign.synthesis.policy_rewrites import (
    PolicyRewrites,
    PolicyWriter,
    rewritten,
    write_policies,
)
from cosalign.synthesis.regional import RegionalConfigs, regional_configs
from cosalign.synthesis.renderings import Renderings, Slot
from cosalign.synthesis.responses import Generator, Writers, write_responses


@dataclass(frozen=True)
class CandidateTables:
    """Tables by name with their schemas, and figures for the manifest."""

    tables: dict[str, tuple[pa.Table, pa.Schema]]
    metrics: dict[str, float | None]


def candidate_tables(
    context: StepContext,
    host: EngineHost,
    prompts: list[LabelledPrompt],
    pool_mask: int,
    token_count: Callable[[str], int],
    counts: Counter[str],
    policies: EngineHost | None = None,
) -> CandidateTables:
    """Draws configs for prompts, has policies written, and generates candidate responses.

    Args:
        context: The step's.
        host: Where engines run.
        prompts: The prompts that are drawn for.
        pool_mask: The categories that configs are drawn from.
        token_count: Length of a text in the base model's tokens.
        counts: Counts what was drawn, written and set aside.
        policies: Where policies are written, if not at ``host``.
    """
    drawn = _draw(context, prompts, pool_mask)
    counts.update(drawn.regional.counts)
    rewrites = _rewrites(context, policies or host, drawn.slots)
    counts.update(rewrites.counts)
    renderings = Renderings(context.taxonomy, drawn.regional.drawn, rewrites.texts)
    draws = pairing_draws(drawn.planned, renderings)
    generators = run_generators(context.config)
    writers = Writers(host, context.storage, context.taxonomy, generators, token_count)
    written = write_responses(writers, prompts, drawn.plans, renderings, counts)
    counts.update({f"draws_{mode}": n for mode, n in Counter(d.mode for d in draws).items()})
    freeform = [freeform_row(d, renderings) for d in draws if d.allowed_mask is None]
    tables = {
        "configs": ([asdict(c) for c in renderings.given_out()], CONFIGS),
        "draws": ([asdict(d) for d in draws], DRAWS),
        "freeform_draws": (freeform, FREEFORM_DRAWS),
    }
    return CandidateTables(
        {
            **{name: (_table(rows, schema), schema) for name, (rows, schema) in tables.items()},
            "responses": (written.responses, RESPONSES),
            "gold_labels": (written.labels, GOLD_LABELS),
            "generators": (written.generators, GENERATORS),
        },
        _metrics(draws, rewrites, renderings),
    )


def pay_for_policies(
    context: StepContext, host: EngineHost, prompts: list[LabelledPrompt], pool_mask: int
) -> Counter[str]:
    """Has all policies in prose written that anything is drawn for; gives their counts.

    Shares of the prompts meet the same policies, so they are written before the work is spread.
    """
    return _rewrites(context, host, _draw(context, prompts, pool_mask).slots).counts


@dataclass(frozen=True)
class _Drawn:
    """All that was drawn for some prompts, as numbers."""

    regional: RegionalConfigs
    planned: list[PlannedDraw]
    plans: dict[str, SlotPlan]

    @property
    def slots(self) -> set[Slot]:
        """All slots that anything was drawn for."""
        choices = {d.choice for d in self.planned}.union(*(p.drawn for p in self.plans.values()))
        return {choice for choice in choices if not isinstance(choice, str)}


def _draw(context: StepContext, prompts: list[LabelledPrompt], pool_mask: int) -> _Drawn:
    settings = context.config.synthesis
    regional = regional_configs(context.config, context.taxonomy, pool_mask)
    drawer = ConfigDrawer(settings, pool_mask, regional.drawn)
    planned = drawer.pairing((p.prompt_id, p.risk_mask) for p in prompts)
    plans = plan_candidates(prompts, settings.generators, drawer, settings.seed)
    return _Drawn(regional, planned, plans)


def candidate_identity(config: RunConfig, taxonomy: Taxonomy, pool_mask: int) -> dict[str, Json]:
    """What the tables depend on, beside the prompts: settings, generators, writer, configs."""
    settings = config.synthesis
    writing = settings.model_dump(mode="json", exclude={"generators", "rewrites"})
    generators: list[Json] = [generator.identity() for generator in run_generators(config)]
    regional = regional_configs(config, taxonomy, pool_mask).drawn
    return {
        "synthesis": writing,
        "generators": generators,
        "rewrites": _rewriting_identity(config, taxonomy) if settings.freeform_share else None,
        "regional": [[c.digest, c.region] for c in regional],
    }


def run_generators(config: RunConfig) -> list[Generator]:
    """The run's generators with their models."""
    return open_generators(config, config.synthesis.generators)


def open_generators(config: RunConfig, settings: Sequence[GeneratorSettings]) -> list[Generator]:
    """Generators with their models."""
    cache = Path(config.storage.cache).expanduser()
    return [
        Generator(g, None if g.replies else resolve_model(g.model or config.models.base, cache))
        for g in settings
    ]


def _policy_model(config: RunConfig) -> ModelFolder:
    uri = config.synthesis.rewrites.writer or config.models.base
    return resolve_model(uri, Path(config.storage.cache).expanduser())


def _rewriting_identity(config: RunConfig, taxonomy: Taxonomy) -> Json:
    writer, judge = _policy_model(config), judge_model(config)
    return {
        "settings": config.synthesis.rewrites.model_dump(mode="json", exclude={"writer"}),
        "writer": [writer.digest, writer.tokenizer_digest],
        "judge": [judge.digest, judge.tokenizer_digest],
        "briefs": policy_briefs().digest,
        "protocol": config_protocol(taxonomy).digest,
    }


def _rewrites(context: StepContext, host: EngineHost, slots: set[Slot]) -> PolicyRewrites:
    config = context.config
    wanted = rewritten(slots, config.synthesis)
    if not wanted:
        return PolicyRewrites({}, Counter())
    writer = PolicyWriter(
        host=host,
        storage=context.storage,
        model=_policy_model(config),
        judge=EngineJudge(host, context.storage, judge_model(config)),
        taxonomy=context.taxonomy,
        settings=config.synthesis,
        min_label_mass=config.scoring.min_label_mass,
    )
    return write_policies(writer, wanted)


def freeform_row(draw: Draw, renderings: Renderings) -> dict[str, object]:
    """A draw of a free-form config with the policy's text; a row of FREEFORM_DRAWS."""
    return {
        "prompt_id": draw.prompt_id,
        "config_id": draw.config_id,
        "policy": renderings.text_of(draw.config_id),
    }


def _table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def _metrics(
    draws: list[Draw], rewrites: PolicyRewrites, renderings: Renderings
) -> dict[str, float | None]:
    """Shares as they came out, where they were asked for."""
    found: dict[str, float | None] = {}
    regional = [draw.allowed_mask is None for draw in draws if draw.mode == REGIONAL]
    if regional:
        found["regional_share"] = regional.count(False) / len(draws)
        found["regional_freeform_share"] = regional.count(True) / len(draws)
    if wanted := rewrites.counts["rewrites_wanted"]:
        found["rewrites_kept_share"] = rewrites.counts["rewrites_kept"] / wanted
        prose = {c.config_id for c in renderings.given_out() if c.template == "rewrite"}
        found["rewritten_draws_share"] = sum(d.config_id in prose for d in draws) / len(draws)
    return found
