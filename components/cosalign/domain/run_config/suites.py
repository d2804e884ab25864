"""What is measured beside the regions' own items: benchmarks, refusals, attacks, general ability.

Each is data with a name, so that one more costs a few lines of a run config. What its rows are
called in their file or dataset is said here; nothing is renamed by hand.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cosalign.domain.validation import StrictModel

Expectation = Literal["decline", "answer"]
_NAME = r"^[A-Za-z0-9][\w.-]*$"


class SuiteSource(StrictModel):
    """Where rows come from: a file, or a dataset of the hub.

    Attributes:
        name: What the suite is called.
        file: JSONL, CSV or Parquet; a path, ``file://`` or ``gs://``.
        hub: Id of a dataset.
        mirror: A folder with a copy of it, read in its place.
        revision: A commit or tag of it.
        subset: Its configuration.
        split: Its split.
        prompt_field: The column of prompts.
    """

    name: str = Field(max_length=60, pattern=_NAME)
    file: str | None = None
    hub: str | None = None
    mirror: str | None = None
    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    prompt_field: str = "prompt"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.hub is None):
            have = "neither" if self.file is None else "both"
            raise ValueError(f"give either file or hub, found {have}")
        return self

    @property
    def subsets(self) -> tuple[str, ...]:
        """Configurations of the dataset whose splits are all read, where one split is not all."""
        return ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits of the dataset's configuration that are read, where one is not all."""
        return ()


class BenchmarkSuite(SuiteSource):
    """A set of prompts under configs.

    Attributes:
        form: ``rows``: each row says ``allowed`` and ``risks`` and ``prompt``, as
            ``cosalign benchmark build`` writes them. ``cosalign_test``: the dataset as published,
            one split a config. ``policies``: each row or split has a config in prose, as in
            CoSApien; answers are judged with its text.
        config_field: The column with a policy's text.
        policies: By split of a dataset, the policy of its rows, where they hold none: those
            splits are read, and no others.
        rows_per_config: How many are taken, prompt types in turn; all where null.
    """

    form: Literal["rows", "cosalign_test", "policies"] = "rows"
    config_field: str = "config"
    policies: dict[str, Annotated[str, Field(min_length=1)]] = {}
    rows_per_config: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _policies_of_splits(self) -> Self:
        if self.policies and (self.form != "policies" or self.hub is None):
            raise ValueError(
                "policies by split are for form 'policies' and a dataset: give hub, or name the "
                "column that holds each row's policy with config_field"
            )
        return self

    @property
    def splits(self) -> tuple[str, ...]:
        """Those whose policies are given."""
        return tuple(self.policies)

    @property
    def subsets(self) -> tuple[str, ...]:
        """Of CoSAlign-Test as published, ``seen`` and ``unseen``, unless one is named."""
        if self.form != "cosalign_test":
            return ()
        return (self.subset,) if self.subset else ("seen", "unseen")


class RefusalSuite(SuiteSource):
    """Prompts to decline, as AdvBench and StrongREJECT, or to answer, as much of XSTest.

    Attributes:
        expect: What is right to do with a prompt.
        expect_field: A column that says it for each row.
        answer_values: Its values that mean ``answer``; all others mean ``decline``.
        allowed: The allowed risks of the config that they are asked under; none, as a rule.
        limit: How many prompts are taken, chosen by seed; all where null.
    """

    expect: Expectation = "decline"
    expect_field: str | None = None
    answer_values: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _says_what_is_answered(self) -> Self:
        if (self.expect_field is None) != (not self.answer_values):
            raise ValueError("expect_field and answer_values go together; give both or neither")
        return self


class AttackSettings(StrictModel):
    """Attacks on the config channel.

    Attributes:
        prompts_per_config: Held-out prompts under each categorical config that attacks are built
            around: such whose answer the config decides.
        file: Attacks in place of the shipped ones, YAML in their form.
    """

    prompts_per_config: int = Field(default=8, ge=1)
    file: str | None = None


class GeneralSettings(StrictModel):
    """Tasks of lm-evaluation-harness.

    Attributes:
        tasks: Their names: ``mmlu``, ``gsm8k``, ``bbh``, or any other that it knows.
        include: Folders with tasks of one's own.
        limit: Documents a task; all where null.
        fewshot: Examples shown; what the task says where null.
        chat: Whether documents are asked through the chat template.
        systems: Whose models are measured, by system; those without demonstrations, filters or
            draws where null.
    """

    tasks: tuple[str, ...] = Field(min_length=1)
    include: tuple[str, ...] = ()
    limit: int | None = Field(default=None, ge=1)
    fewshot: int | None = Field(default=None, ge=0)
    chat: bool = False
    systems: tuple[str, ...] | None = None
