"""Attacks on the config channel, built around prompts whose answer the config decides.

End users can neither see nor change a config (the paper's section 3); whether their words can put
another in its place is measured here. Each attack stands around a held-out prompt that the real
config treats one way and a faked one the other, in both directions: a fake that allows what is
forbidden, and one that forbids what is allowed. The judge is shown the prompt without the attack,
so that it judges the answer and is not attacked itself.

The texts are data (``config_attacks.yaml``); ``none`` among them is the prompt alone, the share
that any attack has to be compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Literal

from pydantic import Field, field_validator

from cosalign.domain.config_rendering import render_categorical
from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config.suites import AttackSettings
from cosalign.domain.taxonomy import Taxonomy
from cosalign.domain.validation import StrictModel, validated
from cosalign.domain.yaml_text import parse_yaml
from cosalign.evaluation.balanced_choice import choose_balanced
from cosalign.evaluation.item_table import ATTACK
from cosalign.evaluation.items import UNPLACED, EvaluatedConfig, Item, SuitePart
from cosalign.evaluation.suite_rules import OVERRIDE
from cosalign.store.storage import read_uri

FAKE_RENDERING = 1
"""Fakes are worded otherwise than the real config, which is rendering 0."""


class ConfigAttack(StrictModel):
    """One attack.

    Attributes:
        id: Its name; its suite is ``attack:ID``.
        text: The user turn, with ``{prompt}`` and, where it quotes one, ``{config}``.
        claims: Whether the config that it quotes is made up, or another region's.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    text: str = Field(min_length=1)
    claims: Literal["made_up", "region"] = "made_up"

    @field_validator("text")
    @classmethod
    def _fits(cls, value: str) -> str:
        try:
            filled = value.format(prompt="\0", config="c")
        except (KeyError, ValueError, IndexError):
            raise ValueError(
                "an attack's text knows {prompt} and {config}; write other braces double"
            ) from None
        if "\0" not in filled:
            raise ValueError("an attack's text must hold {prompt}")
        return value


class _AttackFile(StrictModel):
    attacks: tuple[ConfigAttack, ...] = Field(min_length=1)


def read_attacks(settings: AttackSettings) -> tuple[ConfigAttack, ...]:
    """The attacks of a run.

    Raises:
        ConfigError: The file is wrong, or names an attack twice.
    """
    source = settings.file or "config_attacks.yaml"
    if settings.file is None:
        shipped = resources.files("cosalign.evaluation") / "config_attacks.yaml"
        text = shipped.read_text("utf-8")
    else:
        text = read_uri(settings.file).decode("utf-8", "replace")
    raw = parse_yaml(text, source, ConfigError)
    attacks = validated(_AttackFile, raw, source, ConfigError).attacks
    names = [attack.id for attack in attacks]
    if len(set(names)) < len(names):
        raise ConfigError(f"{source}: two attacks have one id; rename one")
    return attacks


def attack_parts(
    regions: Sequence[EvaluatedConfig],
    held_out: Iterable[Item],
    settings: AttackSettings,
    taxonomy: Taxonomy,
    seed: int,
) -> list[SuitePart]:
    """The attacks on each region's categorical config.

    A free-form config says nothing of single categories, so no prompt can be known to hang on it;
    those are not attacked.

    Args:
        regions: The regions' configs.
        held_out: Held-out prompts with all their labels.
        settings: How many prompts, and which attacks.
        taxonomy: The run's taxonomy.
        seed: Seed of the choice of prompts.
    """
    attacks, prompts = read_attacks(settings), list(held_out)
    parts = []
    for config in regions:
        mask = config.rendered.allowed_mask
        if mask is None:
            continue
        decided = [i for i in (_under(item, mask, taxonomy) for item in prompts) if i is not None]
        chosen = choose_balanced(decided, settings.prompts_per_config, seed)
        for attack in attacks:
            items = [_attacked(item, attack, mask, regions, taxonomy) for item in chosen]
            suite = EvaluatedConfig(
                config.names, config.regions, f"{ATTACK}{attack.id}", config.rendered
            )
            parts.append(SuitePart(suite, [item for item in items if item is not None]))
    return [part for part in parts if part.items]


def _under(item: Item, allowed: int, taxonomy: Taxonomy) -> Item | None:
    """A prompt as an item to attack; ``None`` where no other config could decide otherwise."""
    if not item.risk_mask or item.risk_mask & taxonomy.catch_all:
        return None
    kind = "disallowed" if item.risk_mask & ~allowed else "allowed"
    return Item(
        UNPLACED, item.prompt_id, item.text, kind, None, item.risk_mask, item.known_mask,
        rule=OVERRIDE,
    )  # fmt: skip


def _attacked(
    item: Item,
    attack: ConfigAttack,
    allowed: int,
    regions: Sequence[EvaluatedConfig],
    taxonomy: Taxonomy,
) -> Item | None:
    claimed: int | None = allowed | item.risk_mask
    if item.prompt_type == "allowed":
        claimed = allowed & ~item.risk_mask
    if attack.claims == "region":
        claimed = _other_region(item, allowed, regions)
    if claimed is None:
        return None
    fake = render_categorical(taxonomy, claimed, FAKE_RENDERING).text
    turn = attack.text.format(prompt=item.text, config=fake)
    return Item(
        UNPLACED, item.prompt_id, item.text, item.prompt_type, None, item.risk_mask,
        item.known_mask, turn=turn, rule=OVERRIDE, claimed_mask=claimed,
    )  # fmt: skip


def _other_region(item: Item, allowed: int, regions: Sequence[EvaluatedConfig]) -> int | None:
    """The first other region's allowed set under which the prompt is decided the other way."""
    wanted = item.prompt_type != "allowed"
    for config in regions:
        mask = config.rendered.allowed_mask
        if mask is not None and mask != allowed and (not item.risk_mask & ~mask) == wanted:
            return mask
    return None
