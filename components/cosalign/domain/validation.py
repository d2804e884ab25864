"""Turns pydantic's findings into one message that a person can act on.

A finding names the field as it stands in the file (``spec.allowedRisks[1]``), the value, and, for
an unknown field, the nearest field that exists there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from cosalign.domain.errors import UserError, nearest

Model = TypeVar("Model", bound=BaseModel)
_SHOWN = 60


class StrictModel(BaseModel):
    """Base of all that is read from files: frozen, no unknown fields, no silent coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def validated(
    model: type[Model], value: Mapping[str, Any], source: str, error: type[UserError]
) -> Model:
    """Builds ``model`` from plain data, or raises ``error`` with every finding in one message."""
    try:
        # Through JSON: there a list may become a tuple, and still no string a number.
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError) as problem:
        raise error(f"{source}: holds something that JSON cannot say ({problem})") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as problem:
        findings = [_finding(model, item) for item in problem.errors(include_url=False)]
    raise error("\n".join(f"{source}: {line}" for line in findings))


def _finding(model: type[BaseModel], item: Any) -> str:
    where = _path(item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        return f"{where}: unknown field{nearest(str(item['loc'][-1]), known)}"
    if item["type"] == "missing":
        return f"{where}: required, and missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    if isinstance(item["input"], bool) and "string" in message:
        message += f" (YAML reads unquoted yes, no, on, off as a boolean: write {where} in quotes)"
    return f"{where}: {message}{_value(item)}"


def _value(item: Any) -> str:
    value = item["input"]
    # A long text may be a prompt, which no message may carry.
    silent = item["type"] in ("value_error", "string_too_long")
    if silent or isinstance(value, dict | BaseModel):
        return ""
    shown = repr(value)
    return f"; found {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}"


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "the file"


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that exist at a location, following nested models."""
    current: type[BaseModel] | None = model
    for part in location:
        if current is None or isinstance(part, int):
            continue
        fields = {(f.alias or name): f.annotation for name, f in current.model_fields.items()}
        current = _model_in(fields.get(part))
    if current is None:
        return []
    return [f.alias or name for name, f in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
