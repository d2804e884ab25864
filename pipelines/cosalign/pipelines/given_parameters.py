"""Parameters of a pipeline as people give them on a command line: ``NAME=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Iterable

from cosalign.domain.errors import UserError
from cosalign.domain.fingerprint import Json
from cosalign.pipelines.ir import ParameterSpec, Pipeline


def given_pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    """Names and values of a repeated option.

    Raises:
        UserError: One is not ``NAME=VALUE``.
    """
    split = [(text, *text.partition("=")) for text in given]
    wrong = [text for text, name, equals, _ in split if not (name and equals)]
    if wrong:
        raise UserError(f"{option} {wrong[0]!r}: write NAME=VALUE")
    return {name: value for _, name, _, value in split}


def given_parameters(pipeline: Pipeline, given: Iterable[str]) -> dict[str, Json]:
    """Parameters with the types that the pipeline wants; what is no text is given as JSON.

    Raises:
        UserError: One is not ``NAME=VALUE``, or its value is not of that type.
    """
    types = pipeline.parameters
    return {
        name: _value(name, text, types.get(name))
        for name, text in given_pairs("--parameter", given).items()
    }


def _value(name: str, text: str, spec: ParameterSpec | None) -> Json:
    if spec is None or spec.type == "STRING":
        return text
    try:
        value: Json = json.loads(text)
    except ValueError:
        raise UserError(f"--parameter {name}={text}: {spec.type} wants JSON") from None
    return value
