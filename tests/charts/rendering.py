"""Renders the chart with the real helm, and says what it refuses."""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.charts.kubernetes_tools import helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "cosalign"
VALUE_SETS = sorted(path.name for path in (CHART / "ci").glob("*-values.yaml"))

Object = dict[str, Any]
Values = dict[str, Any]

NEEDED: Values = {"images": {"registry": "registry.example/cosalign", "allowTags": True}}
"""The least that a release has to say."""


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs helm, away from the user's own settings."""
    with tempfile.TemporaryDirectory() as home:
        return subprocess.run(
            [helm(), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={"HOME": home, "PATH": "/usr/bin:/bin"},
        )


def objects_in(text: str) -> list[Object]:
    """The objects of a YAML stream, read as YAML 1.1, so that an unquoted ``no`` shows as false."""
    return [item for item in yaml.load_all(text, yaml.CSafeLoader) if item]


@cache
def _rendered_text(values: str, *arguments: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(values)
        file.flush()
        done = run_helm("template", "rel", str(CHART), "-n", "space", "-f", file.name, *arguments)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


class Refused(Exception):
    """Helm rendered nothing; the message is what a user sees."""


def render(values: Values | None = None, *arguments: str) -> list[Object]:
    """The objects that values (over what every release has to say) make."""
    text = json.dumps(merged(NEEDED, values or {}))
    return copy.deepcopy(objects_in(_rendered_text(text, *arguments)))


def render_set(name: str) -> list[Object]:
    """The objects that a value set under ``ci/`` makes."""
    text = (CHART / "ci" / name).read_text("utf-8")
    return copy.deepcopy(objects_in(_rendered_text(text)))


def refusal(values: Values, *arguments: str) -> str:
    """What helm says against values; fails where it says nothing."""
    try:
        render(values, *arguments)
    except Refused as refused:
        return str(refused)
    raise AssertionError(f"helm rendered {values}")


def merged(base: Values, over: Values) -> Values:
    """Values over others, as helm lays them."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            result[key] = merged(below, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """The objects of a kind by name."""
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def the(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of a kind and name."""
    found = of_kind(objects, kind)
    assert name in found, f"no {kind} {name!r} among {sorted(found)}"
    return found[name]
