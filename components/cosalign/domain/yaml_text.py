"""YAML as Kubernetes reads it: no dates made of strings, no key written twice.

PyYAML turns ``2026-01-01`` into a date, takes JSON's ``1e-05`` for a string and lets a second
``allowedRisks`` overwrite the first in silence. The first two break "the same file is a Kubernetes
object" and "JSON is YAML"; the third hides a policy.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from cosalign.domain.errors import UserError


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that keeps timestamps as strings and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, _bad_key(key), key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _StrictDumper(yaml.SafeDumper):
    """A SafeDumper that quotes what :class:`_StrictLoader` would not read as a string."""


def _bad_key(key: Any) -> str:
    return f"the key {key!r} " + ("stands twice" if isinstance(key, Hashable) else "is no name")


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_JSON_FLOAT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
for _class in (_StrictLoader, _StrictDumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _JSON_FLOAT, list("-+0123456789"))


def dump_yaml(value: Any) -> str:
    """Plain data as YAML text that :func:`parse_yaml` reads back unchanged."""
    text: str = yaml.dump(value, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True)
    return text


def yaml_value(text: str) -> Any:
    """Any YAML value, a single number or string too.

    Raises:
        yaml.YAMLError: It is not YAML.
    """
    # A SafeLoader subclass: it can make only plain data.
    return yaml.load(text, Loader=_StrictLoader)  # noqa: S506


def parse_yaml(text: str, source: str, error: type[UserError]) -> dict[str, Any]:
    """Parses a YAML mapping.

    Args:
        text: The YAML (or JSON) text.
        source: Where it is from, for messages.
        error: The class raised for anything that is not one mapping.
    """
    try:
        value = yaml_value(text)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(problem, "problem", None) or "not YAML"
        raise error(f"{source}{where}: {what}") from None
    if not isinstance(value, dict):
        kind = "empty" if value is None else f"a {type(value).__name__}"
        raise error(f"{source}: expected a mapping of fields, found {kind}")
    return value
