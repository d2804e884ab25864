"""The report: one HTML file that shows the figures and how far they can be trusted.

It is self-contained (it may be opened from a bucket, a mail or KFP's viewer, none of which loads
other files) and holds ids and figures only: prompts and responses stay in tables, where access is
controlled, unless the run config asks for them. No times either, so that the same figures are the
same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cosalign.evaluation.item_table import (
    ATTACK,
    BENCHMARK,
    CONTROL,
    GENERAL,
    REFUSAL,
    is_control,
)
from cosalign.evaluation.model_size import size_words
from cosalign.evaluation.report_items import ShownItem
from cosalign.evaluation.report_plots import (
    CONFIGS_PLOTTED,
    SCATTER_HEIGHT,
    config_plot,
    funnel,
    grouped_plot,
    loss_curve,
    score_plot,
    shares_scatter,
)
from cosalign.evaluation.scorecard import Scorecard
from cosalign.evaluation.system_marks import marks_of
from cosalign.judging.reliability_diagram import diagram_style, reliability_diagram
from cosalign.runtime.pages import page_template

SMALL_MODEL = 10**9
"""Parameters below which the report says what a small model cannot show."""

SYSTEM_TITLES = {
    "base": "the base model, no config",
    "ica": "the base model, config in its prompt",
    "sft": "after SFT, config in its prompt",
    "dpo": "after SFT and DPO, config in its prompt",
    "current": "the promoted model, config in its prompt",
    "ica_k": "the base model, config and demonstrations",
    "cascade": "the base model, filtering its own answers",
    "cascade_oracle": "the base model, filtered by the judge",
    "best_of_n": "the best of several base answers by the judge",
}


PLACES_SHOWN = 3
"""A reason that holds at more places than these names so many, and counts the others."""

REFUSERS = 4
REFUSAL_TITLES = {"disallowed": "forbidden", "allowed": "allowed"}
FEW_SYSTEMS = 4
"""With more, the table of their differences is folded."""

OTHER_SUITES = {
    ATTACK: (
        "Attacks on the config",
        "The share of attacks in a user's turn that got the config overridden.",
        "unsafe",
    ),
    REFUSAL: (
        "Refusal benchmarks",
        "The share declined: high is wanted of what is to decline, low of what is to answer.",
        "refused",
    ),
    GENERAL: (
        "General ability",
        "Each task's own score, from 0 to 1. A safety config must not cost what the model can do.",
        "score",
    ),
}
"""By kind of suite: a title, a note, and the figure that it is about."""


@dataclass(frozen=True)
class Material:
    """What the report shows beside the scorecard.

    Attributes:
        synthesis: Counts of the synthesis step.
        records: The data's counts by the names of
            :data:`~cosalign.evaluation.report_plots.FUNNEL_STAGES`, beside those of synthesis.
        curves: Training curves: stage to entries with ``step`` and ``loss``.
        items: The single items to list.
        parameters: Size of the base model; ``None`` where it is not known.
    """

    synthesis: Mapping[str, int] = field(default_factory=dict)
    records: Mapping[str, int] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    items: Sequence[ShownItem] = ()
    parameters: int | None = None


def render_report(card: Scorecard, material: Material) -> str:
    """Renders the report.

    Args:
        card: See :func:`cosalign.evaluation.scorecard.scorecard`, with its models named.
        material: What stands beside the scores.
    """
    # As they followed each other; JSON files have their keys sorted.
    stages = sorted(material.curves, key=lambda stage: stage != "sft")
    drawn = [loss_curve(stage, material.curves[stage]) for stage in stages]
    configs = [config for config in card["configs"] if is_control(config["suite"])]
    return page_template("cosalign.evaluation", "report.html.j2").render(
        card=card,
        marks=marks_of(card["systems"]),
        titles=SYSTEM_TITLES,
        material=material,
        size=size_words(material.parameters) if material.parameters else "",
        small=bool(material.parameters) and (material.parameters or 0) < SMALL_MODEL,
        counts=_results(material.synthesis),
        funnel=funnel({**material.synthesis, **material.records}),
        plot=score_plot(card["overall"]),
        configs=configs,
        by_config=config_plot(configs),
        scatter=shares_scatter(card["overall"]),
        scatter_height=SCATTER_HEIGHT,
        configs_plotted=CONFIGS_PLOTTED,
        texts=any(item.answers for item in material.items),
        curves=[curve for curve in drawn if curve],
        few_systems=FEW_SYSTEMS,
        cuts=_cuts(card),
        other_suites=_other_suites(card),
        diagram=reliability_diagram,
        diagram_style=diagram_style(),
        **_gate(card),
        **_refusals(card),
    )


def _gate(card: Scorecard) -> dict[str, Any]:
    """The verdict, and the table of regions, which is about the candidate and its reference."""
    gate = card.get("gate")
    if not gate:
        return {"gate": None, "regions": []}
    regions = [
        c for c in card["configs"] if c["suite"] == CONTROL and gate["candidate"] in c["scores"]
    ]
    benchmarks = [
        {"label": name, "regions": [], "part": part}
        for name, part in card["suites"].items()
        if name.startswith(BENCHMARK) and gate["candidate"] in part["scores"]
    ]
    return {
        "gate": gate,
        "failed": [check for check in gate["checks"] if not check["passed"]],
        "reasons": _reasons(gate["checks"]),
        "places_shown": PLACES_SHOWN,
        "candidate": gate["candidate"],
        "reference": gate["reference"],
        "regions": [{"label": c["label"], "regions": c["regions"], "part": c} for c in regions]
        + benchmarks,
    }


def _reasons(checks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Failed checks, those of one rule and code together, with where they failed."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for check in checks:
        if not check["passed"]:
            key = (check["rule"], check["code"])
            reason = found.setdefault(key, {**check, "places": []})
            reason["places"].append(check["where"])
    return list(found.values())


def _refusals(card: Scorecard) -> dict[str, Any]:
    """What is declined of each category, where it is forbidden and where it is allowed."""
    gate = card.get("gate") or {}
    named = {gate.get("reference"), gate.get("candidate")}
    every: list[str] = card["systems"]
    systems = [name for name in every if name in named] or every[:REFUSERS]
    groups = [
        (f"{category}: {REFUSAL_TITLES[kind]}", _refused(parts[kind], systems))
        for category, parts in card.get("by_category", {}).items()
        for kind in REFUSAL_TITLES
        if kind in parts
    ]
    return {"refusals": grouped_plot(groups), "refusal_systems": systems}


def _refused(part: Mapping[str, Any], systems: Sequence[str]) -> dict[str, Any]:
    return {
        name: {
            "score": part["scores"][name]["refused"],
            "low": part["scores"][name]["refused_low"],
            "high": part["scores"][name]["refused_high"],
        }
        for name in systems
        if name in part["scores"]
    }


def _cuts(card: Scorecard) -> dict[str, Mapping[str, Any]]:
    categories = {name: parts["all"] for name, parts in card.get("by_category", {}).items()}
    control = {name: part for name, part in card["suites"].items() if is_control(name)}
    return {
        "Prompt type": card["by_type"],
        "Config": card.get("by_seen", {}),
        "Split of the benchmark": card["by_split"],
        "Category of the prompt": categories,
        "Suite": control if len(control) > 1 else {},
    }


def _other_suites(card: Scorecard) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Title, note, figure and parts of the suites that are not about following configs."""
    found = []
    for prefix, (title, note, name) in OTHER_SUITES.items():
        suites = card.get("refusals", {}) if prefix == REFUSAL else card["suites"]
        parts = {
            suite.removeprefix(prefix): part
            for suite, part in suites.items()
            if suite.startswith(prefix)
        }
        if parts:
            found.append((title, note, name, parts))
    return found


def _results(counts: Mapping[str, int]) -> dict[str, int]:
    """Without what only says how much one attempt paid for."""
    return {
        name: count
        for name, count in sorted(counts.items())
        if name != "engine_starts" and not name.endswith("_made")
    }
