"""Draws configs: for pairing, one a mode and prompt; for generation, what responses stand under.

Draws are functions of (seed, prompt, purpose), never of order or of which other prompts there are,
so any number of shards, in any order, draws the same. What is drawn here is a *slot*, an allowed
set and the number of one of its renderings; its text is made later (``renderings``), since a policy
in prose has to be written by a model first.

A region's own config is drawn for a prompt by itself, independent of the others: its hash with the
prompt falls below a threshold or not. So a new config adds its own draws; where it lowers the
threshold of others of its kind, it takes some of theirs away, and moves none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cosalign.domain.fingerprint import Json, seed_of
from cosalign.domain.run_config import Mode, SynthesisGroup
from cosalign.synthesis.config_modes import draw_allowed_mask
from cosalign.synthesis.regional import RegionalConfig
from cosalign.synthesis.renderings import Choice, Renderings, Slot

REGIONAL = "regional"
_SEEDS = 1 << 63


@dataclass(frozen=True)
class PlannedDraw:
    """What a prompt is to be paired under; ``mode`` is a config mode or ``regional``."""

    prompt_id: str
    mode: str
    choice: Choice


@dataclass(frozen=True)
class Draw:
    """A config that a prompt is paired under; a row of the draws table."""

    prompt_id: str
    config_id: str
    mode: str
    allowed_mask: int | None


class ConfigDrawer:
    """Draws slots, and the regions' own configs.

    Args:
        settings: The run config's synthesis group.
        pool_mask: The category pool; it never holds the catch-all.
        regional: The regions' configs that may be drawn.
    """

    def __init__(
        self, settings: SynthesisGroup, pool_mask: int, regional: Sequence[RegionalConfig] = ()
    ) -> None:
        self._settings = settings
        self._pool_mask = pool_mask
        self._regional = regional
        kinds = Counter(config.freeform for config in regional)
        self._thresholds = {
            kind: int(_SEEDS * regional_probability(settings, kind, configs))
            for kind, configs in kinds.items()
        }

    def slot(self, prompt_id: str, label_mask: int, mode: Mode, purpose: Json) -> Slot:
        """One allowed set, and which of its renderings, for a prompt.

        Args:
            prompt_id: The prompt.
            label_mask: Its label set.
            mode: How the allowed set relates to the label set.
            purpose: What the draw is for, so that draws for two purposes are independent.
        """
        seed = seed_of("draw", [self._settings.seed, prompt_id, mode, purpose])
        allowed = draw_allowed_mask(mode, label_mask, self._pool_mask, seed)
        return allowed, seed_of("draw-rendering", seed) % self._settings.renderings

    def pairing(self, labelled: Iterable[tuple[str, int]]) -> list[PlannedDraw]:
        """For each (prompt id, label mask) one draw a mode, and the regions' configs it meets."""
        planned = []
        for prompt_id, mask in labelled:
            for mode in self._settings.modes:
                slot = self.slot(prompt_id, mask, mode, "pairing")
                planned.append(PlannedDraw(prompt_id, mode, slot))
            planned += self._regional_draws(prompt_id)
        return planned

    def _regional_draws(self, prompt_id: str) -> Iterable[PlannedDraw]:
        for config in self._regional:
            seed = regional_seed(self._settings, prompt_id, config)
            if seed < self._thresholds[config.freeform]:
                yield regional_draw(self._settings, prompt_id, config)


def regional_seed(settings: SynthesisGroup, prompt_id: str, config: RegionalConfig) -> int:
    """The hash of a prompt with a region's config: a prompt of a lower one meets it earlier."""
    return seed_of("draw-regional", [settings.seed, prompt_id, config.digest])


def regional_draw(settings: SynthesisGroup, prompt_id: str, config: RegionalConfig) -> PlannedDraw:
    """A prompt's draw of a region's config; a categorical one in one of its renderings."""
    choice: Choice = config.digest
    if config.allowed_mask is not None:
        seed = regional_seed(settings, prompt_id, config)
        number = seed_of("draw-rendering", seed) % settings.renderings
        choice = (config.allowed_mask, number)
    return PlannedDraw(prompt_id, REGIONAL, choice)


def regional_probability(settings: SynthesisGroup, freeform: bool, configs: int) -> float:
    """The probability with which a prompt meets one region's config of a kind.

    With m modes, shares s and t of the two kinds and n configs of the first, a prompt has
    m / (1 - s - t) draws in expectation, of which s are of the first kind; so each of its configs
    has p = m s / (n (1 - s - t)), or 1 where there are too few configs for that share.
    """
    shares = (settings.regional_share, settings.regional_freeform_share)
    wanted = len(settings.modes) * shares[freeform] / (1 - sum(shares))
    return min(1.0, wanted / configs)


def pairing_draws(planned: Iterable[PlannedDraw], renderings: Renderings) -> list[Draw]:
    """The draws, sorted; equal ones of a prompt count once.

    Under an empty label set three modes allow nothing; where they also share a rendering, they are
    one config, and what was planned first names it.
    """
    draws: dict[tuple[str, str], Draw] = {}
    for plan in planned:
        config = renderings.of(plan.choice)
        draw = Draw(plan.prompt_id, config.config_id, plan.mode, config.allowed_mask)
        draws.setdefault((plan.prompt_id, config.config_id), draw)
    return [draws[key] for key in sorted(draws)]
