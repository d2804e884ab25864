"""Which prompts meet a new config, and which responses are wanted under it.

In a full run a prompt meets a region's config by chance, whatever it asks about; of 20,000 prompts
enough are then of each kind. An increment takes few, so it takes them evenly: prompts whose risks
the config allows, partly allows and forbids, and benign ones, in turn. Within a kind the order is
the hash by which a full run draws, and the rendering is the one that it would draw: the next full
run meets most of these draws again, and finds the judgements of free-form ones paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cosalign.domain.fingerprint import seed_of
from cosalign.domain.prompt_types import PROMPT_TYPES, in_turn, prompt_type
from cosalign.domain.run_config import GeneratorSettings, SynthesisGroup
from cosalign.synthesis.candidates import LabelledPrompt, SlotPlan, owed_by
from cosalign.synthesis.draws import PlannedDraw, regional_draw, regional_seed
from cosalign.synthesis.regional import RegionalConfig

BENIGN = "benign"
KINDS = (*PROMPT_TYPES, BENIGN)
"""Kinds of prompts, in the order of their turns."""


@dataclass(frozen=True)
class Meeting:
    """A prompt that meets a new config."""

    prompt: LabelledPrompt
    config: RegionalConfig
    draw: PlannedDraw


def meetings(
    prompts: Sequence[LabelledPrompt],
    configs: Sequence[RegionalConfig],
    count: int,
    settings: SynthesisGroup,
    is_new: Callable[[PlannedDraw], bool],
) -> list[Meeting]:
    """The prompts that meet each of the configs, sorted by prompt.

    Args:
        prompts: The prompts that are drawn for.
        configs: The new configs.
        count: How many prompts a config meets, at most.
        settings: The seed of draws, and how many renderings there are.
        is_new: Whether a prompt was not paired under that very text before, by chance.
    """
    found = []
    for config in configs:
        met = (Meeting(p, config, regional_draw(settings, p.prompt_id, config)) for p in prompts)
        found += _evenly([m for m in met if is_new(m.draw)], settings)[:count]
    return sorted(found, key=lambda m: (m.prompt.prompt_id, m.config.digest))


def _evenly(met: list[Meeting], settings: SynthesisGroup) -> list[Meeting]:
    """Of each kind in turn; within a kind by the hash of a full run's draw."""
    queues: dict[str, list[Meeting]] = {kind: [] for kind in KINDS}
    for meeting in met:
        queues[_kind(meeting.prompt.risk_mask, meeting.config.allowed_mask)].append(meeting)
    for queue in queues.values():
        queue.sort(key=lambda m: regional_seed(settings, m.prompt.prompt_id, m.config))
    return in_turn(list(queues.values()))


def _kind(risk_mask: int, allowed_mask: int | None) -> str:
    if allowed_mask is None:
        return PROMPT_TYPES[-1]
    return prompt_type(risk_mask, allowed_mask) if risk_mask else BENIGN


def writers_under_configs(
    generators: Sequence[GeneratorSettings], responses: int
) -> list[GeneratorSettings]:
    """The generators that write under configs, each owing so many responses of one kind alone."""
    owing = {"plain": 0, "superset": responses, "not_superset": 0}
    return [
        generator.model_copy(update=owing)
        for generator in generators
        if not generator.replies and generator.superset + generator.not_superset
    ]


def plan_increment(
    met: Sequence[Meeting],
    prompts: Sequence[LabelledPrompt],
    writing: Sequence[GeneratorSettings],
    seed: int,
) -> dict[str, SlotPlan]:
    """What each generator owes the prompts that meet new configs: responses under those alone.

    Args:
        met: Who meets what, sorted by prompt.
        prompts: The prompts that the plans name by index.
        writing: See :func:`writers_under_configs`.
        seed: Seed of who writes what, for generators that share.
    """
    at = {prompt.prompt_id: i for i, prompt in enumerate(prompts)}
    plans = {generator.name: SlotPlan() for generator in writing}
    for meeting in met:
        own = seed_of("increment-writer", [seed, meeting.config.digest])
        for generator in writing:
            for _ in owed_by(generator, writing, meeting.prompt.prompt_id, own):
                plans[generator.name].add(at[meeting.prompt.prompt_id], meeting.draw.choice)
    return plans
