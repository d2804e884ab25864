"""Writes what the chart is given by other files: pipelines, the values' schema, the README.

A chart is installed from Git, so what it ships must lie in it, as copies and not as links (Flux
drops links from what it fetches). Copies go stale; hence one program that makes all of them, and
``--check``, which CI runs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cosalign.domain.increment_policy import IncrementPolicy
from cosalign.domain.run_config import RunConfig
from cosalign.domain.run_config.increment import IncrementGroup
from cosalign.domain.taxonomy import parse_taxonomy, shipped_taxonomies
from cosalign.pipelines.compilation import GRAPHS
from cosalign.retraining.reconcile_setup import SET_BY_RECONCILE
from cosalign.retraining.shipped_pipelines import compiled_path, shipped_pipeline

CHARTS = Path(__file__).parent
CHART = CHARTS / "cosalign"
CRD = CHART / "crds" / "safetyconfigs.cosalign.dev.yaml"
RULES = CHARTS.parent / "manifests" / "crds" / CRD.name
_RULES_TOP = """\
# The SafetyConfig kind with CEL rules, for servers from 1.25 on: in place of the chart's own file,
#   kubectl apply --server-side -f manifests/crds
# Made from charts/cosalign/crds and the shipped taxonomies by `make chart`.
"""
README_TOP = CHARTS / "readme.top.md"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):")
_PARAMETER_TYPES = {
    "STRING": "string",
    "NUMBER_INTEGER": "integer",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "boolean",
    "LIST": "array",
    "STRUCT": "object",
}
"""A parameter's type in the IR, and in JSON Schema."""


def pipeline_files() -> dict[Path, str]:
    """The compiled pipelines and their platform settings, where templates can read them."""
    folder = CHART / "files" / "pipelines"
    found = [file for name in GRAPHS for file in _compiled_files(name)]
    return {folder / file.name: file.read_text("utf-8") for file in found}


def _compiled_files(name: str) -> list[Path]:
    pipeline = compiled_path(name)
    platform = pipeline.with_name(f"{name}-platform.json")
    return [pipeline, platform] if platform.is_file() else [pipeline]


def values_schema() -> str:
    """The schema of values: ours, the run config's, a safety config's, and parameters' types."""
    schema = yaml.safe_load((CHARTS / "values.schema.yaml").read_text("utf-8"))
    run_config = _plain(RunConfig.model_json_schema())
    schema["$defs"] |= run_config.pop("$defs")
    schema["$defs"]["RunConfig"] = run_config
    schema["$defs"]["IncrementPolicy"] = _plain(IncrementPolicy.model_json_schema())
    schema["$defs"]["IncrementSettings"] = _increment_settings()
    schema["$defs"]["PipelineParameters"] = _pipeline_parameters()
    crd = yaml.safe_load(CRD.read_text("utf-8"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    schema["$defs"]["SafetyConfigSpec"] = _closed(spec)
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _increment_settings() -> dict[str, Any]:
    """What of the run config's group ``increment`` is the platform team's to set."""
    group: dict[str, Any] = _plain(IncrementGroup.model_json_schema())
    del group["required"]
    kept = group["properties"].keys() - SET_BY_RECONCILE
    group["properties"] = {name: group["properties"][name] for name in sorted(kept)}
    return group


def _pipeline_parameters() -> dict[str, Any]:
    """What parameters of the pipelines may be: a version keeps a wrong default for ever."""
    kinds = {
        name: spec["parameterType"]
        for pipeline in GRAPHS
        for name, spec in shipped_pipeline(pipeline).parameters.items()
        if not name.endswith("_image")
    }
    known = {name: {"type": _PARAMETER_TYPES[kind]} for name, kind in sorted(kinds.items())}
    return {"type": "object", "properties": known}


def _plain(node: Any) -> Any:
    """Without titles, docstrings and defaults, which no check needs."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        if key == "properties":
            # Here keys are names of settings, some of which are called as keywords are.
            kept[key] = {name: _plain(sub) for name, sub in value.items()}
        elif key not in ("title", "description", "default"):
            kept[key] = _plain(value)
    return kept


def _closed(node: dict[str, Any]) -> dict[str, Any]:
    """A CRD's schema as JSON Schema: what the API server would drop is refused, no ``x-``."""
    kept = {
        key: value
        for key, value in node.items()
        if not key.startswith("x-") and key != "description"
    }
    if "properties" in node:
        kept["properties"] = {name: _closed(sub) for name, sub in node["properties"].items()}
        kept["additionalProperties"] = False
    if "items" in node:
        kept["items"] = _closed(node["items"])
    if node.get("x-kubernetes-list-type") == "set":
        kept["uniqueItems"] = True
    return kept


def crd_with_rules() -> str:
    """The CRD with CEL rules, for servers from 1.25 on; older ones refuse a CRD that has any."""
    crd = yaml.safe_load(CRD.read_text("utf-8"))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec = schema["properties"]["spec"]
    # A rule says in words what "must validate one and only one schema" leaves to be guessed.
    del spec["oneOf"]
    spec["x-kubernetes-validations"] = list(_rules())
    return _RULES_TOP + yaml.safe_dump(crd, sort_keys=False, width=120)


def _rules() -> Iterator[dict[str, str]]:
    """What a server can say of a config by itself, in words that help."""
    yield {
        "rule": "has(self.allowedRisks) != has(self.text)",
        "message": "exactly one of allowedRisks and text; write 'allowedRisks: []' to allow none",
    }
    both_dates = "has(self.effectiveFrom) && has(self.expires) && size(self.effectiveFrom) == 10"
    yield {
        # Moments with zones are left to whoever can compare them.
        "rule": f"!({both_dates} && size(self.expires) == 10) || self.effectiveFrom < self.expires",
        "message": "expires is not after effectiveFrom",
    }
    for text in shipped_taxonomies().values():
        taxonomy = parse_taxonomy(text, "shipped taxonomy")
        ours = (
            f"!has(self.allowedRisks) || self.taxonomy.name != '{taxonomy.name}' || "
            f"self.taxonomy.version != '{taxonomy.version}'"
        )
        yield {
            "rule": f"{ours} || !('{taxonomy.names[-1]}' in self.allowedRisks)",
            "message": f"{taxonomy.names[-1]} is the catch-all and can never be allowed",
        }
        names = ", ".join(f"'{name}'" for name in taxonomy.names)
        yield {
            "rule": f"{ours} || self.allowedRisks.all(risk, risk in [{names}])",
            "message": (
                f"allowedRisks holds what is no risk of {taxonomy.name} {taxonomy.version}; there "
                f"are {', '.join(taxonomy.names[:-1])}"
            ),
        }


def readme() -> str:
    """The chart's README: what stands at its top, and a table of all documented values."""
    rows = documented_values((CHART / "values.yaml").read_text("utf-8"))
    table = ["| value | default | what it is |", "| --- | --- | --- |"]
    table += [f"| `{path}` | `{default}` | {text} |" for path, default, text in rows]
    return README_TOP.read_text("utf-8") + "\n" + "\n".join(table) + "\n"


def documented_values(text: str) -> list[tuple[str, str, str]]:
    """Path, default as JSON, and description of every value with a ``# --`` comment.

    Raises:
        ValueError: A value has neither a comment nor documented values below it.
    """
    values = yaml.safe_load(text)
    rows: list[tuple[str, str, str]] = []
    path: list[str] = []
    comment = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = stripped.removeprefix("# -- ")
            continue
        key = _KEY.match(line)
        if key is None:
            continue
        depth = len(key["indent"]) // 2
        path = [*path[:depth], key["key"]]
        if comment:
            default = json.dumps(_at(values, path), ensure_ascii=False).replace("|", "\\|")
            rows.append((".".join(path), default, comment.replace("|", "\\|")))
        comment = ""
    _all_documented(values, [row[0] for row in rows])
    return rows


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def _all_documented(values: dict[str, Any], documented: list[str], prefix: str = "") -> None:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in documented:
            continue
        if not isinstance(value, dict) or not value:
            raise ValueError(f"values.yaml: {path} has no '# --' comment")
        _all_documented(value, documented, f"{path}.")


def generated() -> dict[Path, str]:
    """Every generated file with the content that it should have."""
    return {
        **pipeline_files(),
        CHART / "values.schema.json": values_schema(),
        CHART / "README.md": readme(),
        RULES: crd_with_rules(),
    }


def stale() -> list[Path]:
    """Generated files that are missing, differ from what they should be, or have no source."""
    wanted = generated()
    differ = [
        path
        for path, text in wanted.items()
        if not path.is_file() or path.read_text("utf-8") != text
    ]
    return differ + [path for path in _shipped_pipelines() if path not in wanted]


def _shipped_pipelines() -> list[Path]:
    return sorted((CHART / "files" / "pipelines").glob("*"))


def main(arguments: list[str]) -> int:
    """Writes the files, or with ``--check`` names the stale ones; gives the exit code."""
    if arguments == ["--check"]:
        found = [str(path.relative_to(CHARTS.parent)) for path in stale()]
        if found:
            print(f"charts: not current: {', '.join(found)}; run `make chart`", file=sys.stderr)
        return 2 if found else 0
    wanted = generated()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for path in _shipped_pipelines():
        if path not in wanted:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
