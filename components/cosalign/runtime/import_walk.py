"""What a container's entry imports, all that is reachable from it, found without importing.

Heavy imports stand inside functions, so an image that lacks one starts well and fails hours later.
This walk reads the source: imports at any depth, of the project's own modules and, through them, of
other distributions. The images' self-test and the test of their lock files both rest on it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import cosalign

OWN = "cosalign"


def third_party_imports(*entries: str) -> dict[str, str]:
    """Top-level names that modules import, directly or through the project's own modules.

    Imports under ``if TYPE_CHECKING`` do not count.

    Args:
        entries: Modules to begin with, such as ``cosalign.scoring.__main__``.

    Returns:
        For each name the first of the project's modules found to import it.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop(0)
        path = _source(module)
        if module in seen or path is None:
            continue
        seen.add(module)
        for name in _imported(path):
            top = name.partition(".")[0]
            if top == OWN:
                waiting.append(name)
            elif top not in sys.stdlib_module_names:
                found.setdefault(top, module)
    return dict(sorted(found.items()))


def _source(module: str) -> Path | None:
    """The file of one of the project's modules; ``None`` for a name inside one."""
    own = Path(*module.split(".")[1:])
    for folder in cosalign.__path__:
        for file in (Path(folder, own).with_suffix(".py"), Path(folder, own, "__init__.py")):
            if file.is_file():
                return file
    return None


def _imported(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"), str(path))
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            # ``from cosalign.domain import errors`` names a module, ``import CosalignError`` none.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes that can run, so none under ``if TYPE_CHECKING``; expressions hold no imports."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not (isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"):
            waiting += [n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.expr)]
