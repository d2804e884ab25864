"""A run that extends another one by what new safety configs add, and by nothing else."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from cosalign.domain.validation import StrictModel

Start = Literal["promoted", "sft"]

_PREVIOUS = re.compile(r".+/steps/(evaluation|training)/[0-9a-f]{64}/manifest\.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class IncrementGroup(StrictModel):
    """What an increment extends, by which configs, and from which model training goes on.

    Prompts, labels, splits and candidates come from the previous run's tables. Drawn, generated,
    judged and paired is what the new configs ask for; old verdicts, pairs and reference
    log-probabilities stand.

    Attributes:
        previous: Address of the manifest of the run that is extended, of its evaluation (or of its
            training, where it was not evaluated): ``ROOT/steps/evaluation/FINGERPRINT/
            manifest.json``. It leads to all of that run's manifests. ``ROOT`` must be
            ``storage.root``, whose ledgers hold what that run paid for.
        configs: Digests of the safety configs that are new; all of them lie in ``configs.files``.
            Configs of the previous run that lie there no longer are neither replayed nor evaluated.
        start: The model that DPO goes on from: ``promoted``, or the previous run's ``sft`` model.
            The reference is that SFT model in either case.
        model: The promoted model, with its digest: ``ADDRESS@sha256:DIGEST``. Not given for
            ``sft``, which the previous run names.
        prompts: Prompts of the training and development splits that meet each new config, at most.
        responses: Responses conditioned on the new config that each of these prompts gets from
            every generator that writes under configs; those with a weight share them. With 0 the
            candidates that are there are paired anew, and nothing is generated.
        replay_share: Share of the training pairs that are old ones, replayed; 0 replays none.
        epochs: Passes over new and replayed pairs. It stands in place of ``training.dpo.epochs``
            and ``max_steps``, which fit a full run.
        seed: Seed of which old pairs are replayed.
    """

    previous: str
    configs: tuple[str, ...] = Field(min_length=1)
    start: Start = "promoted"
    model: str | None = None
    prompts: int = Field(default=512, ge=1)
    responses: int = Field(default=1, ge=0)
    replay_share: float = Field(default=0.5, ge=0, lt=1)
    epochs: float = Field(default=1.0, gt=0)
    seed: int = 0

    @field_validator("previous")
    @classmethod
    def _is_a_manifest(cls, value: str) -> str:
        if not _PREVIOUS.fullmatch(value):
            raise ValueError(
                "name the manifest of the run to extend: ROOT/steps/evaluation/FINGERPRINT/"
                f"manifest.json, as its outcome.json or summary.json gives it as record; found "
                f"{value!r}"
            )
        return value

    @field_validator("configs")
    @classmethod
    def _are_digests(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [digest for digest in value if not _DIGEST.fullmatch(digest)]
        if wrong or len(set(value)) < len(value):
            raise ValueError(
                "name each new config once, by its digest of 64 hex digits (`cosalign config "
                f"validate` prints it); found {list(value)}"
            )
        return value

    @model_validator(mode="after")
    def _names_its_start(self) -> Self:
        pinned = self.model is not None and "@sha256:" in self.model
        if self.start == "promoted" and not pinned:
            raise ValueError(
                "start is promoted: name the promoted model with its digest, as "
                "model: ADDRESS@sha256:DIGEST (`cosalign models` lists both)"
            )
        if self.start == "sft" and self.model is not None:
            raise ValueError("start is sft, the previous run's SFT model: leave model out")
        return self
