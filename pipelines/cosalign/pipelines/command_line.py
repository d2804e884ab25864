"""The ``cosalign`` command.

A table says where each command lives, and a command's module is imported when it is called: help
answers at once although the commands need torch, pyarrow or kfp.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from cosalign.domain.errors import UserError
from cosalign.pipelines.failures import RunStopped, TaskFailed
from cosalign.pipelines.images import COMMAND_IMAGE_ENTRIES, VERSION
from cosalign.runtime.exit_codes import run_and_exit_code


@dataclass(frozen=True)
class LazyCommand:
    """Where a command lives, as ``module:attribute``, and its line in the help."""

    target: str
    help: str

    def load(self) -> click.Command:
        """Imports the command."""
        module, _, attribute = self.target.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.target} is no click command")
        return command


COMMANDS = {
    "run": LazyCommand(
        "cosalign.pipelines.run_command:run_command",
        "Run the compiled pipeline on this machine.",
    ),
    "submit": LazyCommand(
        "cosalign.pipelines.submit_command:submit_command",
        "Run a compiled pipeline on Kubeflow Pipelines.",
    ),
    "pipelines": LazyCommand(
        "cosalign.pipelines.upload_command:pipelines",
        "Upload pipelines to Kubeflow Pipelines.",
    ),
    "reconcile": LazyCommand(
        "cosalign.retraining.reconcile_commands:reconcile_command",
        "Do what safety configs ask for: accept, measure, train, promote.",
    ),
    "status": LazyCommand(
        "cosalign.retraining.reconcile_commands:status_command",
        "Show what became of each region's safety config.",
    ),
    "chat": LazyCommand(
        "cosalign.pipelines.chat_command:chat_command",
        "Talk with a trained model under a safety config.",
    ),
    "serve": LazyCommand(
        "cosalign.pipelines.serve_command:serve_command",
        "Serve a trained model under each region's config.",
    ),
    "compile": LazyCommand(
        "cosalign.pipelines.compile_command:compile_command",
        "Compile the pipeline to KFP's JSON.",
    ),
    "config": LazyCommand(
        "cosalign.retraining.config_commands:config",
        "Check, compare and approve safety configs.",
    ),
    "audit": LazyCommand(
        "cosalign.retraining.commands:audit",
        "Read the audit log, and see whether it was altered.",
    ),
    "costs": LazyCommand(
        "cosalign.retraining.costs_command:costs_command",
        "Say what runs took, and each region's part.",
    ),
    "migrate": LazyCommand(
        "cosalign.retraining.migrate_command:migrate_command",
        "Say which versions are stored, and rewrite what is old.",
    ),
    "profile": LazyCommand(
        "cosalign.runtime.config_commands:profile",
        "Print a profile, every default filled in.",
    ),
    "trace": LazyCommand(
        "cosalign.pairing.commands:trace",
        "Say where a preference pair comes from.",
    ),
    "taxonomy": LazyCommand(
        "cosalign.synthesis.commands:taxonomy",
        "Show, check, compare and draft risk taxonomies.",
    ),
    "model": LazyCommand(
        "cosalign.inference.commands:model",
        "Fetch and convert models.",
    ),
    "judge": LazyCommand(
        "cosalign.judging.commands:judge",
        "Calibrate the judge, and have people check it.",
    ),
    "report": LazyCommand(
        "cosalign.evaluation.commands:report_group",
        "Put evaluations side by side.",
    ),
    "promote": LazyCommand(
        "cosalign.evaluation.commands:promote_command",
        "Make a model the current one, if its gate passed.",
    ),
    "rollback": LazyCommand(
        "cosalign.evaluation.commands:rollback_command",
        "Make an earlier model current again.",
    ),
    "models": LazyCommand(
        "cosalign.evaluation.commands:models_command",
        "List what was promoted, when and by whom.",
    ),
    "gateway": LazyCommand(
        "cosalign.serving.commands:gateway",
        "Serve a model under the safety config of whoever asks.",
    ),
    "benchmark": LazyCommand(
        "cosalign.evaluation.benchmark_commands:benchmark",
        "Build evaluation sets from held-out prompts.",
    ),
    "plan": LazyCommand(
        "cosalign.training.commands:plan",
        "Plan what a training will take.",
    ),
    "recipes": LazyCommand(
        "cosalign.training.recipe_commands:recipes",
        "Show the training recipes that ship.",
    ),
    "ledger": LazyCommand(
        "cosalign.judging.ledger_commands:ledger",
        "Look into the ledgers of paid work, and measure drift.",
    ),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and takes help lines from the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """All names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Imports one command."""
        return COMMANDS[cmd_name].load() if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Writes the help lines without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def _self_test(ctx: click.Context, param: click.Parameter, asked: bool) -> None:  # noqa: ARG001
    if asked:
        from cosalign.runtime.self_test import print_self_test

        print_self_test("retraining", *COMMAND_IMAGE_ENTRIES)
        ctx.exit()


@click.group(cls=LazyGroup)
@click.version_option(VERSION, prog_name="cosalign")
@click.option("--self-test", is_flag=True, is_eager=True, expose_value=False, hidden=True,
              callback=_self_test)  # fmt: skip
def cosalign() -> None:
    """One language model that follows many safety policies.

    CoSAlign as a Kubeflow pipeline: synthesis, scoring, pairing, training, evaluation.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the ``cosalign`` command; gives the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    codes: list[int] = []
    # Whatever leaves no code of its own here is an error, which the outer function turns into one.
    failed = run_and_exit_code(lambda: codes.append(_invoke(args)))
    return codes[0] if codes else failed


def _invoke(args: list[str]) -> int:
    try:
        result = cosalign.main(args=args, prog_name="cosalign", standalone_mode=False)
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as problem:
        problem.show()
        return problem.exit_code
    except ModuleNotFoundError as problem:
        if not (problem.name or "").startswith("cosalign."):
            raise
        # Each image holds its own folder and the layers under it, the command line all names.
        raise UserError(
            f"this command needs {problem.name}, which this image does not hold; run it where "
            "cosalign is installed whole"
        ) from None
    except (TaskFailed, RunStopped) as problem:
        # No defect of the run, whatever its code: the failed step has shown its own traceback.
        click.echo(f"cosalign: error: {problem}", err=True)
        return problem.exit_code
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
