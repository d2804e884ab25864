"""What machine time costs, so that a run's bill can be told by region."""

from __future__ import annotations

from pydantic import Field

from cosalign.domain.validation import StrictModel


class PricesGroup(StrictModel):
    """Prices; nothing that a run makes depends on them.

    Attributes:
        currency: What prices are in, for people.
        gpu_hour: Price of one GPU for an hour, its node included; null where it is not known.
        core_hour: Price of one processor core for an hour, of pods without a GPU; null likewise.
    """

    currency: str = Field(default="USD", min_length=1, max_length=10)
    gpu_hour: float | None = Field(default=None, ge=0)
    core_hour: float | None = Field(default=None, ge=0)
