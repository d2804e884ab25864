"""Who is measured: a model, and what is done with it when it is asked.

The baselines of the paper's Table 3 differ in the second alone, so a system is both, and a plain
word names each of the usual ones. Word and settings mean the same: a run config that says ``ica``
and one that spells it out have one fingerprint.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from cosalign.domain.run_config.engine import SERVED_SCHEME
from cosalign.domain.run_config.judging import LABELS, SecondJudge
from cosalign.domain.validation import StrictModel

Method = Literal["plain", "config", "demonstrations", "cascade", "cascade_oracle", "best_of_n"]


class SystemSettings(StrictModel):
    """One system.

    Attributes:
        name: What it is called in tables and in the report.
        model: ``base``, ``sft``, ``dpo``, or a model's address, ``served:NAME`` among them.
        method: ``plain`` asks without a config, ``config`` with it as system prompt (in-context
            alignment). ``demonstrations`` puts replies of the training data under the same or a
            like config between the two. ``cascade`` declines where a filter finds that the answer
            under the config breaks it; ``cascade_oracle`` has the scoring judge as filter.
            ``best_of_n`` draws several answers and takes the one of lowest error by the scoring
            judge.
        demonstrations: How many replies are shown.
        samples: How many answers are drawn.
        temperature: At which they are drawn.
        top_p: Likewise.
        filter: Who filters a cascade; the answering model itself, asked for labels, where null.
    """

    name: str = Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][\w.:@-]*$")
    model: str = Field(default="base", min_length=1)
    method: Method = "config"
    demonstrations: int = Field(default=5, ge=1)
    samples: int = Field(default=4, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=0.95, gt=0, le=1)
    filter: SecondJudge | None = None

    @field_validator("filter")
    @classmethod
    def _names_a_mode(cls, value: SecondJudge | None) -> SecondJudge | None:
        if value is not None and value.model is None:
            raise ValueError("name the filter's model; without a filter the system's own is taken")
        return value

    @model_serializer(mode="wrap")
    def _as_written(self, default: SerializerFunctionWrapHandler) -> Any:
        """The plain word where there is one, so that both forms are one config."""
        if self == SYSTEMS.get(self.name):
            return self.name
        return self.model if self == _served(self.model) else default(self)

    @property
    def filter_mode(self) -> str:
        """How a cascade's filter is asked."""
        return self.filter.mode if self.filter is not None else LABELS


SYSTEMS = {
    settings.name: settings
    for settings in (
        SystemSettings(name="base", method="plain"),
        SystemSettings(name="ica"),
        SystemSettings(name="sft", model="sft"),
        SystemSettings(name="dpo", model="dpo"),
        SystemSettings(name="ica_k", method="demonstrations"),
        SystemSettings(name="cascade", method="cascade"),
        SystemSettings(name="cascade_oracle", method="cascade_oracle"),
        SystemSettings(name="best_of_n", method="best_of_n"),
    )
}
"""The usual systems by name."""


def _served(address: str) -> SystemSettings | None:
    """A served model by its address alone; its name is without its folder and its tokenizer."""
    if not address.startswith(SERVED_SCHEME):
        return None
    model = address.partition("?")[0].removeprefix(SERVED_SCHEME)
    name = model.rpartition("/")[2]
    return SystemSettings(name=f"{SERVED_SCHEME}{name}", model=address)


def _spelt_out(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = SYSTEMS.get(value) or _served(value)
    if found is None:
        words = ", ".join(SYSTEMS)
        raise ValueError(
            f"a system is one of {words}, {SERVED_SCHEME}NAME, or settings with a name; "
            f"found {value[:60]!r}"
        )
    return found


SystemEntry = Annotated[
    SystemSettings, BeforeValidator(_spelt_out, json_schema_input_type=str | SystemSettings)
]
"""A system's settings, or the plain word for a usual one."""
