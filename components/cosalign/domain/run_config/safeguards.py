"""Settings that keep a training from starting over, and from going on when it went wrong."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cosalign.domain.validation import StrictModel

Keep = Literal["best", "last"]


class SafeguardSettings(StrictModel):
    """What a training stage saves, watches and forgives.

    Attributes:
        save_steps: Steps between checkpoints.
        save_minutes: A checkpoint is also made in time for at most so many minutes of work to be
            lost; by steps alone where null.
        keep_checkpoints: How many of the last checkpoints are kept.
        eval_steps: Steps between measurements on the development split; none where null. The best
            model by them is stored too, whichever the stage leaves.
        eval_rows: Rows of that split that are measured at most, a seeded choice.
        keep: Which model the stage leaves: the ``last``, as the paper, or the ``best`` by the loss
            on the development split.
        max_skipped_batches: Batches with a loss or gradient that is not finite are left out; with
            more than so many the stage fails.
    """

    save_steps: int = Field(default=25, ge=1)
    save_minutes: float | None = Field(default=10.0, gt=0)
    keep_checkpoints: int = Field(default=2, ge=1)
    eval_steps: int | None = Field(default=None, ge=1)
    eval_rows: int = Field(default=512, ge=1)
    keep: Keep = "last"
    max_skipped_batches: int = Field(default=5, ge=0)

    @model_validator(mode="after")
    def _best_of_something(self) -> Self:
        if self.keep == "best" and self.eval_steps is None:
            raise ValueError("keep: best needs eval_steps, to know which model is the best")
        return self


WITHOUT_EFFECT = frozenset(
    {"save_steps", "save_minutes", "keep_checkpoints", "max_skipped_batches"}
)
"""Settings of a stage that change how it gets to its result, and never the result."""
