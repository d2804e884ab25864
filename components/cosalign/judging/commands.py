"""``cosalign judge``: how far the judge can be trusted, and what people have to say about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cosalign.judging.judge_calibration import CalibrationOutcome
    from cosalign.judging.sheet_agreement import SheetAgreement

PROFILE = click.option(
    "--profile", required=True, metavar="NAME|FILE", help="The run config that names the judge."
)
OVERRIDES = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="GROUP.KEY=VALUE",
    help="Override one value of it; may be repeated.",
)


@click.group()
def judge() -> None:
    """Calibrate the judge, and have people check it."""


@judge.command()
@click.argument("examples")
@PROFILE
@OVERRIDES
@click.option("--out", required=True, metavar="FOLDER", help="Where the results are written.")
@click.option(
    "--threshold",
    "rule",
    default="f1",
    show_default=True,
    help="How thresholds are chosen: f1, balanced, recall=SHARE or precision=SHARE.",
)
@click.option(
    "--sensitivity-rows",
    default=100,
    show_default=True,
    help="Examples asked about again in other orders and wordings; 0 for none.",
)
@click.option("--rows", default=0, help="At most so many examples, drawn by seed; 0 for all.")
@click.option("--seed", default=0, show_default=True, help="Seed of splits and draws.")
def calibrate(out: str, **options: Any) -> None:
    """Measure the run's judge on the labelled EXAMPLES (JSONL) and calibrate it.

    Writes calibration.json, which scoring.calibration names, measured.json and report.html. The
    judge's answers go into the ledger of the run's storage root.
    """
    from cosalign.judging.calibrate_command import CalibrateRequest, run_calibrate
    from cosalign.runtime.logs import configure_logs

    configure_logs()
    outcome, files = run_calibrate(CalibrateRequest(**options), out)
    _show(outcome)
    for file in files:
        click.echo(file)


def _show(outcome: CalibrationOutcome) -> None:
    click.echo("question\texamples\tyes\tAUROC\tF1\tkappa\tyes from")
    for one in outcome.questions:
        shown = [
            one.figures[name].value if one.figures else None for name in ("auroc", "f1", "kappa")
        ]
        threshold = one.calibration.threshold if one.calibration else None
        cells = ["-" if value is None else f"{value:.3f}" for value in (*shown, threshold)]
        click.echo("\t".join([one.question, str(one.rows), str(one.yes), *cells]))
    for one in outcome.questions:
        for warning in one.warnings:
            click.echo(f"{one.question}: {warning}", err=True)


@judge.command("read")
@click.argument("files", nargs=-1, required=True)
@PROFILE
@OVERRIDES
@click.option("--old", metavar="FILE", help="The version in force, to compare the new one with.")
def read(files: tuple[str, ...], profile: str, overrides: tuple[str, ...], old: str | None) -> None:
    """Have the run's judge read policies in prose, category by category.

    FILES are safety configs. The readings are stored under the run's storage root, where `cosalign
    config diff --readings ROOT` and reconcile find them.
    """
    from cosalign.judging.read_command import run_read
    from cosalign.runtime.logs import configure_logs

    configure_logs()
    for found in run_read(profile, overrides, files, old):
        click.echo(f"{found.config.name}\tpermits\tmay permit\tno more than before")
        for bit, name in enumerate(found.taxonomy.names):
            masks = (found.reading.surely, found.reading.may, found.not_wider)
            cells = ["-" if m is None else "yes" if m >> bit & 1 else "no" for m in masks]
            click.echo("\t".join([name, *cells]))


@judge.command("import")
@click.argument("name")
@PROFILE
@OVERRIDES
@click.option("--out", required=True, metavar="FILE", help="Where they are written (JSONL).")
@click.option("--mirror", metavar="FOLDER", help="A copy of the dataset, read in place of the hub.")
@click.option("--revision", help="A commit or tag of the dataset.")
@click.option("--rows", default=0, help="At most so many, drawn by seed; 0 for all.")
@click.option("--seed", default=0, show_default=True, help="Seed of the draw.")
def import_published(out: str, **options: Any) -> None:
    """Write the published set NAME (beavertails, wildguardtest) as labelled examples.

    Its labels are put in the taxonomy's terms; what they do not settle is unknown. Beside the
    examples, FILE.source.json says where they come from and under which licence.
    """
    from cosalign.judging.labelling_commands import ImportRequest, run_import

    source = run_import(ImportRequest(**options), out)
    for name, count in source["counts"].items():
        click.echo(f"{name}\t{count}")
    click.echo(f"licence {source['licence']}: {source['terms']}", err=True)
    click.echo(out)


@judge.command()
@PROFILE
@OVERRIDES
@click.option("--out", required=True, metavar="FILE", help="Where the sheet is written (CSV).")
@click.option("--rows", default=100, show_default=True, type=click.IntRange(1), help="At most.")
@click.option("--step", metavar="FINGERPRINT", help="One scoring, where the storage has several.")
@click.option("--seed", default=0, show_default=True, help="Seed of what uncertainty leaves open.")
@click.option("--texts", is_flag=True, help="Put prompts and responses into it, to be read.")
def sample(out: str, **options: Any) -> None:
    """Write a sheet of the run's responses that are most worth labelling.

    Half are those that the judge is least sure of, half are spread over its probabilities. Give a
    copy to two people, who write y or n (helpfulness: 0 to 5) or leave a cell empty, and bring both
    back with `cosalign judge agree`.
    """
    from cosalign.judging.labelling_commands import SampleRequest, run_sample

    drawn = run_sample(SampleRequest(**options), out)
    click.echo(f"{out}: {drawn} rows")
    if not options["texts"]:
        click.echo("no texts: read them by response id, or draw again with --texts", err=True)


@judge.command()
@click.argument("one")
@click.argument("other")
@PROFILE
@OVERRIDES
@click.option("--settled", metavar="FILE", help="The third sheet, when it has been talked over.")
@click.option("--out", required=True, metavar="FOLDER", help="Where the results are written.")
def agree(one: str, other: str, out: str, **options: Any) -> None:
    """Compare the sheets ONE and OTHER that two people filled in.

    Writes examples.jsonl, what they agree on, for `cosalign judge calibrate`; disputed.csv, the
    rows that they differ on; and agreement.json.
    """
    from cosalign.judging.labelling_commands import AgreeRequest, run_agree

    found, files = run_agree(AgreeRequest(one=one, other=other, **options), out)
    _show_agreement(found)
    for file in files:
        click.echo(file)


def _show_agreement(found: SheetAgreement) -> None:
    click.echo("question\tboth\tone only\tsame\tkappa\talpha")
    for one in found.questions:
        shares = ["-" if value is None else f"{value:.3f}" for value in (one.kappa, one.alpha)]
        counts = [str(value) for value in (one.both, one.one_only, one.same)]
        click.echo("\t".join([one.question, *counts, *shares]))
    click.echo(f"{len(found.examples)} examples, {len(found.disputed.rows)} rows in dispute")
    if found.missing:
        click.echo(f"{found.missing} rows stand in one of the sheets only", err=True)
