"""Which candidate responses are wanted, as columns of numbers, and their generation.

A million candidates are planned in one go, so that equal prefixes stand side by side whichever
prompt they belong to. A plan therefore holds integers: which prompt, which config, which draw. The
messages of a candidate exist while its key or its tokens are computed.

Who writes what is decided by content. A generator without a weight writes all that its settings
name. Those with weights share what they name: for each prompt, kind and number one of them is drawn
by weighted rendezvous hashing, so that shards agree, and a generator that is added takes over its
share and moves nothing else.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Literal, overload

import pyarrow as pa

from cosalign.domain.config_rendering import PLAIN_SYSTEM_PROMPT
from cosalign.domain.fingerprint import Json, seed_of
from cosalign.domain.run_config import GeneratorSettings
from cosalign.domain.schemas import RESPONSES
from cosalign.inference.engine import Sampling
from cosalign.inference.engine_host import EngineHost
from cosalign.inference.generation import Wanted, generate_responses
from cosalign.inference.models import ModelFolder
from cosalign.store.storage import Storage
from cosalign.synthesis.draws import ConfigDrawer
from cosalign.synthesis.renderings import Choice, Renderings

Kind = Literal["plain", "superset", "not_superset"]
KINDS: tuple[Kind, ...] = ("plain", "superset", "not_superset")
PLAIN = -1
_SEEDS = 1 << 63


@dataclass(frozen=True)
class LabelledPrompt:
    """A prompt that is drawn for: all its labels are known and lie in the pool."""

    prompt_id: str
    text: str
    risk_mask: int


@dataclass
class SlotPlan:
    """What one generator owes, before configs have texts; row i of both columns is response i.

    Attributes:
        prompts: Index of the prompt, ascending.
        slots: Index into ``drawn``, or ``PLAIN``.
        drawn: The distinct slots; in an increment also free-form configs, by digest.
    """

    prompts: array[int] = field(default_factory=lambda: array("i"))
    slots: array[int] = field(default_factory=lambda: array("i"))
    drawn: dict[Choice, int] = field(default_factory=dict)

    def add(self, prompt: int, slot: Choice | None) -> None:
        """Adds one response."""
        at = PLAIN if slot is None else self.drawn.setdefault(slot, len(self.drawn))
        self.prompts.append(prompt)
        self.slots.append(at)


def plan_candidates(
    prompts: Sequence[LabelledPrompt],
    generators: Sequence[GeneratorSettings],
    drawer: ConfigDrawer,
    seed: int,
) -> dict[str, SlotPlan]:
    """What each generator owes each prompt: plain responses first, then by kind.

    Args:
        prompts: The prompts.
        generators: The generators; authored replies owe nothing here.
        drawer: Draws the configs of conditioned responses.
        seed: Seed of who writes what.
    """
    writing = [generator for generator in generators if not generator.replies]
    plans = {generator.name: SlotPlan() for generator in writing}
    for i, prompt in enumerate(prompts):
        for generator in writing:
            for kind, number in owed_by(generator, writing, prompt.prompt_id, seed):
                slot = None
                if kind != "plain":
                    purpose: Json = ["candidate", generator.name, number]
                    slot = drawer.slot(prompt.prompt_id, prompt.risk_mask, kind, purpose)
                plans[generator.name].add(i, slot)
    return plans


def owed_by(
    generator: GeneratorSettings, writing: Sequence[GeneratorSettings], prompt_id: str, seed: int
) -> Iterator[tuple[Kind, int]]:
    """The kinds and numbers of a prompt's responses that fall to one generator."""
    for kind in KINDS:
        for number in range(_count(generator, kind)):
            if generator.weight is None:
                yield kind, number
            else:
                sharing = [g for g in writing if g.weight and _count(g, kind) > number]
                where: list[Json] = [seed, prompt_id, kind, number]
                if max(sharing, key=lambda g: _draw_of(g, where)) is generator:
                    yield kind, number


def _count(generator: GeneratorSettings, kind: Kind) -> int:
    return {
        "plain": generator.plain,
        "superset": generator.superset,
        "not_superset": generator.not_superset,
    }[kind]


def _draw_of(generator: GeneratorSettings, where: list[Json]) -> float:
    """Highest wins with probability proportional to weight (weighted rendezvous hashing)."""
    uniform = (seed_of("generator", [*where, generator.name]) + 0.5) / _SEEDS
    return (generator.weight or 0.0) / -log(uniform)


class CandidatePlan(Sequence[Wanted]):
    """What one generator owes, with the texts of its configs; its items are made on access.

    Args:
        plan: Prompts and slots.
        prompts: The prompts.
        renderings: Gives the slots their texts.
        sampling: The generator's.
    """

    def __init__(
        self,
        plan: SlotPlan,
        prompts: Sequence[LabelledPrompt],
        renderings: Renderings,
        sampling: Sampling,
    ) -> None:
        self._plan = plan
        self._prompts = prompts
        self._sampling = sampling
        configs = [renderings.of(slot) for slot in plan.drawn]
        # Index PLAIN is the last: the plain system prompt.
        self._config_ids: list[str | None] = [*(c.config_id for c in configs), None]
        self._systems = [*(c.text for c in configs), PLAIN_SYSTEM_PROMPT]
        self._draws = self._numbered()

    def _numbered(self) -> array[int]:
        """The draw index of each response: how many of its prompt have the same messages before it.

        Two draws may give one config. Its responses are then told apart by this index, or the
        prompt would be left with one response fewer.
        """
        draws, earlier, current = array("i"), Counter[str](), -1
        for prompt, slot in zip(self._plan.prompts, self._plan.slots, strict=True):
            if prompt != current:
                earlier, current = Counter(), prompt
            system = self._systems[slot]
            draws.append(earlier[system])
            earlier[system] += 1
        return draws

    def __len__(self) -> int:
        return len(self._draws)

    @overload
    def __getitem__(self, at: int) -> Wanted: ...
    @overload
    def __getitem__(self, at: slice) -> list[Wanted]: ...
    def __getitem__(self, at: int | slice) -> Wanted | list[Wanted]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        system = self._systems[self._plan.slots[at]]
        user = self._prompts[self._plan.prompts[at]].text
        messages = (("system", system), ("user", user))
        return Wanted(messages, self._sampling, self._draws[at])

    @property
    def prompt_ids(self) -> list[str]:
        """The prompt of each response."""
        return [self._prompts[i].prompt_id for i in self._plan.prompts]

    @property
    def config_ids(self) -> list[str | None]:
        """The config that each response stands under; ``None`` is plain."""
        return [self._config_ids[slot] for slot in self._plan.slots]

    @property
    def draws(self) -> array[int]:
        """The draw index of each response."""
        return self._draws


@dataclass(frozen=True)
class GeneratedTable:
    """The responses table's rows of one generator, and how many had to be generated."""

    rows: pa.Table
    made: int


def generate_candidates(
    host: EngineHost, storage: Storage, model: ModelFolder, name: str, owed: CandidatePlan
) -> GeneratedTable:
    """Generates what one generator owes, and gives its rows of the responses table."""
    ids, done = generate_responses(host, storage, model, owed, f"generate:{name}")
    table = pa.table(
        {
            "response_id": ids,
            "prompt_id": owed.prompt_ids,
            "generator": pa.repeat(name, len(owed)),
            "config_id": pa.array(owed.config_ids, pa.string()),
            "draw": pa.array(owed.draws, pa.int32()),
            "text": done.rows.column("text"),
            "finish_reason": done.rows.column("finish_reason"),
            "tokens": done.rows.column("tokens"),
        },
        schema=RESPONSES,
    )
    return GeneratedTable(table, done.made)


def sampling_of(settings: GeneratorSettings) -> Sampling:
    """A generator's sampling settings as the engine takes them."""
    return Sampling(settings.max_tokens, settings.temperature, settings.top_p)
