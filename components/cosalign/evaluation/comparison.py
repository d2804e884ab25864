"""Any number of evaluations side by side, each against the first, paired where items coincide.

Nothing is computed twice in two ways: the stored items of all runs become one table in which each
run is a system, and the figures are those of one evaluation. Two items coincide where suite, what
the config demands and the prompt are the same. What runs do not share still counts in their own
scores, and never in a difference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cosalign.domain.errors import UserError
from cosalign.domain.schemas import EVALUATED_CONFIGS, EVALUATION
from cosalign.evaluation.bootstrap import Resampling
from cosalign.evaluation.finished_evaluations import find_evaluation, storage_of
from cosalign.evaluation.item_table import ItemTable, is_control, read_items
from cosalign.evaluation.measured import Measured
from cosalign.evaluation.scorecard import Scorecard
from cosalign.store.storage import Storage
from cosalign.store.tables import read_table

SCHEMA_VERSION = "1"
_TABLES = ("evaluation", "evaluated_configs")
Comparison = dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """One run's system, as it goes into a comparison.

    Attributes:
        label: What it is called there, unique.
        system: The evaluated system.
        card: The run's figures.
        rows: Its evaluation table.
        configs: Its table of evaluated configs.
    """

    label: str
    system: str
    card: Scorecard
    rows: pa.Table
    configs: pa.Table


def read_compared(storage: Storage, named: Sequence[str]) -> list[Compared]:
    """Reads finished evaluations.

    Args:
        storage: The storage root in which runs are looked for.
        named: ``RUN`` or ``RUN:SYSTEM``, see ``find_evaluation``.

    Raises:
        UserError: There is no such evaluation or system, or one is named twice.
    """
    if len(set(named)) < len(named):
        raise UserError("a run is named twice; name each once, as RUN or RUN:SYSTEM")
    return [_read(storage, name) for name in named]


def compare(runs: Sequence[Compared]) -> Comparison:
    """All figures of a comparison, as JSON.

    Args:
        runs: What is compared; the first is what the others are held against.
    """
    settings = runs[0].card["settings"]
    resampling = Resampling(settings["bootstrap"], settings["confidence"], settings["seed"])
    items = _united(runs)
    measured = Measured(items, resampling, references=(runs[0].label,))
    overall = measured.part(items.controlled)
    return {
        "schema": SCHEMA_VERSION,
        "runs": [_run(run) for run in runs],
        "settings": {name: settings[name] for name in ("bootstrap", "confidence", "seed")},
        "overall": overall,
        "suites": {
            suite: measured.part(items.suite == suite)
            for suite in dict.fromkeys(config.suite for config in items.configs)
        },
        "configs": [
            {
                "label": config.config, "suite": config.suite, "digest": config.digest,
                "regions": list(config.regions), **measured.part(items.config == number),
            }
            for number, config in enumerate(items.configs) if is_control(config.suite)
        ],
        "warnings": _warnings(runs, overall),
    }  # fmt: skip


def _read(storage: Storage, name: str) -> Compared:
    run, system = _split(name)
    manifest = find_evaluation(storage, run)
    own = storage_of(manifest)
    missing = [
        table for table in ("evaluation", "evaluated_configs") if table not in manifest.tables
    ]
    if missing:
        raise UserError(f"{run}: evaluated by an older version, without a table of {missing[0]}")
    card: Scorecard = json.loads(own.read_bytes(manifest.files["scores"]))
    rows, configs = (
        read_table(own, manifest.tables[t]) for t in ("evaluation", "evaluated_configs")
    )
    chosen = system or (card.get("gate") or {}).get("candidate") or card["systems"][-1]
    if chosen not in card["systems"]:
        known = ", ".join(card["systems"])
        raise UserError(f"{name}: its evaluation has no system {chosen!r}; it has {known}")
    return Compared(name, chosen, card, rows, configs)


def _split(name: str) -> tuple[str, str]:
    """A run and a system; an address may hold colons of its own."""
    run, colon, system = name.rpartition(":")
    return (run, system) if colon and "/" not in system else (name, "")


def _united(runs: Sequence[Compared]) -> ItemTable:
    """The runs' items as one evaluation, in which each run is a system."""
    configs: dict[tuple[str, str], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for run in runs:
        own = {(c["suite"], c["config"]): _demand(c) for c in run.configs.to_pylist()}
        for config in run.configs.to_pylist():
            configs.setdefault(_demand(config), _relabelled(config, configs.values()))
        for row in run.rows.to_pylist():
            if row["system"] == run.system:
                label = configs[own[row["suite"], row["config"]]]["config"]
                rows.append({**row, "system": run.label, "config": label})
    return read_items(
        pa.Table.from_pylist(rows, schema=EVALUATION),
        pa.Table.from_pylist(list(configs.values()), schema=EVALUATED_CONFIGS),
        [run.label for run in runs],
    )


def _demand(config: dict[str, Any]) -> tuple[str, str]:
    """What makes two configs the same: the suite, and what is demanded there."""
    return config["suite"], config["digest"] or config["config"]


def _relabelled(config: dict[str, Any], known: Any) -> dict[str, Any]:
    """One label in two runs may stand for two demands; the later one says so."""
    taken = {other["config"] for other in known if other["suite"] == config["suite"]}
    if config["config"] in taken and config["digest"]:
        return {**config, "config": f"{config['config']} ({config['digest'][:8]})"}
    return config


def _run(run: Compared) -> dict[str, Any]:
    models = run.card.get("models", {})
    gate = run.card.get("gate") or {}
    return {
        "label": run.label,
        "system": run.system,
        "model": models.get(run.system),
        "judge": models.get("judge"),
        "gate_passed": gate.get("passed") if gate.get("candidate") == run.system else None,
        "max_tokens": run.card["settings"].get("max_tokens"),
    }


def _warnings(runs: Sequence[Compared], overall: dict[str, Any]) -> list[str]:
    first, found = runs[0], []
    told = {
        "judge": "another judge than {first}: its scores and theirs are not on one scale",
        "rules": "other rules for the judge's answers (criteria, thresholds, calibration or second "
        "judge) than {first}: its scores and theirs are not on one scale",
        "tokens": "another limit on an answer's length than {first}",
    }
    for run in runs[1:]:
        differs = {
            "judge": _judge(run, "digest") != _judge(first, "digest"),
            "rules": _other_rules(run, first),
            "tokens": run.card["settings"].get("max_tokens")
            != first.card["settings"].get("max_tokens"),
        }
        found += [
            f"{run.label} was measured with {told[name].format(first=first.label)}"
            for name, other in differs.items() if other
        ]  # fmt: skip
        difference = overall["differences"].get(run.label, {}).get(first.label, {})
        if not difference.get("pairs"):
            found.append(
                f"{run.label} shares no judged item with {first.label}: their scores stand side by "
                "side, and nothing can be said of the difference"
            )
    return found


def _other_rules(run: Compared, first: Compared) -> bool:
    """Whether one judge's answers became labels in two ways; older scorecards do not say."""
    rules, theirs = _judge(run, "rules"), _judge(first, "rules")
    same_judge = _judge(run, "digest") == _judge(first, "digest")
    return same_judge and None not in (rules, theirs) and rules != theirs


def _judge(run: Compared, field: str) -> str | None:
    found: str | None = run.card.get("models", {}).get("judge", {}).get(field)
    return found
