"""Judges a TrainJob as the API server does: by the schema and the rules of Trainer's own CRD."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import yaml
from tests.charts.object_schemas import CRDS, crd_schema, custom_problems

Object = dict[str, Any]


def train_job_problems(job: Object) -> list[str]:
    """What the API server would refuse a TrainJob for; empty for a good one."""
    return custom_problems(_schema(), job)


def with_defaults(job: Object) -> Object:
    """The TrainJob with the CRD's defaults for its runtime, as the server stores it."""
    reference = _schema()["properties"]["spec"]["properties"]["runtimeRef"]["properties"]
    filled = {name: sub["default"] for name, sub in reference.items() if "default" in sub}
    stored = copy.deepcopy(job)
    stored["spec"]["runtimeRef"] = filled | stored["spec"]["runtimeRef"]
    return stored


@cache
def _schema() -> Object:
    text = (CRDS / "trainer.kubeflow.org_trainjobs.yaml").read_text("utf-8")
    return crd_schema(yaml.load(text, yaml.CSafeLoader))
