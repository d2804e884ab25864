"""Configs that suites ask under and no region demands."""

from __future__ import annotations

from cosalign.domain.config_rendering import RenderedConfig, render_categorical
from cosalign.domain.fingerprint import row_id
from cosalign.domain.safety_config import config_digest
from cosalign.domain.taxonomy import Taxonomy
from cosalign.evaluation.items import EvaluatedConfig


def categorical_config(suite: str, name: str, allowed: int, taxonomy: Taxonomy) -> EvaluatedConfig:
    """A categorical config that no region demands."""
    return EvaluatedConfig((name,), (), suite, render_categorical(taxonomy, allowed, 0))


def policy_config(suite: str, name: str, text: str, taxonomy: Taxonomy) -> EvaluatedConfig:
    """A config in prose that no region demands."""
    digest = config_digest(taxonomy.digest, text.strip())
    rendered = RenderedConfig(
        config_id=row_id("rendered-config", [digest, "", ""]),
        kind="freeform",
        taxonomy_digest=taxonomy.digest,
        allowed_mask=None,
        text=text.strip(),
        template="",
        order="",
        region=None,
        digest=digest,
    )
    return EvaluatedConfig((name,), (), suite, rendered)
