"""Draws configs: for pairing, one a mode and prompt; for generation, what responses stand under.

Draws are functions of (seed, prompt, purpose), never of order, so any number of shards, in any
order, draws the same. Each allowed set is rendered in one of a bounded number of ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cosalign.domain.config_rendering import RenderedConfig, render_categorical
from cosalign.domain.fingerprint import Json, seed_of
from cosalign.domain.run_config import Mode, SynthesisGroup
from cosalign.domain.taxonomy import Taxonomy
from cosalign.synthesis.config_modes import draw_allowed_mask


@dataclass(frozen=True)
class Draw:
    """A config that a prompt is paired under."""

    prompt_id: str
    config_id: str
    mode: Mode
    allowed_mask: int


class ConfigDrawer:
    """Draws rendered configs for prompts, and remembers each rendering that it gave out.

    Args:
        taxonomy: The run's taxonomy.
        settings: The run config's synthesis group.
        pool_mask: The category pool; it never holds the catch-all.
    """

    def __init__(self, taxonomy: Taxonomy, settings: SynthesisGroup, pool_mask: int) -> None:
        self._taxonomy = taxonomy
        self._settings = settings
        self._pool_mask = pool_mask
        self._rendered: dict[tuple[int, int], RenderedConfig] = {}

    def rendered(self) -> list[RenderedConfig]:
        """All renderings given out, each once, sorted by id."""
        unique = {config.config_id: config for config in self._rendered.values()}
        return [unique[config_id] for config_id in sorted(unique)]

    def draw(self, prompt_id: str, label_mask: int, mode: Mode, purpose: Json) -> RenderedConfig:
        """One rendered config for a prompt.

        Args:
            prompt_id: The prompt.
            label_mask: Its label set.
            mode: How the allowed set relates to the label set.
            purpose: What the draw is for, so that draws for two purposes are independent.
        """
        seed = seed_of("draw", [self._settings.seed, prompt_id, mode, purpose])
        allowed = draw_allowed_mask(mode, label_mask, self._pool_mask, seed)
        number = seed_of("draw-rendering", seed) % self._settings.renderings
        if (allowed, number) not in self._rendered:
            self._rendered[allowed, number] = render_categorical(self._taxonomy, allowed, number)
        return self._rendered[allowed, number]

    def pairing_draws(self, labelled: Iterable[tuple[str, int]]) -> list[Draw]:
        """One draw a mode for each (prompt id, label mask); equal ones of a prompt count once.

        Under an empty label set three modes allow nothing; where they also share a rendering, they
        are one config, and the mode listed first names it.
        """
        draws: dict[tuple[str, str], Draw] = {}
        for prompt_id, mask in labelled:
            for mode in self._settings.modes:
                config = self.draw(prompt_id, mask, mode, "pairing")
                draw = Draw(prompt_id, config.config_id, mode, config.allowed_mask or 0)
                draws.setdefault((prompt_id, config.config_id), draw)
        return [draws[key] for key in sorted(draws)]
