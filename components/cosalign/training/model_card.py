"""The model card: what happened, for people, as the README that model hubs show.

It is rendered from the manifest alone, so that it can say nothing that the manifest does not hold.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from cosalign.domain.yaml_text import dump_yaml

if TYPE_CHECKING:
    from jinja2 import Template

    from cosalign.inference.model_manifest import ModelManifest

CONFIGS_SHOWN = 50
"""Regional configs that the card lists; the manifest has all."""

_CURVE = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "mean_token_accuracy": "token accuracy",
    "rewards/accuracies": "pairs ranked right",
    "rewards/margins": "reward margin",
}


def model_card(manifest: ModelManifest) -> str:
    """The card as Markdown with YAML front matter."""
    regional = [policy for policy in manifest.configs if policy.regions]
    page = _template().render(
        manifest=manifest,
        regional=regional[:CONFIGS_SHOWN],
        more_regional=max(0, len(regional) - CONFIGS_SHOWN),
        drawn=[policy for policy in manifest.configs if not policy.regions],
        curves={name: _curve(stage.first, stage.last) for name, stage in manifest.stages.items()},
    )
    return f"---\n{dump_yaml(_front_matter(manifest))}---\n{page}"


def _front_matter(manifest: ModelManifest) -> dict[str, Any]:
    hub_ids = [source.name for source in manifest.sources if source.name.count("/") == 1]
    return {
        **({"language": list(manifest.languages)} if manifest.languages else {}),
        "license": "other",
        "license_name": "base-model-and-data",
        "base_model": manifest.base.uri,
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"datasets": sorted(set(hub_ids))} if hub_ids else {}),
        "tags": ["cosalign", "controllable-safety", "safety-config", "sft", "dpo"],
    }


def _curve(first: dict[str, float], last: dict[str, float]) -> list[tuple[str, float, float]]:
    """Name, first and last value of the figures that both ends have."""
    return [(label, first[n], last[n]) for n, label in _CURVE.items() if n in first and n in last]


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701 Markdown, not HTML; cells are escaped by the filter
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    environment.filters["words"] = lambda name: name.replace("_", " ").replace(".", ": ")
    source = resources.files("cosalign.training") / "model_card.md.j2"
    return environment.from_string(source.read_text("utf-8"))


def _cell(value: object) -> str:
    """A value as text that can neither leave its table cell nor become markup."""
    text = " ".join(str(value).split())
    for mark in "\\`|<>[]*_#":
        text = text.replace(mark, f"\\{mark}")
    return text
