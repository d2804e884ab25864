"""Which configs that people wrote may be trained on.

Not all that lie in ``configs.files``: a config says for itself whether it may be trained on, and
from when to when it is in force; and where an experiment keeps categories unseen
(``synthesis.training_risks``), a config that allows one of them would show it. What is set aside is
counted, never drawn, and still evaluated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

from cosalign.domain.config_rendering import RenderedConfig, render_safety_config
from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config import RunConfig
from cosalign.domain.safety_config import SafetyConfig, moment_of
from cosalign.domain.taxonomy import Taxonomy
from cosalign.runtime.safety_config_files import read_safety_configs


@dataclass(frozen=True)
class RegionalConfig:
    """A config that people wrote; those of several regions that demand the same are one.

    Attributes:
        digest: Identity of what it demands.
        region: The regions that demand it, joined by commas.
        allowed_mask: Its allowed set; ``None`` where it is free-form.
        rendered: As a model reads it; of a categorical one, rendering 0.
    """

    digest: str
    region: str
    allowed_mask: int | None
    rendered: RenderedConfig

    @property
    def freeform(self) -> bool:
        """Whether it is a policy in prose."""
        return self.allowed_mask is None


@dataclass(frozen=True)
class RegionalConfigs:
    """The configs that may be drawn, sorted by digest, and why others may not."""

    drawn: tuple[RegionalConfig, ...]
    counts: Counter[str]


def regional_configs(config: RunConfig, taxonomy: Taxonomy, pool_mask: int) -> RegionalConfigs:
    """Reads the configs that training draws from; none where their shares are 0.

    Raises:
        SafetyConfigError: A file is wrong.
        ConfigError: A share is asked for, and there is no config that may be drawn.
    """
    settings = config.synthesis
    shares = {"categorical": settings.regional_share, "freeform": settings.regional_freeform_share}
    if not any(shares.values()):
        return RegionalConfigs((), Counter())
    found = _read(config, taxonomy)
    moment = _moment(config)
    reasons = {
        c.name: _set_aside(c, moment, pool_mask) if shares[c.kind] else "of_a_kind_without_share"
        for c in found
    }
    counts = Counter(f"regional_{reason}" for reason in reasons.values() if reason)
    kept = [c for c in found if reasons[c.name] is None]
    if not kept:
        raise ConfigError(
            f"synthesis.regional_share is {shares['categorical']}, regional_freeform_share "
            f"{shares['freeform']}, and none of the {len(found)} configs in configs.files may be "
            f"trained on {dict(counts)}; add one, or set the shares to 0"
        )
    counts["regional_configs"] = len({c.digest for c in kept})
    return RegionalConfigs(_merged(kept, taxonomy), counts)


@dataclass(frozen=True)
class TrainableConfigs:
    """The configs that training may use, whatever their shares, and why it may not use others.

    Attributes:
        usable: By digest.
        set_aside: Why each of the others may not be trained on, by digest.
    """

    usable: dict[str, RegionalConfig]
    set_aside: dict[str, str]


def trainable_configs(config: RunConfig, taxonomy: Taxonomy, pool_mask: int) -> TrainableConfigs:
    """Reads the configs of ``configs.files`` and tells which may be trained on.

    Raises:
        SafetyConfigError: A file is wrong.
    """
    moment = _moment(config)
    reasons = [(c, _set_aside(c, moment, pool_mask)) for c in _read(config, taxonomy)]
    usable = _merged([c for c, reason in reasons if reason is None], taxonomy)
    found = {regional.digest: regional for regional in usable}
    # One demand of several regions may be trained on as soon as one of them lets it.
    aside = {c.digest: reason for c, reason in reasons if reason and c.digest not in found}
    return TrainableConfigs(found, aside)


def _read(config: RunConfig, taxonomy: Taxonomy) -> list[SafetyConfig]:
    known = {f"{taxonomy.name} {taxonomy.version}": taxonomy}
    return read_safety_configs(config.configs.files, known)


def _moment(config: RunConfig) -> datetime:
    as_of = config.configs.as_of
    return _started() if as_of is None else moment_of(as_of)


def _set_aside(config: SafetyConfig, moment: datetime, pool_mask: int) -> str | None:
    """Why a config may not be drawn, or ``None``."""
    if config.spec.training != "allowed":
        return "evaluate_only"
    if not config.in_force(moment):
        return "not_in_force"
    outside = config.allowed_mask is not None and config.allowed_mask & ~pool_mask
    return "outside_pool" if outside else None


def _merged(configs: list[SafetyConfig], taxonomy: Taxonomy) -> tuple[RegionalConfig, ...]:
    by_digest: dict[str, list[SafetyConfig]] = {}
    for config in configs:
        by_digest.setdefault(config.digest, []).append(config)
    return tuple(_one(same, taxonomy) for _, same in sorted(by_digest.items()))


def _one(same: list[SafetyConfig], taxonomy: Taxonomy) -> RegionalConfig:
    region = ",".join(sorted({config.region for config in same}))
    rendered = replace(render_safety_config(same[0], taxonomy), region=region)
    return RegionalConfig(same[0].digest, region, same[0].allowed_mask, rendered)


@cache
def _started() -> datetime:
    """One moment a process: a step that runs past midnight must not change its mind."""
    return datetime.now(UTC)
