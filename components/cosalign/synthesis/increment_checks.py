"""What an increment needs of the run that it extends, checked before anything is paid for.

Old verdicts, pairs and references stand for new ones only where judge, questions, weights, taxonomy
and base model are the same. So each is held against what the extended run's steps had named. A
difference is refused with its name: a full run is what it asks for, and nobody wants to learn that
from an increment that quietly judged everything again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cosalign.domain.errors import ConfigError, ModelError
from cosalign.domain.fingerprint import Json, canonical_json
from cosalign.domain.run_config import IncrementGroup
from cosalign.inference.double import DOUBLE_SCHEME
from cosalign.inference.model_manifest import ModelManifest, read_model_manifest
from cosalign.inference.models import resolve_model, split_pin
from cosalign.judging.calibration import scoring_identity
from cosalign.judging.label_protocol import response_protocol
from cosalign.judging.open_judge import escalation_identity, judging_identity
from cosalign.runtime.run_record import RunRecord, previous_run
from cosalign.runtime.step import StepContext
from cosalign.store.storage import open_storage
from cosalign.store.tables import read_table
from cosalign.synthesis.draws import REGIONAL
from cosalign.synthesis.labelled_prompts import base_model, training_pool
from cosalign.synthesis.regional import RegionalConfig, trainable_configs


@dataclass(frozen=True)
class Extension:
    """An increment that may be carried out.

    Attributes:
        group: The run config's increment.
        record: The run that is extended.
        new: The configs that are new, sorted by digest.
        removed: Digests of configs that the extended run had drawn and that may not be used now.
    """

    group: IncrementGroup
    record: RunRecord
    new: tuple[RegionalConfig, ...]
    removed: tuple[str, ...]


def extension(context: StepContext) -> Extension | None:
    """The increment that a run is, checked; ``None`` for a full run.

    Raises:
        ConfigError: The extended run is not there or another one than the settings fit, or a config
            is not among those that may be trained on, or is not new.
        ModelError: The start model is gone, or another one.
    """
    group, record = context.config.increment, previous_run(context)
    if group is None or record is None:
        return None
    _require_foundation(context, record)
    pool = training_pool(context.config, context.taxonomy)
    usable = trainable_configs(context.config, context.taxonomy, pool)
    drawn = _drawn_before(context, record)
    for digest in group.configs:
        if digest not in usable.usable:
            why = usable.set_aside.get(digest, "not among configs.files")
            raise ConfigError(
                f"increment.configs: {digest[:12]} may not be trained on ({why}); add its file to "
                "configs.files, mend it, or leave its digest out"
            )
        if digest in drawn:
            raise ConfigError(
                f"increment.configs: {digest[:12]} is not new: {record.uri} was trained on it; "
                "leave it out"
            )
    _require_start(context, group, record)
    new = tuple(usable.usable[digest] for digest in sorted(group.configs))
    return Extension(group, record, new, tuple(sorted(drawn - usable.usable.keys())))


def _require_foundation(context: StepContext, record: RunRecord) -> None:
    """Refuses another taxonomy, base model, judge or pairing than the extended run's."""
    config, lineages = context.config, record.lineages
    base = base_model(config)
    scoring, trained = lineages["scoring"], lineages["training"]
    held: dict[str, tuple[Json, Json]] = {
        "taxonomy": (context.taxonomy.digest, scoring.identity["taxonomy"]),
        "models.base": (
            [base.digest, base.tokenizer_digest],
            [trained.of_step("base"), trained.of_step("tokenizer")],
        ),
        "models.judge or judging": (judging_identity(config), scoring.of_step("judge")),
        "judging.second": (escalation_identity(config), scoring.of_step("second_judge")),
        "the judge's questions": (
            response_protocol(context.taxonomy).digest,
            scoring.of_step("protocol"),
        ),
        "scoring": (scoring_identity(config), scoring.of_step("scoring")),
        "pairing": (
            config.pairing.model_dump(mode="json"),
            lineages["pairing"].of_step("pairing"),
        ),
    }
    others = [name for name, (now, then) in held.items() if _differ(now, then)]
    if others:
        raise ConfigError(
            f"increment.previous: {record.uri} was made with another setting of "
            f"{', '.join(others)}; what it paid for does not fit this run. Take its settings, or "
            "make a full run (increment: null)"
        )


def _differ(now: Json, then: Json) -> bool:
    return canonical_json(now) != canonical_json(then)


def _drawn_before(context: StepContext, record: RunRecord) -> set[str]:
    """Digests of the regions' configs that the extended run had drawn."""
    tables = record.manifests["synthesis"].tables
    draws = read_table(context.storage, tables["draws"])
    configs = read_table(context.storage, tables["configs"])
    ids = draws.filter(pc.equal(draws["mode"], REGIONAL))["config_id"].combine_chunks().unique()
    met: pa.Table = configs.filter(pc.is_in(configs["config_id"], value_set=ids))
    return set(met["digest"].to_pylist())


def _require_start(context: StepContext, group: IncrementGroup, record: RunRecord) -> None:
    models = record.manifests["training"].models
    _require_stored(context, models["sft"], "the SFT model, the reference of all pairs,")
    if group.model is None or group.start == "sft":
        return
    address, digest = split_pin(group.model)
    if address.startswith(DOUBLE_SCHEME):
        resolve_model(group.model, Path(context.config.storage.cache).expanduser())
        return
    # Its manifest says what it is; the weights are fetched where training needs them.
    try:
        promoted = read_model_manifest(open_storage(address))
    except ModelError as problem:
        raise ModelError(f"increment.model: {problem}; name the promoted model") from None
    if promoted.digest != digest:
        raise ModelError(
            f"increment.model: {address} holds {promoted.digest[:12]}, and {digest[:12]} is "
            "pinned; take address and digest from `cosalign models`"
        )
    reference = _reference(context, record)
    if promoted.reference != reference:
        raise ModelError(
            f"increment.model: {address} was held against the SFT model {promoted.reference[:12]}, "
            f"and the extended run's is {reference[:12]}; extend the run that made the promoted "
            "model, or set start: sft"
        )


def _require_stored(context: StepContext, uri: str, what: str) -> None:
    storage = context.storage
    if uri.startswith(f"{storage.uri}/") and not storage.list(uri.removeprefix(f"{storage.uri}/")):
        raise ModelError(f"increment.previous: {what} {uri} is gone; make a full run")


def _reference(context: StepContext, record: RunRecord) -> str:
    path = record.manifests["training"].files["model_manifest"]
    found = ModelManifest.model_validate_json(context.storage.read_bytes(path))
    return found.reference
