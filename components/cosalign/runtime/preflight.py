"""Checks at a run's start what only later steps would read.

A misspelt risk in a region's config is found by the evaluation, hours after the first GPU was paid
for. So the first step of the graph reads everything that the user wrote before it does anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from cosalign.domain.errors import ConfigError, TaxonomyError, nearest
from cosalign.domain.run_config import RunConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.runtime.safety_config_files import read_safety_configs
from cosalign.store.storage import read_uri

_QUESTIONS = ("addressed", "helpfulness", "follows")


def check_user_input(config: RunConfig, taxonomy: Taxonomy) -> None:
    """Reads safety configs and benchmark, and checks every category that the run config names.

    Raises:
        UserError: Something is wrong; the message names the file or the setting.
    """
    _check_names("synthesis.training_risks", config.synthesis.training_risks or (), taxonomy)
    _check_names("pairing.pool", config.pairing.pool or (), taxonomy)
    known = (*taxonomy.names, *_QUESTIONS)
    for setting in ("thresholds", "prompt_thresholds"):
        for name, value in getattr(config.scoring, setting).items():
            if name not in known:
                raise ConfigError(f"scoring.{setting}: no question {name!r}{nearest(name, known)}")
            if not 0 < value < 1:
                raise ConfigError(f"scoring.{setting}.{name} is {value}; it must lie in (0, 1)")
    taxonomies = {f"{taxonomy.name} {taxonomy.version}": taxonomy}
    read_safety_configs(config.configs.files, taxonomies)
    if config.evaluation.benchmark:
        read_uri(config.evaluation.benchmark)


def _check_names(setting: str, names: Iterable[str], taxonomy: Taxonomy) -> None:
    try:
        taxonomy.mask_of(names)
    except TaxonomyError as problem:
        raise ConfigError(f"{setting}: {problem}") from None
