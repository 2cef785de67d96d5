# SPDX-License-Identifier: GPL-2.0-or-later
"""Our modules and what they import, each parsed once for all tests."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def modules_below(folder: Path) -> dict[str, Path]:
    """Each by its full name. A package's own code is in its __init__."""
    top = folder.parent
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(top).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def imports_of(tree: ast.AST) -> tuple[str, ...]:
    """Every module that is imported anywhere; `from a import b` counts as both a and a.b.

    A relative import keeps its dots, and so is a module that nothing allows.
    """
    return tuple(_find_imports(tree))


def _find_imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)
