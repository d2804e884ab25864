"""The status for people: a table for the terminal, one HTML page of regions by phase."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from cosalign.retraining.config_standing import ConfigStanding
from cosalign.retraining.status_file import RunStanding, Status

PHASES = (
    "Refused",
    "Failed",
    "NotFollowed",
    "Waiting",
    "Accepted",
    "Evaluating",
    "Training",
    "Promoted",
)
"""From what needs attention to what is done."""

_BAD = {"Refused", "Failed", "NotFollowed"}
_SHOWN = 60


def status_lines(status: Status, regions: Iterable[str] = ()) -> list[str]:
    """The status as a table for the terminal.

    Args:
        status: The status.
        regions: Only configs of these; all where there are none.
    """
    wanted = set(regions)
    configs = [config for config in status.configs if not wanted or config.region in wanted]
    ordered = sorted(configs, key=lambda c: (c.region, PHASES.index(c.phase), c.key))
    rows = [("REGION", "CONFIG", "FORM", "PHASE", "SCORE", "WHY")]
    rows += [
        (c.region or "-", c.name, c.form or "-", c.phase, _score(c), _shortened(reason_of(c)))
        for c in ordered
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = ["  ".join(f"{row[i]:<{widths[i]}}" for i in range(5)) + f"  {row[5]}" for row in rows]
    return [*_facts(status), "", *(line.rstrip() for line in table), *_problems(status)]


def _facts(status: Status) -> list[str]:
    model = status.model
    told = "none was promoted yet"
    if model is not None:
        told = f"{model.digest[:12]} since {model.at}"
        told += f", {model.increments} increments since the last full run" * bool(model.increments)
    settles = f" (configs settle for {status.settle_left:.0f} s more)" if status.settle_left else ""
    lines = [
        f"as of       {status.at}",
        f"model       {told}",
        f"due         {status.due}: {status.why}{settles}",
    ]
    runs = (("evaluation", status.evaluate), ("training", status.train))
    return lines + [f"{title:<12}{run_line(run)}" for title, run in runs if run is not None]


def run_line(run: RunStanding) -> str:
    """A run in one line."""
    gate = {None: "", True: ", gate passed", False: ", gate failed"}[run.passed]
    message = f": {_shortened(run.message)}" if run.message else ""
    return f"{run.run} {run.ending or run.phase}{gate}{message}"


def _problems(status: Status) -> list[str]:
    return ["", *(f"cannot be read: {problem}" for problem in status.problems)] * bool(
        status.problems
    )


def reason_of(config: ConfigStanding) -> str:
    """The one message of a config's conditions that says most about its phase."""
    kind = {
        "Refused": "Refused",
        "Waiting": "Accepted",
        "Evaluating": "Evaluated",
        "Training": "Trained",
        "NotFollowed": "Evaluated",
        "Failed": "Promoted",
    }.get(config.phase, "Promoted")
    return config.condition(kind).message


def status_page(status: Status) -> str:
    """One HTML page, which loads nothing."""
    from cosalign.runtime.pages import page_template

    template = page_template("cosalign.retraining", "status.html.j2")
    counts = Counter(config.phase for config in status.configs)
    return template.render(
        status=status,
        regions=_regions(status.configs),
        phases=[(phase, counts[phase]) for phase in PHASES if counts[phase]],
        runs=[("last evaluation", status.evaluate), ("last training", status.train)],
        troubles=_troubles(status),
        mark=lambda phase: "bad" if phase in _BAD else "done" if phase == "Promoted" else "",
        reason=reason_of,
        words=_words_apart,
    )


def _regions(configs: Iterable[ConfigStanding]) -> list[dict[str, Any]]:
    found: dict[str, list[ConfigStanding]] = {}
    for config in configs:
        found.setdefault(config.region, []).append(config)
    return [
        {"name": name,
         "configs": sorted(found[name], key=lambda c: (PHASES.index(c.phase), c.key))}
        for name in sorted(found)
    ]  # fmt: skip


def _troubles(status: Status) -> list[str]:
    """Runs that ended otherwise than well."""
    return [
        f"{title} {run_line(run)}"
        for title, run in (("Evaluation", status.evaluate), ("Training", status.train))
        if run is not None and (run.ending not in (None, "succeeded") or run.passed is False)
    ]


def _score(config: ConfigStanding) -> str:
    return "-" if config.score is None else f"{config.score:.3f}"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."


def _words_apart(phase: str) -> str:
    return re.sub(r"(?<=[a-z])[A-Z]", lambda found: f" {found[0].lower()}", phase)
