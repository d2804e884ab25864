"""``cosalign costs``: what runs took, and each region's part."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cosalign.retraining.costs import Cost, RunCosts


@click.command("costs")
@click.option("--root", default="cosalign-out", show_default=True, help="Storage root.")
@click.option("--run", "run", metavar="SHA256", help="One run, by its run config's SHA-256.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def costs_command(root: str, run: str | None, as_json: bool) -> None:
    """Say what runs took in GPU-hours and money, by step and by region.

    Prices are those of the run config (`prices`) when a task ran. Work for several regions is split
    by pairs and items; docs/design/governance.md has the rule.
    """
    from cosalign.retraining.costs import run_costs, total
    from cosalign.store.storage import open_storage

    found = run_costs(open_storage(root), run)
    if as_json:
        click.echo(json.dumps([_plain(one) for one in found], indent=2))
        return
    click.echo("run\tof\tGPU-hours\tcore-hours\tprice")
    for one in found:
        for name, cost in [*one.steps.items(), ("all", one.total)]:
            click.echo(_line(one.run[:12], name, cost, one.currency))
        for region, cost in one.regions.items():
            click.echo(_line(one.run[:12], f"region {region}", cost, one.currency))
        if one.without_end:
            click.echo(
                f"{one.run[:12]}\t{one.without_end} attempts without an end, not in the bill"
            )
    if len(found) > 1 and len({one.currency for one in found}) == 1:
        click.echo(_line("all runs", "all", total(o.total for o in found), found[0].currency))


def _line(run: str, name: str, cost: Cost, currency: str) -> str:
    price = "-" if cost.price is None else f"{cost.price:.2f} {currency}"
    return f"{run}\t{name}\t{cost.gpu_hours:.3f}\t{cost.core_hours:.3f}\t{price}"


def _plain(costs: RunCosts) -> dict[str, object]:
    return {
        "run": costs.run, "began": costs.began, "currency": costs.currency,
        "total": asdict(costs.total), "without_end": costs.without_end,
        "steps": {name: asdict(cost) for name, cost in costs.steps.items()},
        "regions": {name: asdict(cost) for name, cost in costs.regions.items()},
    }  # fmt: skip
