"""The parameters of a run: what was given, held against what the pipeline takes."""

from __future__ import annotations

from collections.abc import Mapping

from cosalign.domain.errors import nearest
from cosalign.domain.fingerprint import Json
from cosalign.pipelines.ir import ParameterSpec, Pipeline, PipelineError

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list, tuple),
    "STRUCT": (dict,),
}


def run_parameters(pipeline: Pipeline, given: Mapping[str, Json]) -> dict[str, Json]:
    """The pipeline's parameters, defaults filled in.

    Raises:
        PipelineError: One is unknown, missing or of another type.
    """
    for name in given:
        if name not in pipeline.parameters:
            raise PipelineError(
                f"pipeline {pipeline.name!r} takes no parameter {name!r}"
                f"{nearest(name, pipeline.parameters)}"
            )
    found = {name: _run_parameter(name, s, given) for name, s in pipeline.parameters.items()}
    return {name: value for name, value in found.items() if value is not None}


def _run_parameter(name: str, spec: ParameterSpec, given: Mapping[str, Json]) -> Json:
    value = given.get(name, spec.default)
    if value is None:
        if not spec.optional:
            raise PipelineError(f"the pipeline's parameter {name!r} is required, and missing")
        return None
    wrong_bool = isinstance(value, bool) and spec.type != "BOOLEAN"
    if wrong_bool or not isinstance(value, _PYTHON_TYPES[spec.type]):
        raise PipelineError(f"the pipeline's parameter {name!r} is a {spec.type}; found {value!r}")
    return value
