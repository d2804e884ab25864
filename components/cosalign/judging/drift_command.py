"""What ``cosalign ledger drift`` does: opens the run's judge and measures."""

from __future__ import annotations

from collections.abc import Sequence

from cosalign.domain.errors import ConfigError, DataError
from cosalign.inference.engine_host import EngineHost
from cosalign.judging.ledger_drift import Drift, measure_drift
from cosalign.judging.open_judge import open_model_judge
from cosalign.runtime.run_config import load_run_config
from cosalign.runtime.safety_config_files import run_taxonomy
from cosalign.store.storage import open_storage


def run_drift(profile: str, overrides: Sequence[str], sample: int, seed: int) -> list[Drift]:
    """Measures the drift of a run config's judge.

    Raises:
        ConfigError: The judge is fitted on examples: it has no engine that could have changed.
        DataError: No verdict of this judge is stored whose text is at hand.
    """
    config = load_run_config(profile, overrides)
    if config.judging.examples is not None:
        raise ConfigError(
            "the judge is fitted on judging.examples; its code's version is in its verdicts' key, "
            "so that nothing of it can drift"
        )
    taxonomy = run_taxonomy(config.taxonomy)
    storage = open_storage(config.storage.root)
    with EngineHost(config.models.engine) as host:
        judge = open_model_judge(config, taxonomy, storage, host)
        found = measure_drift(judge, taxonomy, storage, config.scoring, sample, seed)
    if not found:
        raise DataError(
            f"{storage.uri} holds no verdict of {judge.identity.uri} on a text of its finished "
            "steps; name the run config that was run there"
        )
    return found
