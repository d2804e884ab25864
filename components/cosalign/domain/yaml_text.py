"""YAML as Kubernetes reads it: no dates made of strings, no key written twice.

PyYAML turns ``2026-01-01`` into a date and lets a second ``allowedRisks`` overwrite the first in
silence. The first breaks "the same file is a Kubernetes object"; the second hides a policy.
"""

from __future__ import annotations

from typing import Any

import yaml

from cosalign.domain.errors import UserError


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that keeps timestamps as strings and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, source: str, error: type[UserError]) -> dict[str, Any]:
    """Parses a YAML mapping.

    Args:
        text: The YAML (or JSON) text.
        source: Where it is from, for messages.
        error: The class raised for anything that is not one mapping.
    """
    try:
        # A SafeLoader subclass: it can make only plain data.
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(problem, "problem", None) or "not YAML"
        raise error(f"{source}{where}: {what}") from None
    if not isinstance(value, dict):
        kind = "empty" if value is None else f"a {type(value).__name__}"
        raise error(f"{source}: expected a mapping of fields, found {kind}")
    return value
