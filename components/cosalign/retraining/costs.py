"""The bill of a run, and each region's part of it.

Work is shared: one response is paired under many regions' configs, one training serves all. The
rule, which is a convention and not a measurement:

- what leads to a model (synthesis, scoring, pairing, training) is split by the pairs under each
  region's configs; pairs under drawn configs, which are there for everybody, in equal parts;
- the evaluation is split by the items asked under each region's configs;
- what several regions demand alike is split between them in equal parts;
- a run that left no tables to count by is split in equal parts, or is nobody's where no region is
  known.

So the parts of all regions add up to the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cosalign.domain.errors import CosalignError
from cosalign.runtime.result_notes import run_record_uri
from cosalign.runtime.step import StepManifest, parse_manifest
from cosalign.runtime.usage import Usage, read_usage
from cosalign.store.storage import Storage
from cosalign.store.tables import read_table

NOBODY = "-"
"""Stands for regions where none is known."""
_EVALUATION = "evaluation"
Shares = Mapping[str, float]


@dataclass(frozen=True)
class Cost:
    """Machine time and its price.

    Attributes:
        gpu_hours: GPU-hours.
        core_hours: Core-hours of tasks without GPUs.
        price: ``None`` where a price is needed and not known.
    """

    gpu_hours: float
    core_hours: float
    price: float | None

    def part(self, share: float) -> Cost:
        """A share of it."""
        price = None if self.price is None else self.price * share
        return Cost(self.gpu_hours * share, self.core_hours * share, price)


@dataclass(frozen=True)
class RunCosts:
    """A run's bill.

    Attributes:
        run: SHA-256 of its run config.
        began: When its first task began.
        currency: What prices are in.
        steps: By step.
        regions: By region; their sum is the run's.
        without_end: Attempts that were killed, or go on still, and are not in the bill.
    """

    run: str
    began: str
    currency: str
    steps: Mapping[str, Cost]
    regions: Mapping[str, Cost]
    without_end: int

    @property
    def total(self) -> Cost:
        """All of it."""
        return total(self.steps.values())


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of some costs."""
    listed = list(costs)
    prices = [cost.price for cost in listed if cost.price is not None]
    return Cost(
        sum(cost.gpu_hours for cost in listed),
        sum(cost.core_hours for cost in listed),
        sum(prices) if len(prices) == len(listed) else None,
    )


def run_costs(storage: Storage, run: str | None = None) -> list[RunCosts]:
    """Bills of all runs, or of one, oldest first.

    Args:
        storage: The storage root.
        run: SHA-256 of the run config.
    """
    found = [_costs(storage, name, usage) for name, usage in read_usage(storage, run).items()]
    return sorted(found, key=lambda costs: costs.began)


def _costs(storage: Storage, run: str, usage: list[Usage]) -> RunCosts:
    steps = {name: _cost(u for u in usage if u.step == name) for name in _names(usage)}
    making, evaluating = _shares(storage, run)
    parts: dict[str, list[Cost]] = {}
    for step, cost in steps.items():
        for region, share in (evaluating if step == _EVALUATION else making).items():
            parts.setdefault(region, []).append(cost.part(share))
    return RunCosts(
        run=run,
        began=min(one.began for one in usage),
        currency=usage[-1].currency,
        steps=steps,
        regions={region: total(parts[region]) for region in sorted(parts)},
        without_end=sum(one.seconds is None for one in usage),
    )


def _names(usage: Iterable[Usage]) -> list[str]:
    return list(dict.fromkeys(one.step for one in usage))


def _cost(usage: Iterable[Usage]) -> Cost:
    return total(Cost(u.gpu_hours, u.core_hours, u.price) for u in usage)


def _shares(storage: Storage, run: str) -> tuple[Shares, Shares]:
    """Each region's share of what makes a model, and of its evaluation."""
    manifests = _manifests(storage, run)
    evaluated = _by_items(storage, manifests.get(_EVALUATION))
    regions = sorted(evaluated)
    made = _by_pairs(storage, manifests, regions)
    everybody = dict.fromkeys(regions or sorted(made), 1.0)
    return _normal(made or everybody), _normal(evaluated or everybody)


def _normal(weights: Shares) -> Shares:
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()} if whole else {NOBODY: 1.0}


def _by_items(storage: Storage, manifest: StepManifest | None) -> dict[str, float]:
    found: dict[str, float] = {}
    if manifest is None or "evaluated_configs" not in manifest.tables:
        return found
    configs = read_table(storage, manifest.tables["evaluated_configs"]).to_pylist()
    regions = {row["config"]: row["regions"] for row in configs}
    items = read_table(storage, manifest.tables["evaluation"]).column("config").to_pylist()
    for config, count in Counter(items).items():
        _split(found, regions.get(config) or [], count)
    return found


def _by_pairs(
    storage: Storage, manifests: Mapping[str, StepManifest], everybody: list[str]
) -> dict[str, float]:
    found: dict[str, float] = {}
    tables = [manifests.get("synthesis"), manifests.get("pairing")]
    if None in tables:
        return found
    synthesis, pairing = (table for table in tables if table is not None)
    configs = read_table(storage, synthesis.tables["configs"]).to_pylist()
    regions = {row["config_id"]: (row["region"] or "").split(",") for row in configs}
    pairs = read_table(storage, pairing.tables["pairs"]).column("config_id").to_pylist()
    for config, count in Counter(pairs).items():
        own = [name for name in regions.get(config, []) if name]
        _split(found, own or everybody, count)
    return found


def _split(found: dict[str, float], regions: list[str], count: int) -> None:
    for region in regions:
        found[region] = found.get(region, 0.0) + count / len(regions)


def _manifests(storage: Storage, run: str) -> dict[str, StepManifest]:
    """The run's manifests, as far as they are there: a bill is made also of what failed."""
    uri = run_record_uri(storage, run)
    found: dict[str, StepManifest] = {}
    waiting = [uri.removeprefix(f"{storage.uri}/")] if uri else []
    while waiting:
        path = waiting.pop()
        try:
            manifest = parse_manifest(storage.read_bytes(path), storage.uri_of(path))
            found[manifest.step] = manifest
            waiting += [f"{source}/manifest.json" for source in _sources(storage, manifest)
                        if source.split("/")[1] not in found]  # fmt: skip
        except CosalignError:
            continue
    return found


def _sources(storage: Storage, manifest: StepManifest) -> list[str]:
    from cosalign.runtime.lineage import read_lineage

    lineage = read_lineage(storage, manifest.folder)
    return list(lineage.made_from.values()) if lineage else []
