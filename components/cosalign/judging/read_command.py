"""What ``cosalign judge read`` does: has the run's judge read policies, and stores that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cosalign.domain.config_change import PolicyReading
from cosalign.domain.errors import ConfigError
from cosalign.domain.run_config.judging import GUARD, LABELS
from cosalign.domain.safety_config import SafetyConfig
from cosalign.domain.taxonomy import Taxonomy
from cosalign.inference.engine_host import EngineHost
from cosalign.judging.open_judge import judge_model, open_judge_of
from cosalign.judging.policy_reading import JudgeReader
from cosalign.judging.stored_readings import StoredReadings
from cosalign.runtime.run_config import load_run_config
from cosalign.runtime.safety_config_files import known_taxonomies, read_safety_configs
from cosalign.store.storage import open_storage


@dataclass(frozen=True)
class ReadPolicy:
    """What was read in one config.

    Attributes:
        config: The config.
        taxonomy: Whose categories the masks are.
        reading: What it permits; of a categorical one, what it allows.
        not_wider: Categories in which it surely permits no more than the old version; ``None``
            where no old version was given.
    """

    config: SafetyConfig
    taxonomy: Taxonomy
    reading: PolicyReading
    not_wider: int | None = None


def run_read(
    profile: str, overrides: Sequence[str], files: Sequence[str], old: str | None
) -> list[ReadPolicy]:
    """Reads the configs of some files, and compares the one of a single file with an old version.

    Raises:
        ConfigError: An old version is given, and not exactly one new one by its name.
    """
    config = load_run_config(profile, overrides)
    taxonomies = known_taxonomies(config.taxonomy.files)
    by_digest = {taxonomy.digest: taxonomy for taxonomy in taxonomies.values()}
    storage = open_storage(config.storage.root)
    wanted = read_safety_configs(files, taxonomies)
    before = read_safety_configs([old], taxonomies)[0] if old is not None else None
    if before is not None and [c.name for c in wanted] != [before.name]:
        raise ConfigError("--old takes one version of one config, and FILES the other")
    mode = LABELS if config.judging.mode.startswith(GUARD) else config.judging.mode
    found = []
    with EngineHost(config.models.engine) as host:
        for new in wanted:
            taxonomy = by_digest[new.taxonomy_digest]
            judge = open_judge_of(config, taxonomy, storage, host, judge_model(config), mode)
            reader = JudgeReader(
                judge, StoredReadings(storage, taxonomies), taxonomies,
                config.judging.uncertain_band, config.scoring.min_label_mass,
            )  # fmt: skip
            found.append(_read(reader, new, before, taxonomy, by_digest))
    return found


def _read(
    reader: JudgeReader,
    new: SafetyConfig,
    old: SafetyConfig | None,
    taxonomy: Taxonomy,
    taxonomies: dict[str, Taxonomy],
) -> ReadPolicy:
    if old is not None and old.text is not None:
        reader.read(old, taxonomies[old.taxonomy_digest])
    permits = new.allowed_mask or 0
    reading = (
        PolicyReading(permits, permits, permits) if new.text is None else reader.read(new, taxonomy)
    )
    prose = new.text is not None or (old is not None and old.text is not None)
    not_wider = reader.not_wider(old, new, taxonomy) if old is not None and prose else None
    return ReadPolicy(new, taxonomy, reading, not_wider)
