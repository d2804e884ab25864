"""Judges Kubernetes objects by the real schemas, without a cluster.

Kubernetes' own objects go by the schemas that kubernetes-validate carries, strictly, for every
version from 1.29 to 1.37. (Its own functions read a schema anew for each object; this keeps them.)
Custom objects go by the CRDs under ``crds/``, with fields that the API server would drop refused,
and with their CEL rules.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import cel
import yaml
from jsonschema import Draft202012Validator
from openapi_schema_validator import OAS30Validator, oas30_format_checker
from referencing import Registry, Resource
from tests.charts.rendering import CHART, Object

VERSIONS = tuple(f"1.{minor}" for minor in range(29, 38))
CRDS = Path(__file__).parent / "crds"
_SCHEMAS = resources.files("kubernetes_validate") / "kubernetes-json-schema"


def problems(item: Object) -> list[str]:
    """What is wrong with an object, by the schemas of every version that should take it."""
    kind = (item["apiVersion"], item["kind"])
    custom = _custom_schemas()
    if kind in custom:
        return custom_problems(custom[kind], item)
    text = json.dumps(item, sort_keys=True)
    return [problem for version in VERSIONS for problem in _builtin_problems(text, version)]


def custom_problems(schema: Object, item: Object) -> list[str]:
    """What is wrong with a custom object by its kind's schema and rules."""
    validator = OAS30Validator(closed(schema), format_checker=oas30_format_checker)
    found = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(item)]
    whole = _defaulted(schema, item)
    return found or [*_doubled(schema, whole, "$"), *_broken_rules(schema, whole, "$")]


def crd_schema(crd: Object) -> Object:
    """The schema of a CRD's stored version."""
    stored = next(version for version in crd["spec"]["versions"] if version["storage"])
    schema: Object = stored["schema"]["openAPIV3Schema"]
    return schema


@cache
def _builtin_problems(text: str, version: str) -> tuple[str, ...]:
    item = json.loads(text)
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", item["apiVersion"])
    validator = _builtin_validator(version, f"{item['kind'].lower()}-{group}")
    if validator is None:
        return (f"{version}: knows no {item['apiVersion']} {item['kind']}",)
    errors = validator.iter_errors(item)
    return tuple(f"{version}: {error.json_path}: {error.message}" for error in errors)


@cache
def _builtin_validator(version: str, name: str) -> Draft202012Validator | None:
    schema = _SCHEMAS / f"v{version}.0-local-strict" / f"{name}.json"
    if not schema.is_file():
        return None
    return Draft202012Validator(
        json.loads(schema.read_text("utf-8")), registry=_definitions(version)
    )


@cache
def _definitions(version: str) -> Registry[Any]:
    text = (_SCHEMAS / f"v{version}.0-local-strict" / "_definitions.json").read_text("utf-8")
    registry: Registry[Any] = Resource.from_contents(json.loads(text)) @ Registry()
    return registry


@cache
def _custom_schemas() -> dict[tuple[str, str], Object]:
    found = {}
    for path in [*CRDS.glob("*.yaml"), *(CHART / "crds").glob("*.yaml")]:
        spec = yaml.load(path.read_text("utf-8"), yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            found[key] = version["schema"]["openAPIV3Schema"]
    return found


def closed(node: Object) -> Object:
    """A CRD's schema that refuses fields which the API server would drop without a word."""
    result = dict(node)
    if "properties" in node:
        result["properties"] = {name: closed(sub) for name, sub in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            result[key] = closed(node[key])
    if node.get("x-kubernetes-list-type") == "set":
        result["uniqueItems"] = True
    return result


def _defaulted(schema: Object, value: Any) -> Any:
    """With the schema's defaults filled in, as rules see an object."""
    if isinstance(value, list):
        return [_defaulted(schema.get("items", {}), item) for item in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    absent = {
        name: copy.deepcopy(sub["default"])
        for name, sub in known.items()
        if "default" in sub and name not in value
    }
    others = schema.get("additionalProperties")
    others = others if isinstance(others, dict) else {}
    # A default may have defaults within it.
    whole = absent | value
    return {key: _defaulted(known.get(key, others), sub) for key, sub in whole.items()}


def _doubled(schema: Object, value: Any, where: str) -> Iterator[str]:
    """Entries of a list-map that share their keys, which no JSON schema can refuse."""
    if isinstance(value, dict):
        for name, sub in value.items():
            yield from _doubled(schema.get("properties", {}).get(name, {}), sub, f"{where}.{name}")
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        seen = [tuple(item.get(key) for key in keys) for item in value if keys]
        yield from (f"{where}: {entry} stands twice" for entry in seen if seen.count(entry) > 1)
        for index, item in enumerate(value):
            yield from _doubled(schema.get("items", {}), item, f"{where}[{index}]")


def _broken_rules(schema: Object, value: Any, where: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        # A rule about a change has nothing to say of one object.
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
            yield f"{where}: {rule.get('message', rule['rule'])}"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_rules(schema.get("items", {}), item, f"{where}[{index}]")
    if isinstance(value, dict):
        others = schema.get("additionalProperties")
        others = others if isinstance(others, dict) else {}
        for name, sub in value.items():
            below = schema.get("properties", {}).get(name, others)
            yield from _broken_rules(below, sub, f"{where}.{name}")


def _holds(rule: str, value: Any) -> bool:
    try:
        return bool(cel.evaluate(rule, {"self": value}))
    except (LookupError, RuntimeError, TypeError, ValueError):
        return False  # as the API server does with a rule that fails
