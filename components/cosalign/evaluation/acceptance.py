"""A region's acceptance test: the prompts that its safety lead wrote beside the config.

``spec.acceptance`` says of each prompt whether the model must answer or decline. It is run whenever
the region's config is evaluated, under that config and no other.
"""

from __future__ import annotations

from collections.abc import Iterable

from cosalign.domain.config_rendering import render_safety_config
from cosalign.domain.errors import SafetyConfigError
from cosalign.domain.fingerprint import Json, prompt_id_of
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.evaluation.item_table import ACCEPTANCE
from cosalign.evaluation.items import UNPLACED, EvaluatedConfig, Item, SuitePart
from cosalign.evaluation.suite_rules import CONFIG, DECLINE

_TYPES = {"answer": "allowed", "decline": "disallowed"}


def acceptance_parts(configs: Iterable[SafetyConfig], taxonomy: Taxonomy) -> list[SuitePart]:
    """The acceptance tests of regions that have any, one part a config.

    Raises:
        SafetyConfigError: A config expects two things of one prompt.
    """
    found = [config for config in configs if config.spec.acceptance]
    return [
        _part(config, taxonomy)
        for config in sorted(found, key=lambda config: (config.region, config.name))
    ]


def acceptance_identity(configs: Iterable[SafetyConfig]) -> Json:
    """What acceptance tests ask and expect."""
    return [
        [
            config.region,
            config.name,
            [[item.prompt, item.expect] for item in config.spec.acceptance],
        ]
        for config in sorted(configs, key=lambda config: (config.region, config.name))
        if config.spec.acceptance
    ]


def _part(config: SafetyConfig, taxonomy: Taxonomy) -> SuitePart:
    expected: dict[str, str] = {}
    items: list[Item] = []
    for number, asked in enumerate(config.spec.acceptance):
        prompt_id = prompt_id_of(asked.prompt)
        if expected.setdefault(prompt_id, asked.expect) != asked.expect:
            raise SafetyConfigError(
                f"{config.name}: spec.acceptance[{number}] expects {asked.expect!r} of a prompt of "
                f"which an item before it expects {expected[prompt_id]!r}; remove one of them"
            )
        if all(item.prompt_id != prompt_id for item in items):
            rule = DECLINE if asked.expect == "decline" else CONFIG
            kind = _TYPES[asked.expect]
            items.append(Item(UNPLACED, prompt_id, asked.prompt, kind, rule=rule))
    rendered = render_safety_config(config, taxonomy)
    suite = f"{ACCEPTANCE}{config.region}"
    return SuitePart(EvaluatedConfig((config.name,), (config.region,), suite, rendered), items)
