"""From a decision to a run that can be started: its configs and its run config, in storage.

Both are written under digests of their content before a run is claimed, so that reconcilers who
race write the same objects, and whoever takes a claim over finds in storage all that it needs. The
run config is the platform team's, with these fields filled in: the regions' configs and their date,
the gate, and what an increment extends.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cosalign.domain.errors import ConfigError
from cosalign.domain.fingerprint import Json, fingerprint
from cosalign.domain.run_config import RunConfig
from cosalign.domain.safety_config import moment_of
from cosalign.domain.validation import validated
from cosalign.retraining.run_lane import Kind, RunPlan
from cosalign.retraining.submitters import RunOrder
from cosalign.runtime.run_config import dump_run_config, run_config_digest, stored_config_path
from cosalign.store.accepted_configs import AcceptedConfig
from cosalign.store.model_pointer import Entry
from cosalign.store.storage import Storage

WRITERS = 16
EVALUATE_ONLY = "evaluateOnly"


@dataclass(frozen=True)
class Demand:
    """What is asked of a model: accepted configs that are measured as one.

    Attributes:
        key: Identity of what is demanded: the config's digest and its acceptance test.
        digest: The config's digest.
        configs: The accepted configs that demand it.
    """

    key: str
    digest: str
    configs: tuple[AcceptedConfig, ...]

    @property
    def evaluate_only(self) -> bool:
        """Whether it may be measured and never trained on: nobody asks for more."""
        return all(config.document["spec"].get("training") == EVALUATE_ONLY
                   for config in self.configs)  # fmt: skip


def demands_of(configs: Iterable[AcceptedConfig]) -> dict[str, Demand]:
    """Accepted configs by what they demand, sorted by key."""
    found: dict[str, list[AcceptedConfig]] = {}
    for config in configs:
        found.setdefault(demand_key(config), []).append(config)
    return {key: Demand(key, found[key][0].digest, tuple(found[key])) for key in sorted(found)}


def demand_key(config: AcceptedConfig) -> str:
    """Identity of what a model is measured by under a config; dates and owner do not count."""
    acceptance = config.document["spec"].get("acceptance") or []
    return fingerprint("config-demand", {"digest": config.digest, "acceptance": acceptance})


@dataclass(frozen=True)
class RunMaker:
    """Makes plans of runs.

    Attributes:
        storage: The storage root.
        name: As of the model that is reconciled.
        base: The platform team's run config, resolved.
        increment: Fields of the run config's group ``increment`` that the platform team sets.
        submitter: What a result depends on by the submitter.
    """

    storage: Storage
    name: str
    base: RunConfig
    increment: Mapping[str, Any]
    submitter: Json

    def __post_init__(self) -> None:
        if self.base.gate.candidate not in self.base.evaluation.system_names:
            raise ConfigError(
                f"evaluation.systems does not hold gate.candidate {self.base.gate.candidate!r}: a "
                "run without a gate says nothing of any region; add it there"
            )

    @property
    def foundation(self) -> str:
        """Digest of base model, judge and taxonomy, as far as the run config tells them."""
        base = self.base
        return fingerprint(
            "foundation",
            {
                "base": base.models.base,
                "judge": [base.models.judge, base.judging.mode, base.judging.examples],
                "taxonomy": [base.taxonomy.name, base.taxonomy.version],
            },
        )

    @property
    def extends(self) -> str:
        """Digest of settings that an increment has to share with the run that it extends."""
        plain = self.base.plain()
        shared = {name: plain[name] for name in ("judging", "scoring", "pairing")}
        return fingerprint("extended-settings", shared)

    @property
    def way(self) -> str:
        """Digest of how is trained and measured: of all but configs and model."""
        settings = {**self.base.plain(), "configs": None}
        return fingerprint(
            "way-of-training",
            {"config": settings, "increment": dict(self.increment), "submitter": self.submitter},
        )

    def plan(
        self,
        kind: Kind,
        why: tuple[str, str],
        about: Sequence[Demand],
        covers: Sequence[Demand],
        seen: float,
        current: Entry | None,
        record: str | None,
    ) -> RunPlan:
        """A plan, whose configs and run config lie in storage then.

        Args:
            kind: What is to be done.
            why: The reason, for programs and for people.
            about: What it measures or trains on.
            covers: All that it evaluates.
            seen: When this set of configs was first seen, by the storage's clock: the run's date,
                unless one of them is in force only since later.
            current: The current model.
            record: The run that an increment extends.
        """
        names = run_names(covers)
        folder = self._write_configs(covers, names)
        config = self._config(kind, folder, _as_of(seen, covers), about, current, record)
        data, digest = dump_run_config(config).encode(), run_config_digest(config)
        path = stored_config_path(digest)
        if self.storage.stat(path) is None:
            self.storage.write_bytes(path, data)
        model = current.digest if current else None
        # What is demanded, and neither dates nor documents: a description that was edited, or the
        # same set seen anew, is no reason to repeat what failed.
        demanded = [[demand.key, demand.evaluate_only] for demand in covers]
        made_from = {**config.plain(), "configs": demanded}
        inputs = fingerprint(
            "reconcile-run", {"kind": kind, "model": model, "config": made_from,
                              "submitter": self.submitter},
        )  # fmt: skip
        return RunPlan(
            kind=kind, reason=why[0], sentence=why[1], inputs=inputs, foundation=self.foundation,
            extends=self.extends, way=self.way, model=model, demands=tuple(d.key for d in about),
            digests=tuple(sorted({d.digest for d in about})), covers=tuple(d.key for d in covers),
            names={d.key: names[d.configs[0].key] for d in covers},
            config_uri=self.storage.uri_of(path), config_digest=digest,
            model_uri=current.uri if current and kind == "evaluate" else None,
        )  # fmt: skip

    def _config(
        self,
        kind: Kind,
        folder: str,
        as_of: str,
        about: Sequence[Demand],
        current: Entry | None,
        record: str | None,
    ) -> RunConfig:
        raw = self.base.plain()
        raw["configs"] = {"files": [folder], "as_of": as_of}
        raw["gate"]["model"] = self.name
        raw["gate"]["promote"] = kind != "evaluate"
        raw["increment"] = None
        if kind == "evaluate":
            # The current model is the candidate here; it is held against what it was trained from.
            raw["gate"]["reference"] = raw["gate"]["first_reference"]
        if kind == "increment" and current is not None:
            start = self.increment.get("start", "promoted")
            pinned = f"{current.uri}@sha256:{current.digest}"
            raw["increment"] = {
                **self.increment,
                "previous": record,
                "configs": sorted({demand.digest for demand in about}),
                "model": pinned if start == "promoted" else None,
            }
        return validated(RunConfig, raw, "the run config that reconcile makes", ConfigError)

    def _write_configs(self, covers: Sequence[Demand], names: Mapping[tuple[str, str], str]) -> str:
        """Writes the configs of a run under a digest of all of them; gives the folder's address."""
        documents = {
            names[config.key]: _document(config, names[config.key])
            for demand in covers
            for config in demand.configs
        }
        digest = fingerprint("run-configs", sorted(documents.items()))
        folder = f"reconcile/{self.name}/sets/{digest[:32]}"
        there = {stat.path for stat in self.storage.list(folder)}
        missing = {
            path: text
            for name, text in documents.items()
            if (path := f"{folder}/{name}.yaml") not in there
        }
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda item: self.storage.write_bytes(item[0], item[1].encode()),
                          missing.items()))  # fmt: skip
        return self.storage.uri_of(folder)


def order_of(plan: RunPlan, run: str, name: str) -> RunOrder:
    """What a submitter is asked to start.

    Args:
        plan: What is to be done.
        run: The run's name.
        name: As of the model that is reconciled.
    """
    parameters: dict[str, Json] = {
        "run_config_uri": plan.config_uri,
        "run_config_digest": plan.config_digest,
    }
    if plan.model_uri is not None:
        parameters["model_uri"] = plan.model_uri
    labels = {
        "cosalign.dev/reconcile": name,
        "cosalign.dev/inputs": plan.inputs,
        "cosalign.dev/config": plan.config_digest,
        "cosalign.dev/kind": plan.kind,
    }
    return RunOrder(run, plan.pipeline, parameters, labels)


def run_names(covers: Iterable[Demand]) -> dict[tuple[str, str], str]:
    """A name for each config of a run, unique in it: its own, or with its namespace before it."""
    keys = sorted(config.key for demand in covers for config in demand.configs)
    count = Counter(name for _, name in keys)
    return {(space, name): f"{space}.{name}" if count[name] > 1 and space else name
            for space, name in keys}  # fmt: skip


def _document(config: AcceptedConfig, name: str) -> str:
    document = {**config.document, "metadata": {"name": name}}
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _as_of(seen: float, covers: Iterable[Demand]) -> str:
    """The date of a run: one on which all its configs, which are in force by now, were so already.

    A config may be renewed, to be in force from later on, while what is demanded stays the same.
    """
    specs = (config.document["spec"] for demand in covers for config in demand.configs)
    begins = [moment_of(spec["effectiveFrom"]) for spec in specs if spec.get("effectiveFrom")]
    first_seen = datetime.fromtimestamp(seen, UTC).replace(microsecond=0)
    return max([first_seen, *begins]).isoformat()
