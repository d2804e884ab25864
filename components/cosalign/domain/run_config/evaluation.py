"""What is measured, and how."""

from __future__ import annotations

from pydantic import Field

from cosalign.domain.run_config.suites import (
    AttackSettings,
    BenchmarkSuite,
    GeneralSettings,
    RefusalSuite,
)
from cosalign.domain.run_config.systems import SYSTEMS, SystemEntry
from cosalign.domain.validation import StrictModel


class EvaluationGroup(StrictModel):
    """What is measured, and how.

    Attributes:
        systems: ``base`` answers without a config, ``ica`` is the base model with the config as
            system prompt, ``sft`` and ``dpo`` are the trained models with it. Also ``ica_k``,
            ``cascade``, ``cascade_oracle``, ``best_of_n``, ``served:NAME``, or settings; see
            :class:`SystemSettings`.
        prompts_per_config: Held-out prompts answered under each of the regions' configs.
        benchmark: A JSONL file of (allowed, risks, prompt) rows in the form of CoSAlign-Test.
        benchmark_rows_per_config: Rows taken a config, balanced over prompt types; all where null.
        benchmarks: Further benchmarks, each with a name.
        acceptance: Whether ``spec.acceptance`` of the regions' configs is run.
        refusals: Refusal benchmarks.
        attacks: Attacks on the config channel; none where null.
        general: Tasks of lm-evaluation-harness; none where null.
        max_tokens: Length limit of an answer.
        bootstrap: Resamples of the confidence interval.
        confidence: Its level.
        seed: Seed of samples and resamples.
        report_items: How many single items the report lists, from all configs alike; the tables
            hold all.
        report_texts: Whether the report holds the prompts and answers of the items that it lists,
            folded away. For mild texts only: a report is passed on more freely than a table.
    """

    systems: tuple[SystemEntry, ...] = tuple(SYSTEMS[n] for n in ("base", "ica", "sft", "dpo"))
    prompts_per_config: int = Field(default=50, ge=0)
    benchmark: str | None = None
    benchmark_rows_per_config: int | None = Field(default=None, ge=1)
    benchmarks: tuple[BenchmarkSuite, ...] = ()
    acceptance: bool = True
    refusals: tuple[RefusalSuite, ...] = ()
    attacks: AttackSettings | None = None
    general: GeneralSettings | None = None
    max_tokens: int = Field(default=64, ge=1)
    bootstrap: int = Field(default=2000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = 0
    report_items: int = Field(default=60, ge=0)
    report_texts: bool = False

    @property
    def system_names(self) -> tuple[str, ...]:
        """What the systems are called, in order."""
        return tuple(system.name for system in self.systems)
