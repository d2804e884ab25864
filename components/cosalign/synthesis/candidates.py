"""Which candidate responses are wanted, and their generation, generator by generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from cosalign.domain.config_rendering import PLAIN_SYSTEM_PROMPT
from cosalign.domain.run_config import GeneratorSettings, Mode
from cosalign.domain.schemas import RESPONSES
from cosalign.inference.engine import Sampling
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import Wanted, generate_responses
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage
from cosalign.synthesis.draws import ConfigDrawer


@dataclass(frozen=True)
class LabelledPrompt:
    """A prompt that is drawn for: all its labels are known and lie in the pool."""

    prompt_id: str
    text: str
    risk_mask: int


@dataclass(frozen=True)
class Candidate:
    """One wanted response: for which prompt, and under which config (``None`` is plain)."""

    prompt_id: str
    config_id: str | None
    wanted: Wanted


@dataclass(frozen=True)
class GeneratedTable:
    """The responses table's rows of one generator, and how many had to be generated."""

    rows: pa.Table
    made: int


def candidates(
    prompts: Iterable[LabelledPrompt], settings: GeneratorSettings, drawer: ConfigDrawer
) -> list[Candidate]:
    """All responses that one generator owes, plain ones first, then by mode."""
    return [candidate for prompt in prompts for candidate in _of_prompt(prompt, settings, drawer)]


def _of_prompt(
    prompt: LabelledPrompt, settings: GeneratorSettings, drawer: ConfigDrawer
) -> list[Candidate]:
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p)
    modes: list[tuple[Mode, int]] = [("superset", draw) for draw in range(settings.superset)] + [
        ("not_superset", draw) for draw in range(settings.not_superset)
    ]
    configs = [
        drawer.draw(prompt.prompt_id, prompt.risk_mask, mode, ["candidate", settings.name, draw])
        for mode, draw in modes
    ]
    systems = [(None, PLAIN_SYSTEM_PROMPT)] * settings.plain + [
        (c.config_id, c.text) for c in configs
    ]
    # Two draws may give one config; its responses are then told apart by the draw index, or the
    # prompt would be left with one response fewer.
    earlier: Counter[str] = Counter()
    owed = []
    for config_id, system in systems:
        wanted = Wanted(_messages(system, prompt), sampling, earlier[system])
        earlier[system] += 1
        owed.append(Candidate(prompt.prompt_id, config_id, wanted))
    return owed


def _messages(system: str, prompt: LabelledPrompt) -> tuple[tuple[str, str], ...]:
    return (("system", system), ("user", prompt.text))


def generate_candidates(
    host: EngineHost,
    storage: Storage,
    model: ModelFolder,
    settings: GeneratorSettings,
    owed: list[Candidate],
) -> GeneratedTable:
    """Generates what one generator owes, and gives its rows of the responses table."""
    ids, done = generate_responses(
        host, storage, model, [c.wanted for c in owed], f"generate:{settings.name}"
    )
    table = pa.table(
        {
            "response_id": ids,
            "prompt_id": [c.prompt_id for c in owed],
            "generator": [settings.name] * len(owed),
            "config_id": pa.array([c.config_id for c in owed], pa.string()),
            "draw": pa.array([c.wanted.draw for c in owed], pa.int32()),
            "text": done.rows.column("text"),
            "finish_reason": done.rows.column("finish_reason"),
            "tokens": done.rows.column("tokens"),
        },
        schema=RESPONSES,
    )
    return GeneratedTable(table, done.made)
