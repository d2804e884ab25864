"""Demonstrations: what in-context alignment with k examples is shown before the prompt.

They are SFT targets of the run's own training data, so that the comparison is fair: the same
replies either train a model or stand in its prompt. For a categorical config they come from
the configs whose allowed sets differ least from its own, and only such replies are shown as are
right under it too: their prompt has to be of one type (allowed, partial, disallowed) under both.
Types take turns, so that both an answer and a decline are seen where there are any. A free-form
config has no set; it is shown replies under the texts that share most words with its own.

One config has one set of demonstrations, so all its prompts share them as a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import pyarrow as pa

from cosalign.domain.config_rendering import RenderedConfig
from cosalign.domain.errors import DataError
from cosalign.domain.fingerprint import seed_of
from cosalign.domain.prompt_types import FREEFORM, PROMPT_TYPES, prompt_type
from cosalign.evaluation.answers import Shots, System
from cosalign.evaluation.items import EvaluationItems
from cosalign.inference.engine import Messages


@dataclass(frozen=True)
class Shown:
    """One reply of the training data.

    Attributes:
        prompt_id: Its prompt.
        prompt: The prompt's text.
        reply: The reply.
        risk_mask: The prompt's risks.
        allowed_mask: The allowed set that it was chosen under; ``None`` for a free-form config.
        config_text: That config's text.
    """

    prompt_id: str
    prompt: str
    reply: str
    risk_mask: int
    allowed_mask: int | None
    config_text: str


def read_pool(records: pa.Table, configs: pa.Table, prompts: pa.Table) -> list[Shown]:
    """The replies that may be shown.

    Args:
        records: The training step's SFT records.
        configs: The configs table.
        prompts: The prompts table.
    """
    masks = _columns(configs, "config_id", "allowed_mask")
    risks = _columns(prompts, "prompt_id", "risk_mask")
    return [
        Shown(
            row["prompt_id"], row["prompt"], row["response"], risks[row["prompt_id"]],
            masks[row["config_id"]], row["system"],
        )
        for row in records.to_pylist()
        if row["config_id"] in masks and row["prompt_id"] in risks
    ]  # fmt: skip


def choose_shots(
    systems: Iterable[System], items: EvaluationItems, pool: list[Shown], seed: int
) -> Shots:
    """The demonstrations of each system that shows any, for each config.

    Raises:
        DataError: The training data is smaller than what a system wants to show.
    """
    shots: dict[tuple[str, int], Messages] = {}
    for system in systems:
        if system.settings.method != "demonstrations":
            continue
        count = system.settings.demonstrations
        for number, config in enumerate(items.configs):
            chosen = nearest_replies(config.rendered, pool, count, seed)
            if len(chosen) < count:
                raise DataError(
                    f"evaluation.systems: {system.name} is to show {count} replies under "
                    f"{config.label}, and the training data has {len(chosen)} that fit; lower its "
                    "'demonstrations'"
                )
            shots[system.name, number] = _messages(chosen)
    return shots


def nearest_replies(
    config: RenderedConfig, pool: Iterable[Shown], count: int, seed: int
) -> list[Shown]:
    """Chooses replies for a config, one a prompt.

    Nearest configs first, types of prompts in turn, and among equals by a hash of seed and prompt,
    so that the choice depends on nothing else.

    Args:
        config: The config.
        pool: What there is.
        count: How many at the most.
        seed: Seed of the choice.
    """
    ranked = sorted(
        ((_distance(config, shown), _rank(seed, shown), shown) for shown in pool),
        key=lambda entry: entry[:2],
    )
    queues: dict[str, list[Shown]] = {}
    taken: set[str] = set()
    for _, _, shown in ranked:
        kind = _type_under(config, shown)
        if kind is not None and shown.prompt_id not in taken:
            taken.add(shown.prompt_id)
            queues.setdefault(kind, []).append(shown)
    order = [queues[kind] for kind in PROMPT_TYPES if kind in queues]
    in_turn = [shown for row in zip_longest(*order) for shown in row if shown is not None]
    return in_turn[:count]


def _rank(seed: int, shown: Shown) -> tuple[int, str, str]:
    drawn = seed_of("demonstration", [seed, shown.prompt_id])
    return drawn, shown.config_text, shown.reply


def _distance(config: RenderedConfig, shown: Shown) -> float:
    """How far a reply's config is from another: categories that differ, or words not shared."""
    if config.allowed_mask is not None:
        return (config.allowed_mask ^ (shown.allowed_mask or 0)).bit_count()
    ours, theirs = set(config.text.lower().split()), set(shown.config_text.lower().split())
    return 1 - len(ours & theirs) / len(ours | theirs)


def _type_under(config: RenderedConfig, shown: Shown) -> str | None:
    """The prompt's type under a config; ``None`` where the reply may be wrong under it."""
    if config.allowed_mask is None:
        return FREEFORM
    if shown.allowed_mask is None:
        return None
    kind = prompt_type(shown.risk_mask, config.allowed_mask)
    return kind if kind == prompt_type(shown.risk_mask, shown.allowed_mask) else None


def _messages(chosen: Iterable[Shown]) -> Messages:
    return tuple(
        turn for shown in chosen for turn in (("user", shown.prompt), ("assistant", shown.reply))
    )


def _columns(table: pa.Table, key: str, value: str) -> Mapping[str, int]:
    return dict(zip(table[key].to_pylist(), table[value].to_pylist(), strict=True))
