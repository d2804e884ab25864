"""Renders a categorical config into the system prompt that a model reads.

One allowed set has a bounded number of renderings (template and category order), numbered from 0
and fixed by content, so that system prompts repeat and prefix caches pay, while training still sees
many wordings. Evaluation uses rendering 0 of each config.

Source: arXiv 2410.08968, section 5.1: at least ten templates, categories in random order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml

from cosalign.domain.fingerprint import row_id, seed_of
from cosalign.domain.safety_config import SafetyConfig, config_digest
from cosalign.domain.taxonomy import Taxonomy

PLAIN_SYSTEM_PROMPT = "You are a helpful assistant."
"""The system prompt of responses that follow no config."""


@dataclass(frozen=True)
class Template:
    """One wording; see ``config_templates.yaml``."""

    id: str
    item: str
    some: str
    none: str


@dataclass(frozen=True)
class RenderedConfig:
    """A config as a model reads it; a row of the configs table.

    Attributes:
        config_id: Identity of the rendering.
        kind: ``categorical`` or ``freeform``.
        taxonomy_digest: The taxonomy of ``allowed_mask``.
        allowed_mask: The allowed set; ``None`` for a free-form config.
        text: The system prompt.
        template: Template id; empty for a free-form config.
        order: Category names as rendered, joined by spaces.
        region: The region it belongs to; ``None`` for a drawn config.
        digest: Identity of what it demands, whatever its rendering.
    """

    config_id: str
    kind: str
    taxonomy_digest: str
    allowed_mask: int | None
    text: str
    template: str
    order: str
    region: str | None
    digest: str


@cache
def templates() -> tuple[Template, ...]:
    """The shipped templates."""
    text = (resources.files("cosalign.domain") / "config_templates.yaml").read_text("utf-8")
    return tuple(Template(**entry) for entry in yaml.safe_load(text))


def render_categorical(
    taxonomy: Taxonomy, allowed_mask: int, rendering: int, region: str | None = None
) -> RenderedConfig:
    """Rendering number ``rendering`` (from 0) of an allowed set."""
    digest = config_digest(taxonomy.digest, allowed_mask)
    rng = np.random.default_rng(seed_of("rendering", [digest, rendering]))
    template = templates()[int(rng.integers(len(templates())))]
    bits = [taxonomy.bits_of(allowed_mask)[i] for i in rng.permutation(allowed_mask.bit_count())]
    order = " ".join(taxonomy.names[bit] for bit in bits)
    return RenderedConfig(
        config_id=row_id("rendered-config", [digest, template.id, order]),
        kind="categorical",
        taxonomy_digest=taxonomy.digest,
        allowed_mask=allowed_mask,
        text=_fill(template, taxonomy, bits),
        template=template.id,
        order=order,
        region=region,
        digest=digest,
    )


def render_safety_config(
    config: SafetyConfig, taxonomy: Taxonomy, rendering: int = 0
) -> RenderedConfig:
    """A region's config: categorical ones through a template, free-form ones as they stand."""
    if config.text is None:
        return render_categorical(taxonomy, config.allowed_mask or 0, rendering, config.region)
    return RenderedConfig(
        config_id=row_id("rendered-config", [config.digest, "", ""]),
        kind="freeform",
        taxonomy_digest=taxonomy.digest,
        allowed_mask=None,
        text=config.text.strip(),
        template="",
        order="",
        region=config.region,
        digest=config.digest,
    )


def _fill(template: Template, taxonomy: Taxonomy, bits: list[int]) -> str:
    if not bits:
        return template.none
    items = (
        template.item.format(
            title=taxonomy.categories[bit].title, definition=taxonomy.categories[bit].definition
        )
        for bit in bits
    )
    return template.some.format(categories="\n".join(items))
