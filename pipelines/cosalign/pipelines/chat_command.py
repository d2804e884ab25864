"""``cosalign chat``: a trained model under a safety config, beside the base model under the same.

It shows texts, because whoever calls it asked for them; none goes into a log or a file. Each prompt
stands alone: the models are trained on single turns.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cosalign.domain.errors import UserError

if TYPE_CHECKING:
    from cosalign.inference.transformers_chat import ChatModel
    from cosalign.pipelines.finished_runs import TrainedRun

NARROWEST = 72
"""Columns below which two answers stand under each other."""
GAP = 3


@dataclass(frozen=True)
class Pair:
    """Two models under one config; ``base`` answers first."""

    system: str
    base: ChatModel
    trained: ChatModel
    name: str
    max_tokens: int

    def answers(self, prompt: str) -> list[tuple[str, str]]:
        """The title and the answer of each."""
        messages = (("system", self.system), ("user", prompt))
        named = (("base model", self.base), (f"trained ({self.name})", self.trained))
        return [(title, model.answer(messages, self.max_tokens)) for title, model in named]


@click.command("chat")
@click.option(
    "--config",
    "config_file",
    required=True,
    metavar="FILE",
    help="The safety config to talk under.",
)
@click.option("--root", default="cosalign-out", show_default=True, help="Storage root of the run.")
@click.option("--run-id", metavar="ID", help="The run; the newest that trained by default.")
@click.option(
    "--model",
    "name",
    type=click.Choice(["dpo", "sft"]),
    default="dpo",
    show_default=True,
    help="Which of its trained models.",
)
@click.option("--prompt", metavar="TEXT", help="Ask this and end.")
def chat_command(
    config_file: str, root: str, run_id: str | None, name: str, prompt: str | None
) -> None:
    """Talk with a trained model under a safety config, beside its base model.

    Without --prompt it reads one prompt a line, from the terminal or from a pipe. Prompts do not
    follow from each other.
    """
    from cosalign.pipelines.finished_runs import newest_trained_run
    from cosalign.store.storage import open_storage

    run = newest_trained_run(open_storage(root), run_id)
    system = _system_prompt(run, config_file)
    # Before the models are loaded: something to read while one waits.
    click.echo(f"run {run.run_id}; system prompt:\n{_printable(system)}\n", err=True)
    pair = _load(run, system, name)
    for asked in [prompt] if prompt is not None else _prompts():
        click.echo(side_by_side(pair.answers(asked), shutil.get_terminal_size().columns))


def _load(run: TrainedRun, system: str, name: str) -> Pair:
    if name not in run.models:
        raise UserError(
            f"run {run.run_id} trained {', '.join(run.models)}, and not {name}; choose with --model"
        )
    from cosalign.inference.models import resolve_model
    from cosalign.inference.transformers_chat import open_chat_models

    cache = Path(run.config.storage.cache).expanduser()
    dtype = run.config.models.engine.dtype
    folders = [resolve_model(uri, cache) for uri in (run.config.models.base, run.models[name])]
    base, trained = open_chat_models(folders, dtype)
    return Pair(system, base, trained, name, run.config.evaluation.max_tokens)


def _system_prompt(run: TrainedRun, config_file: str) -> str:
    from cosalign.domain.config_rendering import render_safety_config
    from cosalign.runtime.safety_config_files import read_safety_configs, run_taxonomy

    group = run.config.taxonomy
    taxonomy = run_taxonomy(group)
    found = read_safety_configs([config_file], {f"{taxonomy.name} {taxonomy.version}": taxonomy})
    if len(found) != 1:
        raise UserError(f"--config {config_file}: holds {len(found)} safety configs; name one file")
    return render_safety_config(found[0], taxonomy).text


def _prompts() -> Iterator[str]:
    interactive = sys.stdin.isatty()
    if interactive:
        click.echo("Type a prompt; an empty line ends.", err=True)
    while True:
        if interactive:
            click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line or (interactive and not line.strip()):
            return
        if line.strip():
            yield line.strip()


def side_by_side(answers: list[tuple[str, str]], columns: int) -> str:
    """Titled texts in columns, or under each other where the terminal is narrow.

    Args:
        answers: Title and text of each.
        columns: The terminal's width.
    """
    if columns < NARROWEST:
        return "\n".join(f"{title}:\n{_printable(text).strip()}\n" for title, text in answers)
    width = (columns - GAP * (len(answers) - 1)) // len(answers)
    cells = [
        [title, "-" * len(title), *_wrapped(_printable(text), width)] for title, text in answers
    ]
    lines = (
        (" " * GAP).join(f"{cell:<{width}}" for cell in row).rstrip()
        for row in zip_longest(*cells, fillvalue="")
    )
    return "\n".join(lines) + "\n"


def _wrapped(text: str, width: int) -> list[str]:
    return [
        line for part in text.strip().splitlines() for line in textwrap.wrap(part, width) or [""]
    ]


def _printable(text: str) -> str:
    """Without control characters: what a model writes must not steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
